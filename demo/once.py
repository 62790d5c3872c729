"""One pair of pictures, without and with One More Step, through the API that everybody else uses."""

import base64
import io
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from demo import server

PROMPT = "black background"
SEED = 1


def brightness(image: Image.Image) -> float:
    """Mean of all pixels and colours, 0 (black) to 1 (white)."""
    return float(np.asarray(image.convert("RGB"), dtype=np.float64).mean() / 255)


def generate(url: str, request: dict) -> tuple[Image.Image, str]:
    """The first picture of a txt2img request, and its infotext. Raises RuntimeError with the server's answer."""
    body = json.dumps(request).encode()
    call = urllib.request.Request(f"{url}/sdapi/v1/txt2img", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(call) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as e:
        raise RuntimeError(f"txt2img failed: {e.read().decode(errors='replace')}") from e
    image = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    return image, json.loads(answer["info"])["infotexts"][0]


def run(argv: list[str]) -> int:
    """Prints the brightness of both pictures and where they are; 1 if either failed or the step did not run."""
    with server.start(["--port", "0", *argv]) as running:
        from modules import paths_internal

        request = {"prompt": PROMPT, "seed": SEED, "steps": 20, "sampler_name": "Euler", "cfg_scale": 3.0}
        with_step = {**request, "alwayson_scripts": {"One More Step": {"args": [True]}}}
        try:
            (raw, _), (stepped, infotext) = generate(running.url, request), generate(running.url, with_step)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        print(f'prompt: "{PROMPT}", seed {SEED}')
        for name, image in (("raw", raw), ("OMS", stepped)):
            file = Path(paths_internal.data_path) / f"once-{name.lower()}.png"
            image.save(file)
            print(f"{name} brightness: {brightness(image):.3f}  ({file})")
    if "OMS" not in infotext:
        print("The step did not run: the infotext does not mention it. The log above tells why.", file=sys.stderr)
        return 1
    return 0
