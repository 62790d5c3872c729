"""Up to which frequency x0hat can be read from the first latent: the spectrum of real latents against the schedule.

    python benchmarks/readable.py [--pictures 500] [--seed 2026]

docs/steering.md says what the numbers mean.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib_oms.embedded import draw
from lib_oms.embedded.load import load_pipeline
from lib_oms.step.frequencies import _basis

BATCH = 25


@torch.no_grad()
def spectrum(pictures: int, seed: int) -> tuple[torch.Tensor, float]:
    """S: the variance of each DCT coefficient over pictures, mean over channels [h, w]; and a at the last timestep."""
    pipe = load_pipeline()
    latents = []
    for start in range(0, pictures, BATCH):
        drawn, _ = draw.dataset(min(BATCH, pictures - start), seed, start=start)
        shown = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents.append(pipe.vae.encode(shown).latent_dist.mode() * pipe.vae.config.scaling_factor)
    found = torch.cat(latents).double()
    down, across = (_basis(side, side) for side in found.shape[-2:])
    return (down @ found @ across.T).var(dim=0).mean(dim=0), float(pipe.scheduler.alphas_cumprod[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    S, a = spectrum(args.pictures, args.seed)
    print(f"sigma^2 = (1 - a) / a = {(1 - a) / a:.1f}, {args.pictures} pictures")
    print("| ring u | S | a S / (1 - a) | share of the noise that is read, w |\n|---|---|---|---|")
    ring = torch.maximum(*torch.meshgrid(*(torch.arange(side) for side in S.shape), indexing="ij"))
    for u in range(10):
        power = float(S[ring == u].mean())
        ratio = a * power / (1 - a)
        print(f"| {u} | {power:.1f} | {ratio:.2f} | {ratio / (1 + ratio):.2f} |")


if __name__ == "__main__":
    main()
