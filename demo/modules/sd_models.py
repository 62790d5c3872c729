"""The checkpoint: a diffusers folder, with one or two UNets to choose from (host file: modules/sd_models.py)."""

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from modules import devices, prompt_parser, shared
from modules.shared_cmd_options import cmd_opts
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

EMBEDDED, SECOND = "embedded", "embedded-second"


@dataclass
class CheckpointInfo:
    """One entry of the checkpoint list. `filename` is the UNet's file; everything else of the folder is shared."""

    name: str
    filename: str
    sha256: str

    def __post_init__(self) -> None:
        self.name_for_extra = self.model_name = self.name
        self.shorthash = self.hash = self.sha256[:10]
        self.title = f"{self.name} [{self.shorthash}]"


checkpoints_list: dict[str, CheckpointInfo] = {}
checkpoint_aliases: dict[str, CheckpointInfo] = {}


def model_folder() -> Path:
    return Path(cmd_opts.model).resolve()


def list_models() -> None:
    """Fills the checkpoint list from the model folder's unet/ and unet_second/."""
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    for name, part in ((EMBEDDED, "unet"), (SECOND, "unet_second")):
        files = sorted((model_folder() / part).glob("*.safetensors"))
        if not files:
            continue
        info = CheckpointInfo(name, str(files[0]), hashlib.sha256(files[0].read_bytes()).hexdigest())
        checkpoints_list[info.title] = info
        for alias in (info.title, info.name, info.shorthash, info.sha256, files[0].name):
            checkpoint_aliases.setdefault(alias, info)
    if not checkpoints_list:
        raise FileNotFoundError(
            f"No checkpoint in {model_folder()}: unet/ holds no .safetensors file. Give a diffusers folder with "
            "--model FOLDER; `python -m lib_oms.embedded.make --help` tells how to make the demo's own."
        )


def checkpoint_tiles(use_short: bool = False) -> list[str]:
    return [info.title for info in checkpoints_list.values()]


def get_closet_checkpoint_match(search: str) -> CheckpointInfo | None:
    """The checkpoint of this title, name or hash, else the first whose title contains it (the host's spelling)."""
    if not search:
        return None
    exact = checkpoint_aliases.get(search)
    return exact or next((info for title, info in checkpoints_list.items() if search in title), None)


def select_checkpoint() -> CheckpointInfo:
    chosen = checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
    return chosen or next(iter(checkpoints_list.values()))


def load_part(cls: Any, folder: Path) -> Any:
    """A part of a diffusers folder in float32. Raises ValueError if tensors are missing, which libraries only log."""
    part, facts = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    missing = sorted(key for key in facts["missing_keys"] if not key.endswith("position_ids"))
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} tensors of its config, {missing[0]} first.")
    return part.float().eval()


class DemoModel:
    """The loaded checkpoint, with the attributes of the host's that extensions read.

    Its latents are of no Stable Diffusion family, so every `is_sd*` flag is False; `oms_latents` names them. A UNet
    whose file says in its metadata `demo.family`: "sd1", "sd2" or "sdxl" is taken for one of that family.
    """

    latent_channels = 4

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self.text_encoder = load_part(CLIPTextModel, folder / "text_encoder")
        self.first_stage_model = load_part(AutoencoderKL, folder / "vae")
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        self.alphas_cumprod = scheduler.alphas_cumprod.float()
        self.device, self.dtype = devices.device, devices.dtype
        self._unets: dict[str, UNet2DConditionModel] = {}
        self.model = SimpleNamespace(diffusion_model=None, conditioning_key="crossattn")

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.model.diffusion_model

    def use_checkpoint(self, info: CheckpointInfo) -> None:
        """Puts the UNet of `info` in; each is read from disk once."""
        if info.name not in self._unets:
            self._unets[info.name] = load_part(UNet2DConditionModel, Path(info.filename).parent)
        self.model.diffusion_model = self._unets[info.name]
        self.sd_checkpoint_info, self.sd_model_hash = info, info.shorthash
        with safe_open(info.filename, "pt") as file:
            family = (file.metadata() or {}).get("demo.family", "")
        self.is_sd1, self.is_sd2, self.is_sdxl = (family == name for name in ("sd1", "sd2", "sdxl"))
        text = SimpleNamespace(wrapped=SimpleNamespace(transformer=self.text_encoder, tokenizer=self.tokenizer))
        self.cond_stage_model = text if self.is_sd1 else None  # where the host holds SD1.x's text encoder
        self.oms_latents = None if family else "oms-demo"
        shared.opts.data["sd_model_checkpoint"] = info.title

    @torch.no_grad()
    def apply_model(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The predicted noise for x in variance-preserving form: x [B, 4, h, w], t [B], cond [B, 77k, D].

        In the dtype of x: half noise makes sampling half, as in the host, though the UNet computes in float32.
        """
        return self.unet(x.to(self.dtype), t, encoder_hidden_states=cond).sample.to(x.dtype)

    def get_learned_conditioning(self, prompts: list[str]) -> Tensor:
        return prompt_parser.get_learned_conditioning(self, list(prompts))

    @torch.no_grad()
    def decode_first_stage(self, z: Tensor) -> Tensor:
        """Pictures [B, 3, 8h, 8w] in -1..1 of scaled latents [B, 4, h, w]."""
        return self.first_stage_model.decode(z.to(self.dtype) / self.first_stage_model.config.scaling_factor).sample

    @torch.no_grad()
    def encode_first_stage(self, x: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] of pictures [B, 3, 8h, 8w] in -1..1: the mean, no noise."""
        return self.first_stage_model.encode(x).latent_dist.mode() * self.first_stage_model.config.scaling_factor


model_data = SimpleNamespace(sd_model=None)
"""the loaded model, for those who would not load it"""
_lock = threading.RLock()


def get_sd_model() -> DemoModel:
    """The loaded model; loads it when it is first asked for."""
    with _lock:
        if model_data.sd_model is None or model_data.sd_model.folder != model_folder():
            model_data.sd_model = _load()
        return model_data.sd_model


def _load() -> DemoModel:
    index = model_folder() / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{model_folder()} is no diffusers folder: it has no model_index.json.")
    kind = json.loads(index.read_text(encoding="utf8")).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ValueError(f"{index} is of a {kind}; the demo runs a StableDiffusionPipeline only.")
    model = DemoModel(model_folder())
    model.use_checkpoint(select_checkpoint())
    return model


def reload_model_weights(sd_model: DemoModel | None = None, info: CheckpointInfo | None = None) -> DemoModel:
    """Makes the chosen checkpoint (`info`, or the option's) the loaded one."""
    model = get_sd_model()
    wanted = info or select_checkpoint()
    if model.sd_checkpoint_info is not wanted:
        model.use_checkpoint(wanted)
    return model
