"""Remakes the README's first picture: `python docs/make_pictures.py`. Needs `pip install -e ".[evaluate]"`."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lib_oms.judging.painter import Painter

IMAGES = Path(__file__).resolve().parent / "images"
PROMPTS = ("a red circle", "a yellow square")
COLOR = "#1f4e79"
SKETCH = Image.fromarray(np.repeat(np.array([[255], [0]], dtype=np.uint8), 2, axis=1)).convert("RGB")
"""Bright above, dark below."""


def main() -> int:
    """Two seeds without the step, and with each way of saying what is wanted, as the page begins."""
    from lib_oms.judging.plots import plt, to_image

    painter = Painter("main", "Euler", 20, 3.0, seed=7)
    prompts = list(PROMPTS)
    columns = {
        "without the step": painter.paint(prompts, oms=False),
        'prompt: "black background"': painter.paint(
            prompts, oms=True, oms_prompts=["black background"] * len(prompts), quiet=1
        ),
        f"color: {COLOR}": painter.paint(prompts, oms=True, color=COLOR),
        "brush: bright above, dark below": painter.paint(prompts, oms=True, picture=SKETCH),
    }
    figure, axes = plt.subplots(len(prompts), len(columns), figsize=(10, 5.2), dpi=100)
    for column, (title, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(to_image(picture))
            axes[row, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(title, fontsize=11)
    for row, prompt in enumerate(prompts):
        axes[row, 0].set_ylabel(prompt, fontsize=11)
    figure.tight_layout()
    figure.savefig(IMAGES / "four-ways.png")
    plt.close(figure)
    print(IMAGES / "four-ways.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
