"""One pair of pictures, without and with One More Step, through the API that everybody else uses."""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from demo import server

PROMPT = "black background"
SEED = 1


def generate(url: str, **request: object) -> tuple[Image.Image, str]:
    """The first picture of a txt2img request, and its infotext. Raises RuntimeError with the server's answer."""
    response = requests.post(f"{url}/sdapi/v1/txt2img", json=request)
    if not response.ok:
        raise RuntimeError(f"txt2img failed: {response.text}")
    answer = response.json()
    return Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))), json.loads(answer["info"])["infotexts"][0]


def run(argv: list[str]) -> int:
    """Prints the brightness of both pictures and where they are; 1 if either failed or the step did not run."""
    with server.start(["--port", "0", *argv]) as running:
        from modules import paths

        print(f'prompt: "{PROMPT}", seed {SEED}')
        for name, scripts in (("raw", {}), ("OMS", {"One More Step": {"args": [True]}})):
            try:
                image, infotext = generate(
                    running.url, prompt=PROMPT, seed=SEED, sampler_name="Euler", cfg_scale=3.0, alwayson_scripts=scripts
                )
            except RuntimeError as error:
                print(error, file=sys.stderr)
                return 1
            file = Path(paths.data_path) / f"once-{name.lower()}.png"
            image.save(file)
            brightness = np.asarray(image.convert("RGB")).mean() / 255  # 0 is black, 1 white
            print(f"{name} brightness: {brightness:.3f}  ({file})")
    if "OMS" not in infotext:
        print("The step did not run: the infotext does not mention it. The log above tells why.", file=sys.stderr)
        return 1
    return 0
