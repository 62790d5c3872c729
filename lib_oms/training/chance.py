"""Random numbers of a training, each a function of the seed, what it is for, and a number such as the step's."""

from __future__ import annotations

import hashlib

import torch


def permutation(count: int, seed: int, purpose: str, number: int) -> torch.Tensor:
    """A shuffled 0 .. count - 1 [count], always the same for the same seed, purpose and number."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_for(seed, purpose, number)))


def seed_for(seed: int, purpose: str, number: int = 0) -> int:
    """A generator's seed (63 bits) for a purpose, unrelated to those of other purposes, steps and seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()[:8], "big") >> 1


def chance(seed: int, purpose: str, number: int) -> float:
    """A number from 0 to below 1, evenly distributed."""
    return seed_for(seed, purpose, number) / 2**63
