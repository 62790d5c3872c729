"""The tensors of psi, by name and shape: what a file must hold, told by its config without building the network.

Building it on "meta" would tell the same (a test compares them), but takes diffusers along, which is most of what a
list of modules would cost on the command line, and seconds for every file whose config asks for as much as is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator

from lib_oms.psi.config import OMSUNetConfig

Tensor = tuple[str, tuple[int, ...]]


def expected_tensors(config: OMSUNetConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of OMSUNet(config).state_dict(), in its order (diffusers' names)."""
    return dict(_tensors(config))


def _tensors(config: OMSUNetConfig) -> Iterator[Tensor]:
    widths = config.block_out_channels
    last = len(widths) - 1
    text = config.cross_attention_dim
    yield from _conv("conv_in", config.in_channels, widths[0])
    for i, kind in enumerate(config.down_block_types):
        count = config.layers_per_block[i]
        inputs = [widths[max(i - 1, 0)], *[widths[i]] * (count - 1)]
        depth = config.transformer_layers_per_block[i] if kind.startswith("CrossAttn") else 0
        yield from _block(f"down_blocks.{i}", inputs, widths[i], [depth] * count, text)
        if i < last:
            yield from _conv(f"down_blocks.{i}.downsamplers.0.conv", widths[i], widths[i])
    depth = config.transformer_layers_per_block[last]
    yield from _block("mid_block", [widths[last]] * 2, widths[last], [depth], text)
    for position, kind in enumerate(config.up_block_types):
        i = last - position
        count = config.layers_per_block[i] + 1
        # Each resnet reads what comes from below beside one skip; the last skip is the level above's.
        below = [widths[min(i + 1, last)], *[widths[i]] * (count - 1)]
        skips = [*[widths[i]] * (count - 1), widths[max(i - 1, 0)]]
        inputs = [a + b for a, b in zip(below, skips, strict=True)]
        depth = config.transformer_layers_per_block[i] if kind.startswith("CrossAttn") else 0
        yield from _block(f"up_blocks.{position}", inputs, widths[i], [depth] * count, text)
        if i > 0:
            yield from _conv(f"up_blocks.{position}.upsamplers.0.conv", widths[i], widths[i])
    yield from _affine("conv_norm_out", widths[0])
    yield from _conv("conv_out", widths[0], config.out_channels)


def _block(name: str, inputs: list[int], width: int, depths: list[int], text: int) -> Iterator[Tensor]:
    """`inputs` has the channels that each resnet reads; `depths` the layers of each transformer, 0 for none."""
    for i, depth in enumerate(depths):
        if depth:
            yield from _transformer(f"{name}.attentions.{i}", width, depth, text)
    for i, channels in enumerate(inputs):
        yield from _resnet(f"{name}.resnets.{i}", channels, width)


def _resnet(name: str, channels: int, width: int) -> Iterator[Tensor]:
    yield from _affine(f"{name}.norm1", channels)
    yield from _conv(f"{name}.conv1", channels, width)
    yield from _affine(f"{name}.norm2", width)
    yield from _conv(f"{name}.conv2", width, width)
    if channels != width:
        yield from _conv(f"{name}.conv_shortcut", channels, width, size=1)


def _transformer(name: str, width: int, depth: int, text: int) -> Iterator[Tensor]:
    yield from _affine(f"{name}.norm", width)
    yield from _conv(f"{name}.proj_in", width, width, size=1)
    for i in range(depth):
        layer = f"{name}.transformer_blocks.{i}"
        yield from _affine(f"{layer}.norm1", width)
        yield from _attention(f"{layer}.attn1", width, width)
        yield from _affine(f"{layer}.norm2", width)
        yield from _attention(f"{layer}.attn2", width, text)
        yield from _affine(f"{layer}.norm3", width)
        yield from _linear(f"{layer}.ff.net.0.proj", width, 8 * width)  # GEGLU: four widths and their gates
        yield from _linear(f"{layer}.ff.net.2", 4 * width, width)
    yield from _conv(f"{name}.proj_out", width, width, size=1)


def _attention(name: str, width: int, read: int) -> Iterator[Tensor]:
    yield f"{name}.to_q.weight", (width, width)
    yield f"{name}.to_k.weight", (width, read)
    yield f"{name}.to_v.weight", (width, read)
    yield from _linear(f"{name}.to_out.0", width, width)


def _affine(name: str, width: int) -> Iterator[Tensor]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[Tensor]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _conv(name: str, inputs: int, outputs: int, size: int = 3) -> Iterator[Tensor]:
    yield f"{name}.weight", (outputs, inputs, size, size)
    yield f"{name}.bias", (outputs,)
