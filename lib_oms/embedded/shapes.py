"""A small network that tells the shapes of `draw.py` apart: it judges whether a picture shows what was asked for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from lib_oms.embedded import MODEL_DIR, draw
from lib_oms.embedded.loop import Plan, Training

SIZE = 64
"""Pictures are reduced to this many pixels a side."""
FILE = Path("shape_classifier") / "model.safetensors"
STYLES = ("plain", "shadow", "outlined")


class ShapeClassifier(nn.Sequential):
    """Pictures [B, 3, 64, 64], 0..1, to scores [B, 5] of draw.SHAPES."""

    def __init__(self) -> None:
        widths = (3, 24, 48, 64, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * (SIZE // 16) ** 2, len(draw.SHAPES)))


def drawn_shapes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawn pictures of one shape, uint8 [B, 3, 64, 64], of every style by turns, and which of SHAPES each shows."""
    pictures, names = [], []
    for index in range(count):
        scene = draw.sample_scene(np.random.default_rng((seed, index, 2)), shapes=1)
        pictures.append(np.asarray(draw.draw(scene, style=STYLES[index % 3], size=SIZE)))
        names.append(draw.SHAPES.index(scene.shapes[0].name))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.tensor(names)


def train_classifier(out: Path, work: Path, seed: int, count: int, plan: Plan, device: torch.device) -> float:
    """Trains the classifier, writes it, and returns how often it is right on drawn pictures that it has not seen."""
    torch.manual_seed(seed + 50)
    pictures, names = (tensor.to(device) for tensor in drawn_shapes(count, seed + 51))
    network = ShapeClassifier().to(device)
    generator = torch.Generator(device)

    def loss_of(step: int) -> torch.Tensor:
        generator.manual_seed(seed + step)
        pick = torch.randint(len(pictures), (plan.batch,), generator=generator, device=device)
        x = pictures[pick].float() / 255
        if step % 2:  # samples are less sharp than what is drawn
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        x = x + 0.03 * torch.randn(x.shape, generator=generator, device=device)
        return F.cross_entropy(network(x), names[pick])

    Training("shape classifier", network, plan, work / "shape_classifier").run(loss_of)
    (out / FILE).parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, out / FILE, metadata={"format": "pt"})
    unseen, truth = drawn_shapes(max(20, count // 10), seed + 52)
    return float((classify(unseen.permute(0, 2, 3, 1).numpy() / np.float32(255), out) == truth.numpy()).mean())


@torch.no_grad()
def classify(pictures: np.ndarray, folder: Path = MODEL_DIR) -> np.ndarray:
    """Which of draw.SHAPES each picture shows, [B]; pictures [B, H, W, 3], 0..1."""
    network = ShapeClassifier().eval()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / FILE).items()})
    x = torch.from_numpy(np.asarray(pictures, dtype=np.float32)).permute(0, 3, 1, 2)
    small = torch.cat([F.interpolate(part, size=(SIZE, SIZE), mode="area") for part in x.split(64)])
    return torch.cat([network(part).argmax(dim=1) for part in small.split(64)]).numpy()
