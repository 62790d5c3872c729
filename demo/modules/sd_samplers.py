"""The list of samplers (host file: modules/sd_samplers.py)."""

from typing import Any

from modules import sd_samplers_kdiffusion, sd_samplers_timesteps, sd_schedulers
from modules.sd_samplers_common import Sampler, SamplerData

all_samplers: list[SamplerData] = [
    *sd_samplers_kdiffusion.samplers_data_k_diffusion,
    *sd_samplers_timesteps.samplers_data_timesteps,
    *sd_samplers_kdiffusion.samplers_data_lcm,
]
all_samplers_map = {x.name: x for x in all_samplers}


def create_sampler(name: str | None, model: Any) -> Sampler:
    config = all_samplers[0] if name is None else all_samplers_map.get(name)
    assert config is not None, f"bad sampler name: {name}"
    sampler = config.constructor(model)
    sampler.config = config
    return sampler


def visible_sampler_names() -> list[str]:
    return [x.name for x in all_samplers]


def get_sampler_and_scheduler(
    sampler_name: str | None, scheduler_name: str | None, *, convert_automatic: bool = True
) -> tuple[str, str]:
    """Names as the host has them now; the old "DPM++ 2M Karras" is taken apart, unknown names become the default."""
    found = sd_schedulers.schedulers_map.get(scheduler_name, sd_schedulers.schedulers[0])
    name = sampler_name or all_samplers[0].name
    for scheduler in sd_schedulers.schedulers:
        for suffix in (scheduler.label, scheduler.name, *scheduler.aliases):
            if name.endswith(f" {suffix}"):
                found, name = scheduler, name[: -len(suffix) - 1]
    sampler = all_samplers_map.get(name, all_samplers[0])
    if convert_automatic and sampler.options.get("scheduler") == found.name:
        found = sd_schedulers.schedulers[0]
    return sampler.name, found.label


def get_sampler_from_infotext(d: dict) -> str:
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[0]


def get_scheduler_from_infotext(d: dict) -> str:
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[1]


def fix_p_invalid_sampler_and_scheduler(p: Any) -> None:
    p.sampler_name, p.scheduler = get_sampler_and_scheduler(p.sampler_name, p.scheduler, convert_automatic=False)
