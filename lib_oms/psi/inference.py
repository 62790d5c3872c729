"""psi's forward as diffusers' blocks compute it, without what those blocks do for other networks.

A GPU waits for Python here (docs/performance.md), and half of that was not starting kernels: with every call the blocks
look for time steps, masks, IP adapters and the like, ask `inspect` for each attention's signature, divide by 1 and drop
nothing out. The operations that are left are theirs, in their order, so the numbers are the same to the bit. Layers
with weights are called as the modules that they are: what a host does to torch's layers reaches these, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def infer(psi: Any, h: Tensor, text: Tensor) -> Tensor:
    """What psi's last block gives, for its last norm.

    Args:
        psi: an OMSUNet, whose layers are called.
        h: latents [B, in_channels, h, w] in its dtype.
        text: [B, tokens, cross_attention_dim] likewise.
    """
    h = psi.conv_in(h)
    skips = [h]
    for block in psi.down_blocks:
        h = _down(block, h, text, skips)
    h = _middle(psi.mid_block, h, text)
    for block in psi.up_blocks:
        h = _up(block, h, text, skips)
    return h


def _down(block: Any, h: Tensor, text: Tensor, skips: list[Tensor]) -> Tensor:
    for resnet, attention in _layers(block):
        h = _resnet(resnet, h)
        if attention is not None:
            h = _transformer(attention, h, text)
        skips.append(h)
    for sampler in block.downsamplers or ():
        h = sampler.conv(h)
        skips.append(h)
    return h


def _middle(block: Any, h: Tensor, text: Tensor) -> Tensor:
    first, *others = block.resnets
    h = _resnet(first, h)
    for attention, resnet in zip(block.attentions, others, strict=True):
        h = _resnet(resnet, _transformer(attention, h, text))
    return h


def _up(block: Any, h: Tensor, text: Tensor, skips: list[Tensor]) -> Tensor:
    for resnet, attention in _layers(block):
        h = _resnet(resnet, torch.cat([h, skips.pop()], dim=1))
        if attention is not None:
            h = _transformer(attention, h, text)
    for sampler in block.upsamplers or ():
        # The next skip's size, not twice this one's: a height that was odd on the way down must be so again.
        h = sampler.conv(F.interpolate(h, size=skips[-1].shape[2:], mode="nearest"))
    return h


def _layers(block: Any) -> Sequence[tuple[Any, Any]]:
    """Each of a block's resnets with the attention that follows it, or None."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _resnet(block: Any, x: Tensor) -> Tensor:
    h = block.conv1(F.silu(block.norm1(x)))
    h = block.conv2(F.silu(block.norm2(h)))
    return (x if block.conv_shortcut is None else block.conv_shortcut(x)) + h


def _transformer(model: Any, x: Tensor, text: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    h = model.proj_in(model.norm(x))
    inner = h.shape[1]
    h = h.permute(0, 2, 3, 1).reshape(batch, height * width, inner)
    for block in model.transformer_blocks:
        normed = block.norm1(h)
        h = _attention(block.attn1, normed, normed) + h
        h = _attention(block.attn2, block.norm2(h), text) + h
        gelu, _, out = block.ff.net
        values, gate = gelu.proj(block.norm3(h)).chunk(2, dim=-1)
        h = out(values * F.gelu(gate)) + h
    h = h.reshape(batch, height, width, inner).permute(0, 3, 1, 2).contiguous()
    return model.proj_out(h) + x


def _attention(layer: Any, h: Tensor, text: Tensor) -> Tensor:
    heads = layer.heads
    q, k, v = (
        states.view(len(states), -1, heads, states.shape[-1] // heads).transpose(1, 2)
        for states in (layer.to_q(h), layer.to_k(text), layer.to_v(text))
    )
    h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return layer.to_out[0](h)
