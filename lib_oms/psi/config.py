"""The architecture of psi: what its config.json may say, read with diffusers' names and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_oms.errors import OMSError

# Options of the authors' class (UNet2DConditionWoCTModel) that every published module leaves at these values, and that
# would change the numbers. `None` stands beside the value where diffusers reads both alike.
_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False, None),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "only_cross_attention": (False, None),
    "mid_block_only_cross_attention": (False, None),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "resnet_out_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "dual_cross_attention": (False, None),
    "use_linear_projection": (False, None),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
}
# Options of diffusers' own UNet2DConditionModel that add conditions psi does not have. The authors' class does not know
# them and passes over them, so they are read only where the config is another class's.
_CONDITIONS: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional", None),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "projection_class_embeddings_input_dim": (None,),
    "class_embeddings_concat": (False, None),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "resnet_time_scale_shift": ("default", None),
    "resnet_skip_time_act": (False, None),
    "reverse_transformer_layers_per_block": (None,),
    "attention_type": ("default", None),
}
AUTHORS_CLASS = "UNet2DConditionWoCTModel"
_CLASSES = (AUTHORS_CLASS, "UNet2DConditionModel", None)
_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")
# Far above anything real; a config is read before its file is trusted, so that it cannot make us build without end.
_MOST = {
    "block_out_channels": 8192,
    "num_attention_heads": 1024,
    "layers_per_block": 8,
    "transformer_layers_per_block": 24,
    "cross_attention_dim": 65536,
    "in_channels": 256,
    "out_channels": 256,
    "norm_num_groups": 8192,
}
_MOST_BLOCKS = 6


@dataclass(frozen=True)
class OMSUNetConfig:
    """The shape of an OMS model. Tuples hold one entry per resolution, highest resolution first.

    `num_attention_heads` is what the published config.json calls attention_head_dim: diffusers reads that key as the
    number of heads. Raises OMSError (a ValueError) for values that make no network, naming key and value.
    """

    block_out_channels: tuple[int, ...]
    num_attention_heads: tuple[int, ...]
    cross_attention_dim: int
    transformer_layers_per_block: tuple[int, ...]
    layers_per_block: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    in_channels: int = 4
    out_channels: int = 4
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        blocks = len(self.block_out_channels)
        if not 1 <= blocks <= _MOST_BLOCKS:
            raise OMSError(f"block_out_channels has {blocks} entries; 1 to {_MOST_BLOCKS} are allowed")
        for name in ("num_attention_heads", "transformer_layers_per_block", "layers_per_block"):
            if len(getattr(self, name)) != blocks:
                raise OMSError(f"{name} is {getattr(self, name)!r}; block_out_channels asks for {blocks} entries")
        for name, allowed in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            types = getattr(self, name)
            if len(types) != blocks or any(kind not in allowed for kind in types):
                raise OMSError(f"{name} is {list(types)!r}; allowed are {blocks} entries of {' and '.join(allowed)}")
        for name, most in _MOST.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not _is_int(value) or not 1 <= value <= most:
                    raise OMSError(f"{name} is {values!r}; whole numbers from 1 to {most} are allowed")
        if not isinstance(self.norm_eps, (int, float)) or not 0 < self.norm_eps < 1:
            raise OMSError(f"norm_eps is {self.norm_eps!r}; a number between 0 and 1 is allowed")
        for width, heads in zip(self.block_out_channels, self.num_attention_heads, strict=True):
            if width % self.norm_num_groups:
                raise OMSError(f"norm_num_groups is {self.norm_num_groups}, which does not divide the width {width}")
            if width % heads:
                raise OMSError(f"attention_head_dim (the number of heads) is {heads}; it must divide the width {width}")

    @classmethod
    def tiny(cls, cross_attention_dim: int = 128) -> OMSUNetConfig:
        """A module for small latents and small machines, of the published block types."""
        return cls._published(cross_attention_dim, (32, 48, 64), (1, 1, 2), (1, 1, 1), layers=1, norm_num_groups=4)

    @classmethod
    def base(cls, cross_attention_dim: int = 1024) -> OMSUNetConfig:
        """The published oms_b modules: 458 tensors, 154 M parameters."""
        return cls._published(cross_attention_dim, (160, 320, 640), (5, 10, 20), (1, 1, 1))

    @classmethod
    def large(cls, cross_attention_dim: int = 2048) -> OMSUNetConfig:
        """The published oms_l module: 1638 tensors, 2543 M parameters."""
        return cls._published(cross_attention_dim, (320, 640, 1280), (5, 10, 20), (1, 2, 10))

    @classmethod
    def _published(
        cls,
        cross_attention_dim: int,
        widths: tuple[int, ...],
        heads: tuple[int, ...],
        depths: tuple[int, ...],
        layers: int = 2,
        norm_num_groups: int = 32,
    ) -> OMSUNetConfig:
        down, up = _default_types(len(widths))
        return cls(
            block_out_channels=widths,
            num_attention_heads=heads,
            cross_attention_dim=cross_attention_dim,
            transformer_layers_per_block=depths,
            layers_per_block=(layers,) * len(widths),
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=norm_num_groups,
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> OMSUNetConfig:
        """Read a config.json of the authors' class; keys that do not touch the numbers are passed over.

        Raises:
            OMSError: a key is missing, or has a value that makes another network; the message names both.
        """
        class_name = raw.get("_class_name")
        if class_name not in _CLASSES:
            raise OMSError(f"_class_name is {class_name!r}; an OMS model's is {AUTHORS_CLASS!r}")
        refused = _FIXED if class_name == AUTHORS_CLASS else {**_FIXED, **_CONDITIONS}
        for key, allowed in refused.items():
            value = raw.get(key, allowed[0])
            if any(item not in allowed for item in (value if isinstance(value, (list, tuple)) else (value,))):
                raise OMSError(f"{key} is {value!r}, which no OMS model has; allowed is {_or(allowed)}")

        widths = raw.get("block_out_channels")
        if not isinstance(widths, (list, tuple)) or not 1 <= len(widths) <= _MOST_BLOCKS:
            raise OMSError(f"block_out_channels is {widths!r}; a list of 1 to {_MOST_BLOCKS} widths is needed")
        blocks = len(widths)
        heads_key = "num_attention_heads" if raw.get("num_attention_heads") is not None else "attention_head_dim"
        types = {
            key: tuple(value) if isinstance(value := raw.get(key, default), (list, tuple)) else (value,)
            for key, default in zip(("down_block_types", "up_block_types"), _default_types(blocks), strict=True)
        }
        return cls(
            block_out_channels=tuple(widths),
            num_attention_heads=_per_block(raw, heads_key, blocks),
            cross_attention_dim=_one(_per_block(raw, "cross_attention_dim", blocks)),
            transformer_layers_per_block=_per_block(raw, "transformer_layers_per_block", blocks, 1),
            layers_per_block=_per_block(raw, "layers_per_block", blocks, 2),
            in_channels=raw.get("in_channels", 4),
            out_channels=raw.get("out_channels", 4),
            norm_num_groups=raw.get("norm_num_groups", 32),
            norm_eps=raw.get("norm_eps", 1e-5),
            **types,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as a config.json that the authors' class reads too."""
        return {
            "_class_name": AUTHORS_CLASS,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "down_block_types": list(self.down_block_types),
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": list(self.up_block_types),
            "block_out_channels": list(self.block_out_channels),
            "layers_per_block": _short(self.layers_per_block),
            "transformer_layers_per_block": _short(self.transformer_layers_per_block),
            "attention_head_dim": list(self.num_attention_heads),
            "cross_attention_dim": self.cross_attention_dim,
            "norm_num_groups": self.norm_num_groups,
            "norm_eps": self.norm_eps,
            "act_fn": "silu",
            "use_linear_projection": False,
        }


def _default_types(blocks: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Attention everywhere but at the highest resolution, as published."""
    return (_DOWN[0], *(_DOWN[1],) * (blocks - 1)), (*(_UP[1],) * (blocks - 1), _UP[0])


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _per_block(raw: Mapping[str, Any], key: str, blocks: int, default: int | None = None) -> tuple[Any, ...]:
    value = raw.get(key, default)
    if value is None:
        raise OMSError(f"{key} is missing; give one whole number, or a list of {blocks}")
    if isinstance(value, (list, tuple)):
        if len(value) != blocks:
            raise OMSError(f"{key} is {value!r}; block_out_channels asks for {blocks} entries")
        return tuple(value)
    return (value,) * blocks


def _one(dims: tuple[Any, ...]) -> Any:
    # The same text embeddings enter every block, so a list can only repeat one width.
    if any(dim != dims[0] for dim in dims):
        raise OMSError(f"cross_attention_dim is {list(dims)!r}; the same text enters every block, so all must be equal")
    return dims[0]


def _short(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def _or(allowed: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in allowed)
