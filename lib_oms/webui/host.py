"""The differences between WebUI hosts, each asked for as a capability, never as a host's name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from modules import devices, paths, processing, scripts, sd_models, sd_samplers_common, shared
from PIL import Image
from torch import Tensor

from lib_oms.console import say
from lib_oms.errors import OMSError
from lib_oms.files import SCALE_FACTORS, checkpoint_latents
from lib_oms.webui import options, trouble

TITLE = trouble.NAME
"""The script's title, by which hosts and requests know it."""

_no_memory_left = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def check() -> None:
    """Looks whether the host can run the extension at all.

    Raises:
        OMSError: it cannot.
    """
    if not hasattr(scripts.Script, "process_before_every_sampling"):
        raise OMSError(
            "this WebUI has no hook before sampling. Update it: AUTOMATIC1111 1.10 and every Forge, reForge and "
            "Forge Classic have one."
        )


def is_first_pass(p: Any) -> bool:
    """Whether `p` is about to turn pure noise into a picture: txt2img, and not its hires pass."""
    return isinstance(p, processing.StableDiffusionProcessingTxt2Img) and not p.is_hr_pass


def is_img2img(p: Any) -> bool:
    """Whether `p` starts from a picture, on the tab img2img or in a detailer's pass."""
    return isinstance(p, processing.StableDiffusionProcessingImg2Img)


def of_img2img_tab(p: Any) -> bool:
    """Whether `p` is img2img, and our arguments are those of its own tab: detailers hand those of txt2img on."""
    return is_img2img(p) and bool(getattr(own_script(p.scripts), "is_img2img", False))


def keeps_of_picture(p: Any) -> str | None:
    """Why img2img is to stay near its start picture, in words; None where it is to make another out of noise."""
    if getattr(p, "image_mask", None) is not None or getattr(p, "latent_mask", None) is not None:
        return "inpainting keeps a part of the picture"
    strength = p.denoising_strength
    if strength is None or strength < 1:
        return f"img2img starts from the picture at denoising strength {strength}; the step acts at 1"
    return None


def samples_given_picture(p: Any) -> bool:
    """Whether txt2img is asked to upscale a picture that exists ("upscale existing image"): there is no first pass."""
    return bool(getattr(p, "enable_hr", False)) and getattr(p, "firstpass_image", None) is not None


def loaded_model() -> Any | None:
    """The model in memory, or None; asking shared.sd_model itself would make some hosts load one."""
    holder = getattr(sd_models, "model_data", None)
    return shared.sd_model if holder is None else holder.sd_model


def settled_model(p: Any) -> Any | None:
    """The model in memory, where the pictures of `p`, of which none has begun, are sure to be made with it; else None.

    Forge loads the checkpoint that was chosen when the first picture is made, and a request may choose its own.
    """
    model = loaded_model()
    chosen = sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
    asked = (getattr(p, "override_settings", None) or {}).get("sd_model_checkpoint")
    of_model = getattr(model, "sd_checkpoint_info", None)
    known = chosen is not None and of_model is not None and chosen.filename == of_model.filename
    return model if known and asked is None else None


def checkpoint_now() -> Any | None:
    """The host's entry of the checkpoint that the next picture is made with, as far as it is known; else None.

    Forge loads it only when that picture is made, and keeps until then which one was chosen
    (modules_forge/main_entry.py, refresh_model_loading_parameters).
    """
    data = getattr(sd_models, "model_data", None)
    chosen = (getattr(data, "forge_loading_parameters", None) or {}).get("checkpoint_info")
    loaded = getattr(loaded_model(), "sd_checkpoint_info", None)
    if chosen is not None or loaded is not None:
        return chosen or loaded
    match = getattr(sd_models, "get_closet_checkpoint_match", lambda name: None)
    return match(getattr(shared.opts, "sd_model_checkpoint", None))


def checkpoint_is_loaded() -> bool:
    """Whether the model in memory is that of `checkpoint_now`."""
    model = loaded_model()
    chosen = getattr(checkpoint_now(), "filename", None)
    own = getattr(getattr(model, "sd_checkpoint_info", None), "filename", None)
    return chosen is None or chosen == own or (own is None and latents_of(model) is not None)


def latents_now() -> str | None:
    """As `latents_of`, for the checkpoint that the next picture is made with: by its file where it is not loaded."""
    checkpoint = checkpoint_now()
    if checkpoint is None or checkpoint_is_loaded():
        return latents_of(loaded_model())
    return checkpoint_latents(checkpoint.filename)


def latents_of(model: Any) -> str | None:
    """Which latents a loaded model works on: "sd" (SD1.x and SD2.x), "sdxl", what it declares itself in an attribute
    `oms_latents`, or None for any others (SD3, Flux, SDXL derivatives with a VAE of their own).
    """
    declared = getattr(model, "oms_latents", None)
    if declared is not None:
        return declared
    if is_flow(model) or _channels(model) not in (None, 4):
        return None
    if getattr(model, "is_sdxl", False):
        latents = "sdxl"
    elif getattr(model, "is_sd1", False) or getattr(model, "is_sd2", False):
        latents = "sd"
    else:
        return None
    scale = _scale_factor(model)
    return latents if scale is None or abs(scale - SCALE_FACTORS[latents]) < 1e-4 else None


def without_latents(model: Any) -> str:
    """Why `latents_of` knows none for a loaded model, in words."""
    if is_flow(model):
        return "the loaded checkpoint is a flow model: it begins at pure noise, where nothing is left to mend"
    return "the loaded checkpoint has other latents than SD1.x or SD2.x or SDXL"


def is_flow(model: Any) -> bool:
    """Whether a loaded model predicts flow: its schedule begins at pure noise, so nothing is left for the step to do.

    Forge's model_type says EPS even for flow models; their predictor tells the truth. In reForge a script can make
    the loaded model sample as a flow model: what it puts over the model's own schedule is a CONST (model_sampling.py).
    """
    unet = getattr(getattr(model, "forge_objects", None), "unet", None)
    predictor = getattr(getattr(unet, "model", None), "predictor", None)
    if getattr(predictor, "prediction_type", None) == "const":
        return True
    replaced = (getattr(unet, "object_patches", None) or {}).get("model_sampling")
    return any(cls.__name__ == "CONST" for cls in type(replaced).__mro__)


def _latent_format(model: Any) -> Any:
    """Forge's description of a loaded model's latents; None in hosts that have none."""
    return getattr(getattr(model, "model_config", None), "latent_format", None)


def _channels(model: Any) -> int | None:
    """Forge Neo's Mugen says is_sdxl and has 32."""
    return getattr(_latent_format(model), "latent_channels", None)


def _scale_factor(model: Any) -> float | None:
    for holder in (_latent_format(model), model):
        scale = getattr(holder, "scale_factor", None)
        if isinstance(scale, (int, float)) or (isinstance(scale, Tensor) and scale.numel() == 1):
            return float(scale)
    return None


def vae_of(model: Any) -> torch.nn.Module | None:
    """The loaded model's VAE as a network: A1111 has it on the model, Forge beside it."""
    for holder in (getattr(getattr(model, "forge_objects", None), "vae", None), model):
        vae = getattr(holder, "first_stage_model", None)
        if isinstance(vae, torch.nn.Module):
            return vae
    return None


def vae_encode(model: Any, picture: Tensor) -> Tensor:
    """A picture [1, 3, H, W], 0 to 1, as a scaled latent, the way img2img has its start picture encoded: the host
    brings the VAE to the device, and takes the model's other parts away where it must.

    Raises:
        OMSError: the host or the model cannot do that.
    """
    encode = getattr(sd_samplers_common, "images_tensor_to_samples", None)
    if encode is None or vae_of(model) is None:
        raise OMSError("the loaded checkpoint has no VAE that could encode a color or a picture")
    return encode(picture, 0, model)  # 0: by the VAE itself, whatever is chosen for img2img


def shown(latent: Tensor) -> Image.Image:
    """A scaled latent [1, C, h, w] as a picture, by the quick decoder that the host's live previews are made with, or
    the loaded model's VAE where there is none or its file cannot be had. Quick ones give one pixel for each of 8 x 8.
    """
    with plain_torch():
        try:
            return sd_samplers_common.sample_to_image(latent.to(devices.device), 0)
        except Exception:  # such as of a download without a network
            return sd_samplers_common.sample_to_image(latent.to(devices.device), 0, 0)  # 0 is the VAE


def api_guards(app: Any) -> list[Any] | None:
    """What the host's own routes ask for before they answer, by FastAPI's `dependencies`: the password of --api-auth.

    None where there is a password, but no route of the host's to learn it from, as without --api.
    """
    for route in app.routes:
        if getattr(route, "path", "").startswith("/sdapi/v1/"):
            return list(getattr(route, "dependencies", ()))
    return None if getattr(shared.cmd_opts, "api_auth", None) else []


def own_args(p: Any) -> Sequence[Any]:
    """What a request gives to our script, wherever in the list of all scripts' arguments it stands."""
    script = own_script(p.scripts)
    return () if script is None else p.script_args[script.args_from : script.args_to]


def own_script(runner: Any) -> Any | None:
    """Our script among those of a tab; None where it is not."""
    return next((s for s in getattr(runner, "alwayson_scripts", []) if s.title() == TITLE), None)


def noise_of(p: Any, noise: Tensor) -> Tensor:
    """The noise that sampling would start from: another extension may have put its own in `p.modified_noise`."""
    modified = getattr(p, "modified_noise", None)
    return noise if modified is None else modified


def prompt_steps(p: Any) -> int:
    """The steps that prompt editing counts in: of samplers of second order, twice those that were asked for."""
    return getattr(p, "firstpass_steps", None) or p.steps


def replace_noise(p: Any, noise: Tensor, x: Tensor) -> None:
    """Makes sampling start from `x` instead of `noise`, the tensor that the host handed to the hook.

    Where the host knows p.modified_noise it takes that, else what has happened to the tensor itself. Having the
    attribute is no proof, as another extension may have made it; so both are done, which does no harm in a first pass.
    """
    x = x.to(noise)
    if hasattr(p, "modified_noise"):
        p.modified_noise = x
        if x.shape != noise.shape:  # another extension's noise is of another size than the host's
            return
    noise.copy_(x)


def fail(p: Any, text: str) -> None:
    """Makes this request end with `text`, from a hook that runs just before sampling.

    Hosts swallow what a hook raises, so it is raised where they do not: in the sampler's own call that comes next.
    """
    sampler = p.sampler
    name = "sample_img2img" if is_img2img(p) else "sample"

    def sample(*args: Any, **kwargs: Any) -> Any:
        delattr(sampler, name)  # uncovers the class's own
        raise trouble.refusal(p, text)

    setattr(sampler, name, sample)


def message(error: Exception) -> str:
    """What a person is told of an error, and what to do about it."""
    if isinstance(error, OMSError):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError) or _no_memory_left.search(str(error)):
        return (
            "there is too little free memory for the OMS model. Take a smaller one, set the memory policy to "
            f"'keep in RAM', or free memory. {type(error).__name__}: {error}"
        )
    return f"{type(error).__name__}: {error}"


def say_skipped(p: Any, reason: str) -> None:
    """Tells a person on the page and in the console that the picture is made without the step."""
    text = f"{TITLE} skipped: {reason}"
    say(text)
    p.comment(text)


def module_folders() -> list[Path]:
    """Where modules are looked for: the extension's own models folder, the WebUI's, --oms-models-dir, and those that
    the settings page adds.
    """
    own = Path(__file__).resolve().parents[2] / "models"
    return [own, Path(paths.models_path) / "OMS", *(folder for folder, _ in named_folders())]


def named_folders() -> list[tuple[Path, str]]:
    """The folders that a person named, and where that was done."""
    asked = getattr(shared.cmd_opts, "oms_models_dir", None)
    first = [(Path(asked), "--oms-models-dir")] if asked else []
    return [*first, *((folder, "the settings page") for folder in options.module_folders())]


def download_folder() -> Path:
    """Where downloads go: --oms-models-dir, else models/OMS of the WebUI."""
    asked = getattr(shared.cmd_opts, "oms_models_dir", None)
    return Path(asked) if asked else Path(paths.models_path) / "OMS"


def cache_folder() -> Path:
    """Where the host keeps what it can find out again (modules/cache.py)."""
    return Path(os.environ.get("SD_WEBUI_CACHE_DIR") or Path(paths.data_path) / "cache")


def user_folder() -> Path:
    """Where a person's own presets and words are: beside the host's own settings, which no update of ours touches."""
    return Path(paths.data_path) / "one-more-step"


def checkpoint_places(model: Any) -> list[Path]:
    """The loaded model's file, if it is an SD2.x, that which --ckpt names, and the folders of checkpoints."""
    asked = [getattr(shared.cmd_opts, name, None) for name in ("ckpt_dir", "ckpt_dirs")]
    folders = [path for value in asked for path in (value if isinstance(value, (list, tuple)) else [value]) if path]
    folders.append(Path(paths.models_path) / "Stable-diffusion")
    own = getattr(getattr(model, "sd_checkpoint_info", None), "filename", None)
    named = getattr(shared.cmd_opts, "ckpt", None)  # by default a file that need not be there
    files = [own] if own and getattr(model, "is_sd2", False) else []
    files += [named] if named and Path(named).is_file() else []
    return list(map(Path, dict.fromkeys([*files, *folders])))


def tokenizer_folders() -> list[Path]:
    """Tokenizers that a host brings along: Forge has SD2.1's, Forge Neo SDXL's second, which is the same."""
    bundled = Path(paths.script_path) / "backend/huggingface/stabilityai"
    folders = (bundled / "stable-diffusion-2-1/tokenizer", bundled / "stable-diffusion-xl-base-1.0/tokenizer_2")
    return [folder for folder in folders if folder.is_dir()]


def compute_device() -> torch.device:
    """Where psi and its text encoder run."""
    return devices.device


def compute_dtype() -> torch.dtype:
    """The dtype they run in: the host's own, but never half precision on a CPU."""
    return torch.float32 if devices.device.type == "cpu" else devices.dtype


@contextmanager
def plain_torch() -> Iterator[None]:
    """Without autocast, gradients or inference mode.

    Hosts call hooks under some of these. Weights and encoded prompts that are made under inference mode could not be
    used outside it later.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(devices.without_autocast())
        yield
