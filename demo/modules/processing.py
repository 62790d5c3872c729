"""One generation from request to pictures (host file: modules/processing.py)."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launch
import numpy as np
import torch
from modules import (
    devices,
    errors,
    extra_networks,
    images,
    infotext_utils,
    paths,
    rng,
    scripts,
    sd_models,
    sd_samplers,
    sd_samplers_common,
    shared,
)
from modules.shared import cmd_opts, opts, state
from PIL import Image
from torch import Tensor

opt_C = 4  # noqa: N816 - the host's name
opt_f = 8


def call_hook(p: Any, hook: str, *args: Any, **kwargs: Any) -> None:
    """One hook of every script of `p`, which need not have any."""
    if p.scripts is not None:
        getattr(p.scripts, hook)(p, *args, **kwargs)


@dataclass(repr=False)
class StableDiffusionProcessing:
    """A request, and all that becomes of it: `p` in every hook. Defaults of size and steps are the demo's own.

    The API takes names, types and defaults of what a request may ask for from here.
    """

    sd_model: Any = None
    outpath_samples: str | None = None
    outpath_grids: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] | None = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0.0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 256
    height: int = 256
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] | None = None
    eta: float | None = None
    denoising_strength: float | None = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool = True
    disable_extra_networks: bool = False

    scripts = script_args = None
    is_hr_pass = is_api = scripts_are_set_up = False
    iteration = 0
    sampler = rng = c = uc = extra_network_data = sd_model_name = sd_model_hash = None
    all_prompts = all_negative_prompts = all_seeds = all_subseeds = main_prompt = main_negative_prompt = None
    prompts = negative_prompts = seeds = subseeds = None

    def __post_init__(self) -> None:
        self.sd_model = shared.sd_model
        self.comments: dict[str, int] = {}
        self.styles = self.styles or []
        self.extra_generation_params = self.extra_generation_params or {}
        self.override_settings = self.override_settings or {}
        if cmd_opts.host_style == "forge":
            self.modified_noise: Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Runs the setup hook as soon as both the scripts and their arguments are there."""
        super().__setattr__(name, value)
        if name in ("scripts", "script_args") and self.scripts and self.script_args and not self.scripts_are_set_up:
            self.scripts_are_set_up = True
            self.scripts.setup(self)

    def comment(self, text: str) -> None:
        """Shows a line below the picture in the browser; API clients do not get it."""
        self.comments[text] = 1

    def close(self) -> None:
        self.sampler = self.c = self.uc = None

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Called once, after the hook `process` and before the first batch; for kinds of processing to fill in."""

    def setup_prompts(self) -> None:
        count, styles = self.batch_size * self.n_iter, shared.prompt_styles
        self.main_prompt = styles.apply_styles_to_prompt(self.prompt, self.styles)
        self.main_negative_prompt = styles.apply_negative_styles_to_prompt(self.negative_prompt, self.styles)
        self.all_prompts = [self.main_prompt] * count
        self.all_negative_prompts = [self.main_negative_prompt] * count

    def parse_extra_network_prompts(self) -> None:
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def setup_conds(self) -> None:
        self.uc = self.sd_model.get_learned_conditioning(self.negative_prompts)
        self.c = self.sd_model.get_learned_conditioning(self.prompts)

    def start(self, x: Tensor, noise: Tensor, calls: int = 1) -> Tensor:
        """The noise to start from, when the hook has seen it: changed in place, or another one in p.modified_noise."""
        for _ in range(calls):
            call_hook(self, "process_before_every_sampling", x=x, noise=noise, c=self.c, uc=self.uc)
        if cmd_opts.host_style == "forge" and self.modified_noise is not None:
            noise, self.modified_noise = self.modified_noise, None
        return noise


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    """Noise to picture. With `enable_hr` a second pass starts from the first one's latent, enlarged."""

    enable_hr: bool = False
    hr_scale: float = 2.0

    def sample(self, conditioning: Any, unconditional_conditioning: Any, **of_batch: Any) -> Tensor:
        """Latents [B, 4, h, w] of this batch's pictures."""
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        x = self.rng.next()
        noise = self.start(x, x)  # before the sampler's method is looked up: the hook may put another in its place
        samples = self.sampler.sample(self, noise, conditioning, unconditional_conditioning)
        return self._sample_hr_pass(samples) if self.enable_hr else samples

    def _sample_hr_pass(self, samples: Tensor) -> Tensor:
        """Hires. fix with the upscaler "Latent"."""
        self.extra_generation_params["Hires upscale"] = self.hr_scale
        if self.denoising_strength is None:
            self.denoising_strength = 0.75
        self.is_hr_pass = True
        size = [int(n * self.hr_scale) for n in samples.shape[2:]]
        samples = torch.nn.functional.interpolate(samples, size=size, mode="bilinear")
        self.rng = rng.ImageRNG(samples.shape[1:], self.seeds, self.subseeds, self.subseed_strength)
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        call_hook(self, "before_hr")
        noise = self.start(samples, self.rng.next(), calls=2 if cmd_opts.host_style == "forge" else 1)  # Forge's way
        samples = self.sampler.sample_img2img(self, samples, noise, self.c, self.uc)
        self.is_hr_pass = False
        return samples


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    """Picture to picture. Of inpainting there is only that what the mask leaves black stays as it was."""

    init_images: list[Image.Image] | None = None
    mask: Image.Image | None = None
    denoising_strength: float | None = 0.75
    initial_noise_multiplier: float = 1.0
    latent_mask = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_mask, self.mask = self.mask, None

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        picture = self.init_images[0].convert("RGB").resize((self.width, self.height))
        latent = sd_samplers_common.images_tensor_to_samples(_pixels(picture).permute(2, 0, 1)[None], 0, self.sd_model)
        self.init_latent = latent.repeat(self.batch_size, 1, 1, 1)
        if self.image_mask is not None:
            self.mask = 1 - _pixels(self.image_mask.convert("L").resize(latent.shape[:1:-1])).round()

    def sample(self, conditioning: Any, unconditional_conditioning: Any, **of_batch: Any) -> Tensor:
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        noise = self.start(self.init_latent, self.rng.next() * self.initial_noise_multiplier)
        samples = self.sampler.sample_img2img(
            self, self.init_latent, noise, conditioning, unconditional_conditioning
        )
        return samples if self.mask is None else samples * (1 - self.mask) + self.init_latent * self.mask


def _pixels(picture: Image.Image) -> Tensor:
    """[H, W, ...] in 0..1."""
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 255)


_OF_P = (
    "all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds", "subseed_strength", "width", "height",
    "sampler_name", "cfg_scale", "steps", "batch_size", "sd_model_name", "sd_model_hash", "seed_resize_from_w",
    "seed_resize_from_h", "denoising_strength", "extra_generation_params", "styles",
)
"""What a generation's result takes from p."""


class Processed:
    """What a generation gave: pictures, the infotext of each, and what the API returns as "info"."""

    def __init__(
        self, p: StableDiffusionProcessing, images_list: list[Image.Image], seed: int = -1, info: str = "",
        subseed: int | None = None, index_of_first_image: int = 0, infotexts: list[str] | None = None,
    ) -> None:
        self.images = images_list
        self.info = info
        self.infotexts = infotexts or [info] * len(images_list)
        self.comments = "".join(f"{comment}\n" for comment in p.comments)
        for name in _OF_P:
            setattr(self, name, getattr(p, name))
        # None before a generation has begun
        self.prompt = p.all_prompts[0] if p.all_prompts else p.prompt
        self.negative_prompt = p.all_negative_prompts[0] if p.all_negative_prompts else p.negative_prompt
        self.seed, self.subseed = seed, subseed
        self.index_of_first_image = index_of_first_image
        self.job_timestamp = state.job_timestamp
        self.version = launch.git_tag()

    def js(self) -> str:
        """Everything as JSON; a callable among extra_generation_params becomes null, as in the host."""
        facts = {name: value for name, value in vars(self).items() if name not in ("images", "info", "comments")}
        return json.dumps(facts, default=lambda o: None)

    def infotext(self, p: StableDiffusionProcessing, index: int) -> str:
        return create_infotext(
            p, self.all_prompts, self.all_seeds, self.all_subseeds, position_in_batch=index % p.batch_size,
            iteration=index // p.batch_size,
        )


def get_fixed_seed(seed: Any) -> int:
    """`seed`, or a random one for -1 and whatever is no number."""
    try:
        seed = int(seed)
    except (TypeError, ValueError):
        seed = -1
    return random.randrange(4294967294) if seed == -1 else seed


def fix_seed(p: StableDiffusionProcessing) -> None:
    p.seed, p.subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)


def create_infotext(
    p: StableDiffusionProcessing, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int],
    comments: Any = None, iteration: int = 0, position_in_batch: int = 0, use_main_prompt: bool = False,
    index: int | None = None, all_negative_prompts: list[str] | None = None,
) -> str:
    """The infotext of one picture.

    p.extra_generation_params may hold text, a list with an entry for each picture, or a function that is called with
    this function's variables by name. An entry of None is left out; one that raises is reported and left out.
    """
    if use_main_prompt:
        index = 0
    elif index is None:
        index = position_in_batch + iteration * p.batch_size
    if all_negative_prompts is None:
        all_negative_prompts = p.all_negative_prompts
    prompt_text = p.main_prompt if use_main_prompt else all_prompts[index]
    negative_prompt = p.main_negative_prompt if use_main_prompt else all_negative_prompts[index]
    varied = p.subseed_strength != 0
    resized = p.seed_resize_from_w > 0 and p.seed_resize_from_h > 0
    generation_params = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Seed": all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model hash": p.sd_model_hash,
        "Model": p.sd_model_name,
        "Variation seed": all_subseeds[index] if varied else None,
        "Variation seed strength": p.subseed_strength if varied else None,
        "Denoising strength": p.denoising_strength if getattr(p, "enable_hr", False) else None,
        "Seed resize from": f"{p.seed_resize_from_w}x{p.seed_resize_from_h}" if resized else None,
        "ENSD": opts.eta_noise_seed_delta or None,
        "RNG": opts.randn_source if opts.randn_source != "GPU" else None,
        **p.extra_generation_params,
        "Version": launch.git_tag(),
    }
    for key, value in generation_params.items():
        try:
            if isinstance(value, list):
                generation_params[key] = value[index]
            elif callable(value):
                generation_params[key] = value(**locals())
        except Exception:
            errors.report(f'Error creating infotext for key "{key}"', exc_info=True)
            generation_params[key] = None
    parts = [
        key if key == value else f"{key}: {infotext_utils.quote(value)}"
        for key, value in generation_params.items()
        if value is not None
    ]
    negative_prompt_text = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt_text}{negative_prompt_text}\n{', '.join(parts)}".strip()


def process_images(p: StableDiffusionProcessing) -> Processed:
    """All pictures of `p`, with its override_settings in force meanwhile.

    Only options that config.json or an extension put in opts.data are set back afterwards: the host's behaviour.
    """
    call_hook(p, "before_process")
    stored = {k: opts.data[k] for k in p.override_settings if k in opts.data}
    try:
        if sd_models.checkpoint_aliases.get(p.override_settings.get("sd_model_checkpoint")) is None:
            p.override_settings.pop("sd_model_checkpoint", None)
        for key, value in p.override_settings.items():
            opts.set(key, value, is_api=True, run_callbacks=False)
        sd_models.reload_model_weights()
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        return process_images_inner(p)
    finally:
        if p.override_settings_restore_afterwards:
            for key, value in stored.items():
                setattr(opts, key, value)


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    seed, subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)
    p.sd_model_name = p.sd_model.sd_checkpoint_info.name_for_extra
    p.sd_model_hash = p.sd_model.sd_model_hash
    p.setup_prompts()
    count = len(p.all_prompts)
    p.all_seeds = [seed + (i if p.subseed_strength == 0 else 0) for i in range(count)]
    p.all_subseeds = [subseed + i for i in range(count)]
    call_hook(p, "process")

    made: list[tuple[Image.Image, str]] = []
    try:
        # Forge samples in inference mode, which tensors that an extension keeps will remember
        no_grad = torch.inference_mode() if cmd_opts.host_style == "forge" else torch.no_grad()
        with no_grad, devices.autocast():
            p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
            if state.job_count == -1:
                state.job_count = p.n_iter
            for n in range(p.n_iter):
                if state.interrupted or state.stopping_generation:
                    break
                state.skipped = False
                made += _process_batch(p, n)
    finally:
        extra_networks.deactivate()

    shown = [*_grid(p, [image for image, _ in made]), *made]
    infotexts = [text for _, text in shown] or [Processed(p, []).infotext(p, 0)]
    result = Processed(
        p, [image for image, _ in shown], seed=p.all_seeds[0], info=infotexts[0], subseed=p.all_subseeds[0],
        index_of_first_image=len(shown) - len(made), infotexts=infotexts,
    )
    call_hook(p, "postprocess", result)
    return result


def _process_batch(p: StableDiffusionProcessing, n: int) -> list[tuple[Image.Image, str]]:
    """Pictures of the n-th batch with their infotexts."""
    p.iteration = n
    part = slice(n * p.batch_size, (n + 1) * p.batch_size)
    p.prompts, p.negative_prompts = p.all_prompts[part], p.all_negative_prompts[part]
    p.seeds, p.subseeds = p.all_seeds[part], p.all_subseeds[part]
    p.rng = rng.ImageRNG(
        (p.sd_model.latent_channels, p.height // opt_f, p.width // opt_f), p.seeds, subseeds=p.subseeds,
        subseed_strength=p.subseed_strength, seed_resize_from_h=p.seed_resize_from_h,
        seed_resize_from_w=p.seed_resize_from_w,
    )
    batch = {"batch_number": n, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
    call_hook(p, "before_process_batch", **batch)
    if not p.prompts:
        return []
    p.parse_extra_network_prompts()
    batch["prompts"] = p.prompts
    if not p.disable_extra_networks:
        extra_networks.activate(p, p.extra_network_data)
    call_hook(p, "process_batch", **batch)
    p.setup_conds()
    if n == 0:  # before sampling: what the sampling hook adds to infotext is not in params.txt
        text = Processed(p, []).infotext(p, 0)
        (Path(paths.data_path) / "params.txt").write_text(text, encoding="utf8")
    if p.n_iter > 1:
        state.job = f"Batch {n + 1} out of {p.n_iter}"

    samples = p.sample(
        conditioning=p.c, unconditional_conditioning=p.uc, seeds=p.seeds, subseeds=p.subseeds,
        subseed_strength=p.subseed_strength, prompts=p.prompts,
    )
    ps = scripts.PostSampleArgs(samples)
    call_hook(p, "post_sample", ps)
    samples = ps.samples
    devices.test_for_nans(samples, "unet")
    decoded = [p.sd_model.decode_first_stage(sample.unsqueeze(0))[0] for sample in samples]  # singly, as the host
    pictures = (torch.stack(decoded).float() / 2 + 0.5).clamp(0, 1)
    devices.test_for_nans(pictures, "vae")
    state.nextjob()

    batch_list = scripts.PostprocessBatchListArgs(list(pictures))
    call_hook(p, "postprocess_batch", images=pictures, batch_number=n)
    p.prompts, p.negative_prompts = p.all_prompts[part], p.all_negative_prompts[part]
    call_hook(p, "postprocess_batch_list", batch_list, batch_number=n)
    return [_finish_picture(p, i, tensor) for i, tensor in enumerate(batch_list.images)]


def _finish_picture(p: StableDiffusionProcessing, i: int, tensor: Tensor) -> tuple[Image.Image, str]:
    """The i-th picture of the batch, through the last hooks, saved, with its infotext."""
    p.batch_index = i
    image = Image.fromarray((255.0 * tensor.permute(1, 2, 0).numpy()).astype(np.uint8))
    for hook in ("postprocess_image", "postprocess_image_after_composite"):
        pp = scripts.PostprocessImageArgs(image)
        call_hook(p, hook, pp)
        image = pp.image
    text = create_infotext(p, p.prompts, p.seeds, p.subseeds, index=i, all_negative_prompts=p.negative_prompts)
    if opts.enable_pnginfo:
        image.info["parameters"] = text
    if opts.samples_save and not p.do_not_save_samples:
        folder = p.outpath_samples or opts.outdir_txt2img_samples
        images.save_image(image, folder, "", p.seeds[i], info=text)
    return image, text


def _grid(p: StableDiffusionProcessing, pictures: list[Image.Image]) -> list[tuple[Image.Image, str]]:
    """All pictures on one, saved, with its infotext: where one is wanted, and empty where none is to be shown."""
    wanted = (opts.return_grid or opts.grid_save) and not p.do_not_save_grid
    if not wanted or not pictures or (len(pictures) < 2 and opts.grid_only_if_multiple):
        return []
    grid = images.image_grid(pictures)
    text = create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, use_main_prompt=True)
    if opts.enable_pnginfo:
        grid.info["parameters"] = text
    if opts.grid_save:
        images.save_image(grid, p.outpath_grids or opts.outdir_txt2img_grids, "grid", p.all_seeds[0], info=text)
    return [(grid, text)] if opts.return_grid else []
