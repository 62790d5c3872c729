"""The same seeds without and with the step: what the page is set to, made twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from modules import processing, scripts, shared
from PIL import Image

from lib_oms.webui import first_pass, host


@dataclass(frozen=True)
class Pair:
    """One seed's two pictures."""

    seed: int
    without: Image.Image
    with_step: Image.Image


def compare(page: Mapping[str, Any], script_args: Sequence[Any]) -> tuple[list[Pair], str]:
    """Makes every picture of a request twice, all of the host's and all extensions' work included but hires. fix, and
    keeps the files where the host keeps those of txt2img. Waits for its turn.

    Args:
        page: values by the names of the host's processing object.
        script_args: what Generate would give to the scripts; a script that is chosen in the dropdown is left out.

    Returns:
        The pairs, fewer where somebody interrupted, and what was said about the pictures made with the step.

    Raises:
        Exception: what generating raises.
    """
    runner = scripts.scripts_txt2img
    own = host.own_script(runner)
    assert own is not None
    args = [0, *script_args[1:]]
    made = []
    with first_pass.turn("One More Step: compare"):
        shared.state.job_count = 2 * page.get("n_iter", 1)
        seeds: dict[str, int] = {}
        for on in (True, False):  # what is wrong with the settings is then told before anything is made
            args[own.args_from] = on
            with closing(_request(page)) as p:
                p.scripts, p.script_args = runner, tuple(args)
                for name, seed in seeds.items():
                    setattr(p, name, seed)
                processing.fix_seed(p)
                seeds = {"seed": p.seed, "subseed": p.subseed}
                made.append(processing.process_images(p))
        if hasattr(shared, "total_tqdm"):
            shared.total_tqdm.clear()
    with_step, without = made
    pairs = [Pair(*three) for three in zip(with_step.all_seeds, without.images, with_step.images, strict=False)]
    return pairs, with_step.comments


def _request(page: Mapping[str, Any]) -> Any:
    """modules/txt2img.py, but for hires. fix and a grid."""
    options = shared.opts
    return processing.StableDiffusionProcessingTxt2Img(
        outpath_samples=getattr(options, "outdir_samples", None) or options.outdir_txt2img_samples,
        outpath_grids=getattr(options, "outdir_grids", None) or options.outdir_txt2img_grids,
        do_not_save_grid=True,
        **page,
    )
