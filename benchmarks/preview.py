"""How near pictures of the embedded model come to what the preview says of them: the table of docs/steering.md."""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ('prompt "gray background"', {"prompt": "gray background"}),
    ('prompt "black background"', {"prompt": "black background"}),
    ('prompt "a blue circle on a white background"', {"prompt": "a blue circle on a white background"}),
    ("color #336699, quiet 4", {"source": "color", "color": "#336699", "quiet": 4}),
)
COUNTS = (0, 1, 2, 4)
"""How many of the noise's low frequencies are added to x0hat."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    sys.path.insert(0, str(ROOT))
    from demo import server

    folder = tempfile.mkdtemp()
    arguments = ["--model", str(ROOT / "models/demo"), "--data-dir", folder, "--extension", str(ROOT), "--port", "0"]
    with server.start(arguments) as running:
        from lib_oms.step import low
        from lib_oms.webui import hook, host

        begun: list[Any] = []
        begin = hook.begin
        hook.begin = lambda *given: begun.append(begin(*given)) or begun[-1]  # type: ignore[func-returns-value]
        without: list[list[float]] = []
        print(f"| what is asked for | {' | '.join(map(str, COUNTS))} |\n|---|{'---|' * len(COUNTS)}")
        for label, settings in ASKED:
            errors = []
            for seed in range(100, 100 + seeds):
                begun.clear()
                made, plain = _made(running.url, seed, [settings]), _made(running.url, seed, [False])
                (start,) = begun[0][1]
                errors.append([_distance(host.shown(start.x0hat + low(start.noise, k)), made) for k in COUNTS])
                without.append([_distance(host.shown(low(start.drawn, k)), plain) for k in COUNTS])
            _line(label, errors)
        _line("nothing: without the step", without)


def _line(label: str, errors: list[list[float]]) -> None:
    print(f"| {label} | {' | '.join(f'{mean:.1f}' for mean in np.mean(errors, axis=0))} |")


def _made(url: str, seed: int, args: list[Any]) -> Image.Image:
    body = {
        **{"prompt": "a red circle", "seed": seed, "width": 256, "height": 256, "steps": 10, "cfg_scale": 3},
        **{"sampler_name": "Euler", "alwayson_scripts": {"One More Step": {"args": args}}},
    }
    answer = requests.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=600)
    answer.raise_for_status()
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))


def _distance(one: Image.Image, other: Image.Image) -> float:
    """Mean distance of two pictures' mean colors, in levels of 255."""
    means = [np.asarray(picture.convert("RGB"), dtype=np.float64).mean(axis=(0, 1)) for picture in (one, other)]
    return float(np.abs(means[0] - means[1]).mean())


if __name__ == "__main__":
    main()
