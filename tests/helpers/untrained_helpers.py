"""The embedded model with random weights, made once a run: seconds of work that dozens of tests begin with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock


def place_untrained(folder: Path, seed: int = 0) -> Path:
    """A copy of the untrained model of this seed in `folder`, which must not be there yet; returns it."""
    from lib_oms.embedded.make import write_untrained

    kept = Path(os.environ["OMS_TEST_CACHE"]) / f"untrained-{seed}"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            part = kept.with_suffix(".part")
            write_untrained(part, seed)
            part.rename(kept)
    shutil.copytree(kept, folder)
    return folder
