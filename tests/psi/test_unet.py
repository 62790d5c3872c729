"""psi against diffusers' own UNet, its files in every published layout, and what it refuses."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lib_oms.errors import ModuleFileError
from lib_oms.psi import OMSUNet, OMSUNetConfig, inspect_module, predict_v
from lib_oms.psi.files import FP16_WEIGHTS_NAME, WEIGHTS_NAME
from lib_oms.psi.tensors import expected_tensors

WIDTH = 24  # of the text embeddings in these tests
SMALL = OMSUNetConfig.from_dict(
    {
        "block_out_channels": [8, 16, 32],
        "attention_head_dim": [1, 2, 4],
        "cross_attention_dim": WIDTH,
        "transformer_layers_per_block": [1, 2, 1],
        "layers_per_block": 2,
        "norm_num_groups": 4,
    }
)
# What the authors' class writes to config.json besides the values of the module: every option it has.
AUTHORS_CONFIG = {
    "_class_name": "UNet2DConditionWoCTModel",
    "_diffusers_version": "0.23.1",
    "_name_or_path": "/somewhere/oms",
    "act_fn": "silu",
    "attention_head_dim": [1, 2, 4],
    "block_out_channels": [8, 16, 32],
    "center_input_sample": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": WIDTH,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 4,
    "num_attention_heads": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "resnet_out_scale_factor": 1.0,
    "sample_size": None,
    "transformer_layers_per_block": [1, 2, 1],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": False,
    "use_linear_projection": False,
}


@cache
def _small(seed: int, config: OMSUNetConfig) -> OMSUNet:
    torch.manual_seed(seed)
    psi = OMSUNet(config).eval()
    with torch.no_grad():  # norms start at 1 and 0, where errors would not show
        for parameter in psi.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return psi


def small(seed: int = 0, config: OMSUNetConfig = SMALL) -> OMSUNet:
    """One of a test's own; a deepcopy of hundreds of small parts would take four times as long."""
    with torch.device("meta"):
        psi = OMSUNet(config)
    own = {name: tensor.clone() for name, tensor in _small(seed, config).state_dict().items()}
    psi.load_state_dict(own, assign=True)
    return psi.eval()


def inputs(height=8, width=8, batch=2, tokens=7, channels=WIDTH):
    return torch.randn(batch, 4, height, width), torch.randn(batch, tokens, channels)


@pytest.fixture(scope="module")
def _published(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    small().save_pretrained(folder / "oms_module")
    (folder / "oms_module" / "config.json").write_text(json.dumps(AUTHORS_CONFIG))
    (folder / "model_index.json").write_text('{"_class_name": "OMSPipeline"}')
    return folder


@pytest.fixture
def published(tmp_path, _published) -> Path:
    """A folder as published, float32, with the oms_module level and the authors' config."""
    return shutil.copytree(_published, tmp_path / "published")


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 17), (20, 28), (5, 7), (1, 1)])
@pytest.mark.parametrize(
    "changes",
    [{}, {"transformer_layers_per_block": (1, 2, 4)}, {"layers_per_block": (1, 1, 1), "norm_num_groups": 8}],
    ids=["small", "deep", "one layer"],
)
@torch.no_grad()
def test_numbers_are_those_of_diffusers_own_unet_without_its_time(height, width, changes):
    config = replace(SMALL, **changes)
    psi = small(config=config)
    options = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    reference = UNet2DConditionModel(**options, sample_size=None).eval()
    missing, unexpected = reference.load_state_dict(psi.state_dict(), strict=False)
    assert not unexpected
    assert all("time_emb" in name for name in missing), "the names are not diffusers' own"
    for name, parameter in reference.named_parameters():
        if "time_emb_proj" in name:  # what remains of time: added to every resnet, so 0 is "none"
            parameter.zero_()

    latents, text = inputs(height, width)
    expected = reference(latents, timestep=500, encoder_hidden_states=text).sample

    torch.testing.assert_close(psi(latents, text), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 17), (5, 7), (1, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_what_computes_pictures_is_what_was_trained_to_the_bit(height, width, memory_format, dtype):
    """Training goes through diffusers' own blocks; they drop nothing out."""
    psi = small(config=replace(SMALL, transformer_layers_per_block=(1, 2, 4))).to(dtype, memory_format=memory_format)
    latents, text = inputs(height, width)
    assert torch.equal(psi(latents, text), psi.train()(latents, text))


def test_gradients_are_there_outside_of_training_too():
    psi = small()
    psi(*inputs()).sum().backward()
    assert all(parameter.grad is not None for parameter in psi.parameters())


@pytest.mark.parametrize(
    ("config", "tensors", "millions"),
    [(OMSUNetConfig.base(), 458, 154.0), (OMSUNetConfig.large(), 1638, 2542.5)],
    ids=["base", "large"],
)
def test_published_sizes(config, tensors, millions):
    with torch.device("meta"):
        psi = OMSUNet(config)
    assert len(psi.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in psi.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@st.composite
def architectures(draw) -> OMSUNetConfig:
    blocks = draw(st.integers(1, 4))

    def each(choice) -> tuple:
        return tuple(draw(choice) for _ in range(blocks))

    return OMSUNetConfig(
        block_out_channels=each(st.sampled_from((8, 12, 16, 24))),
        num_attention_heads=each(st.sampled_from((1, 2, 4))),
        cross_attention_dim=draw(st.sampled_from((8, 20, 24))),
        transformer_layers_per_block=each(st.integers(1, 3)),
        layers_per_block=each(st.integers(1, 3)),
        down_block_types=each(st.sampled_from(("DownBlock2D", "CrossAttnDownBlock2D"))),
        up_block_types=each(st.sampled_from(("UpBlock2D", "CrossAttnUpBlock2D"))),
        in_channels=draw(st.integers(1, 5)),
        out_channels=draw(st.integers(1, 5)),
        norm_num_groups=4,
    )


@settings(max_examples=30, deadline=None)
@given(architectures())
def test_the_tensors_that_a_file_must_hold_are_the_networks_own(config):
    with torch.device("meta"):
        psi = OMSUNet(config)
    shapes = [(name, tuple(tensor.shape)) for name, tensor in psi.state_dict().items()]
    assert list(expected_tensors(config).items()) == shapes


def test_tiny_is_of_the_published_kind():
    config = OMSUNetConfig.tiny(cross_attention_dim=64)
    assert config.down_block_types == OMSUNetConfig.base().down_block_types
    assert config.cross_attention_dim == 64
    latents, text = inputs(channels=64)
    assert OMSUNet(config)(latents, text).shape == latents.shape


@torch.no_grad()
def test_one_text_serves_the_whole_batch():
    psi = small()
    latents, text = inputs(batch=3)
    torch.testing.assert_close(psi(latents, text[:1]), psi(latents, text[:1].repeat(3, 1, 1)))


@torch.no_grad()
def test_a_batch_equals_its_items():
    psi = small()
    latents, text = inputs(batch=3)
    together = psi(latents, text)
    for i in range(3):
        torch.testing.assert_close(psi(latents[i : i + 1], text[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_half_weights_take_and_return_what_the_host_has():
    psi = small().bfloat16()
    latents, text = inputs()
    v = psi(latents, text)
    assert v.dtype == torch.float32
    assert psi.dtype == torch.bfloat16
    assert psi.device == torch.device("cpu")
    assert psi(latents.half(), text).dtype == torch.float16


@pytest.mark.parametrize(
    ("latents", "text", "message"),
    [
        (torch.zeros(1, 16, 8, 8), torch.zeros(1, 7, WIDTH), r"latents have shape \[1, 16, 8, 8\]; expected \[B, 4"),
        (torch.zeros(4, 8, 8), torch.zeros(1, 7, WIDTH), "latents have shape"),
        (torch.zeros(1, 4, 8, 8), torch.zeros(1, 7, 768), rf"7, 768\]; this OMS model reads \[B, tokens, {WIDTH}\]"),
        (torch.zeros(3, 4, 8, 8), torch.zeros(2, 7, WIDTH), "2 text embeddings for 3 latents"),
    ],
)
def test_inputs_that_do_not_fit(latents, text, message):
    with pytest.raises(ValueError, match=message):
        small()(latents, text)


# --- guidance -------------------------------------------------------------------------------------


@pytest.fixture
def counted():
    """A psi and the batch sizes of its forwards."""
    psi, batches = small(), []
    psi.register_forward_hook(lambda module, args, output: batches.append(len(args[0])))
    return psi, batches


@torch.no_grad()
def test_at_scale_one_the_unconditional_half_is_not_computed(counted):
    psi, batches = counted
    latents, text = inputs()
    v_cond, v_uncond = predict_v(psi, latents, text, torch.randn_like(text), 1.0)
    assert v_uncond is None
    assert batches == [2]
    torch.testing.assert_close(v_cond, psi(latents, text))


@pytest.mark.parametrize("scale", [0.0, 1.5, 7.5, -1.0])
@torch.no_grad()
def test_otherwise_both_halves_go_in_one_batch(counted, scale):
    psi, batches = counted
    latents, cond = inputs()
    uncond = torch.randn_like(cond)
    v_cond, v_uncond = predict_v(psi, latents, cond, uncond, scale)
    assert batches == [4]
    torch.testing.assert_close(v_cond, psi(latents, cond), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v_uncond, psi(latents, uncond), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prompts_of_different_length_share_the_batch_and_keep_their_numbers(counted):
    psi, batches = counted
    latents, cond = inputs(tokens=21)
    uncond = torch.randn(1, 14, WIDTH)
    v_cond, v_uncond = predict_v(psi, latents, cond, uncond, 2.0)
    assert batches == [4]
    torch.testing.assert_close(v_cond, psi(latents, cond), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v_uncond, psi(latents, uncond), rtol=1e-4, atol=1e-5)


def test_guidance_without_the_negative_embedding():
    latents, cond = inputs()
    with pytest.raises(ValueError, match=r"guidance scale 2\.0 needs the negative prompt's embedding"):
        predict_v(small(), latents, cond, None, 2.0)


# --- files ----------------------------------------------------------------------------------------


def same(one: OMSUNet, other: OMSUNet) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("level", ["", "oms_module"])
def test_the_published_folder_with_and_without_its_level(published, level):
    psi = OMSUNet.from_pretrained(published / level)
    assert same(psi, small())
    assert psi.config == SMALL
    assert not psi.training
    assert not any(tensor.is_meta for tensor in psi.state_dict().values())


def test_the_fp16_file_alone_is_enough(published):
    folder = published / "oms_module"
    small().save_pretrained(folder, variant="fp16")
    stored = load_file(folder / FP16_WEIGHTS_NAME)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}

    psi = OMSUNet.from_pretrained(str(published))

    assert psi.dtype == torch.float32
    assert same(psi, small().half().float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_converted_on_load(published, dtype):
    psi = OMSUNet.from_pretrained(published, dtype=dtype)
    assert {parameter.dtype for parameter in psi.parameters()} == {dtype}
    assert same(psi, small().to(dtype))


def test_half_precision_reads_the_smaller_file_where_there_is_one(published):
    halves = small(seed=1).save_pretrained(published.parent / "halves", variant="fp16")
    halves.replace(published / "oms_module" / FP16_WEIGHTS_NAME)
    assert same(OMSUNet.from_pretrained(published, dtype=torch.float16), small(seed=1).half())
    assert same(OMSUNet.from_pretrained(published, dtype=torch.bfloat16), small(seed=0).bfloat16())


def test_a_dtype_that_is_none(published):
    with pytest.raises(ValueError, match=r"dtype is torch\.int8; a floating-point dtype"):
        OMSUNet.from_pretrained(published, dtype=torch.int8)


@pytest.mark.parametrize("target", ["folder", "one.safetensors"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_round_trip(tmp_path, target, variant):
    psi = small()
    psi.metadata["oms.latents"] = "sd"
    weights = psi.save_pretrained(tmp_path / "new" / target, metadata={"steps": "7"}, variant=variant)

    again = OMSUNet.from_pretrained(tmp_path / "new" / target)

    assert weights.is_file()
    assert again.config == psi.config
    assert again.metadata == {"oms.latents": "sd", "steps": "7"}
    assert same(again, psi.half().float() if variant else psi)
    assert [path for path in (tmp_path / "new").rglob("*.part")] == []


def test_saving_over_an_old_file_replaces_it_whole(tmp_path):
    path = tmp_path / "one.safetensors"
    small(seed=0).save_pretrained(path)
    loaded = OMSUNet.from_pretrained(path)
    small(seed=1).save_pretrained(path)
    assert same(loaded, small(seed=0)), "a loaded module changed with its file"
    assert same(OMSUNet.from_pretrained(path), small(seed=1))


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="variant is 'int8'; allowed are None and 'fp16'"):
        small().save_pretrained(tmp_path / "x", variant="int8")
    with pytest.raises(ValueError, match="can only be text"):
        small().save_pretrained(tmp_path / "x", metadata={"steps": 7})
    assert list(tmp_path.iterdir()) == []


def test_config_under_another_metadata_key_is_found(tmp_path):
    path = tmp_path / "one.safetensors"
    save_file(small().state_dict(), path, {"unet_config": json.dumps(AUTHORS_CONFIG)})
    assert same(OMSUNet.from_pretrained(path), small())


def test_loaded_under_inference_mode_it_is_an_ordinary_module(published):
    """Forge calls with inference mode on, and weights born in it could never be trained or moved in place."""
    with torch.inference_mode():
        psi = OMSUNet.from_pretrained(published)
    assert not any(parameter.is_inference() for parameter in psi.parameters())
    latents, text = inputs()
    psi(latents, text).sum().backward()
    assert psi.conv_in.weight.grad is not None


def test_while_another_thread_loads_a_network_it_gets_its_weights(published):
    """accelerate, by which diffusers and transformers load, then makes every parameter of the process an empty one."""
    with init_empty_weights():
        loaded = OMSUNet.from_pretrained(published)
    assert same(loaded, OMSUNet.from_pretrained(published))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_only_modules_with_weights_hold_tensors(published):
    """Forge's low-VRAM swap moves only submodules that have .weight; anything else would be left behind."""
    psi = OMSUNet.from_pretrained(published)
    for module in psi.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        assert not own or isinstance(getattr(module, "weight", None), torch.nn.Parameter)


# --- bare files: no config, the published architectures only --------------------------------------


def meta_file(path: Path, config: OMSUNetConfig, change=None) -> Path:
    """A bare file of this architecture in which every tensor has its shape; zeros in fp16 that take no disk."""
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in OMSUNet(config).state_dict().items()}
    if change:
        change(shapes)
    header, position = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)  # a hole: no bytes are written
    return path


def test_a_bare_base_file_is_recognised_by_its_widths(tmp_path):
    psi = OMSUNet.from_pretrained(meta_file(tmp_path / "base.safetensors", OMSUNetConfig.base()), dtype=torch.float16)
    assert psi.config == OMSUNetConfig.base()


def test_bare_files_are_recognised_without_loading(tmp_path):
    for config in (OMSUNetConfig.base(1024), OMSUNetConfig.base(768), OMSUNetConfig.large()):
        assert inspect_module(meta_file(tmp_path / "bare.safetensors", config)).config == config


def test_one_wrong_tensor_in_a_bare_file_is_found_to_be_it(tmp_path):
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    path = meta_file(
        tmp_path / "base.safetensors", OMSUNetConfig.base(), lambda shapes: shapes.update({name: [320, 768]})
    )
    with pytest.raises(ModuleFileError, match=rf"tensor '{name}' has shape \[320, 768\], expected \[320, 1024\]"):
        OMSUNet.from_pretrained(path)


@pytest.mark.parametrize("width", [0, 10**6])
def test_a_bare_file_for_an_impossible_text(tmp_path, width):
    def change(shapes):
        for name in shapes:
            if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")):
                shapes[name] = [shapes[name][0], width]

    with pytest.raises(ModuleFileError, match=r"bare\.safetensors: "):
        inspect_module(meta_file(tmp_path / "bare.safetensors", OMSUNetConfig.base(), change))


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "note": "no config here"}])
def test_a_bare_file_of_another_architecture_says_what_metadata_it_needs(tmp_path, metadata):
    path = tmp_path / "bare.safetensors"
    save_file(small().state_dict(), path, metadata)
    with pytest.raises(ModuleFileError) as caught:
        OMSUNet.from_pretrained(path)
    for word in (str(path), "metadata 'config'", "attention_head_dim", "norm_num_groups", "[8, 16, 32]"):
        assert word in str(caught.value)


# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_head_dim": 8, "num_attention_heads": [1, 2, 4]},
        {"cross_attention_dim": [WIDTH] * 3},
        {"layers_per_block": [2, 2, 2]},
        {"sample_size": 128, "upcast_attention": True, "dropout": 0.1, "new_option": [1]},
        {"act_fn": "swish", "only_cross_attention": [False, False, False]},
        {"addition_embed_type": "text_time", "time_embedding_type": "fourier"},  # the authors' class has no such option
    ],
)
def test_configs_that_mean_the_same(changes):
    assert OMSUNetConfig.from_dict({**AUTHORS_CONFIG, **changes}) == SMALL


def test_one_number_stands_for_every_block():
    config = OMSUNetConfig.from_dict({**AUTHORS_CONFIG, "attention_head_dim": 2, "transformer_layers_per_block": 3})
    assert config.num_attention_heads == (2, 2, 2)
    assert config.transformer_layers_per_block == (3, 3, 3)


def test_config_survives_its_own_dict():
    for config in (SMALL, OMSUNetConfig.tiny(), OMSUNetConfig.base(), OMSUNetConfig.large()):
        assert OMSUNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


REFUSED = {
    "center_input_sample": True,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "only_cross_attention": [False, True, False],
    "mid_block_only_cross_attention": True,
    "downsample_padding": 0,
    "mid_block_scale_factor": 2,
    "act_fn": "gelu",
    "norm_num_groups": None,
    "norm_eps": "small",
    "encoder_hid_dim": 768,
    "encoder_hid_dim_type": "text_proj",
    "dual_cross_attention": True,
    "use_linear_projection": True,
    "conv_in_kernel": 1,
    "conv_out_kernel": 5,
    "cross_attention_norm": "layer_norm",
    "attention_head_dim": [1, 3, 4],
    "block_out_channels": "8, 16, 32",
    "cross_attention_dim": [WIDTH, WIDTH, 32],
    "transformer_layers_per_block": [1, 2],
    "layers_per_block": 10**6,
    "in_channels": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "_class_name": "AutoencoderKL",
}


@pytest.mark.parametrize(("key", "value"), REFUSED.items(), ids=REFUSED)
def test_a_config_of_another_network_is_refused_by_key_and_value(published, key, value):
    (published / "oms_module" / "config.json").write_text(json.dumps({**AUTHORS_CONFIG, key: value}))
    with pytest.raises(ModuleFileError) as caught:
        OMSUNet.from_pretrained(published)
    said = str(caught.value)
    assert str(published / "oms_module" / "config.json") in said
    assert key in said
    shown = value[1] if key == "attention_head_dim" else value
    assert str(shown).strip("[]()") in said


@pytest.mark.parametrize(
    ("key", "value"),
    [("class_embed_type", "timestep"), ("time_embedding_type", "fourier"), ("addition_embed_type", "text_time")],
)
def test_conditions_psi_does_not_have_are_refused_in_diffusers_own_class(key, value):
    with pytest.raises(ValueError, match=f"{key} is '{value}', which no OMS model has; allowed is"):
        OMSUNetConfig.from_dict({**AUTHORS_CONFIG, "_class_name": "UNet2DConditionModel", key: value})


@pytest.mark.parametrize("key", ["block_out_channels", "attention_head_dim", "cross_attention_dim"])
def test_a_config_without_what_cannot_be_guessed(key):
    raw = {name: value for name, value in AUTHORS_CONFIG.items() if name != key}
    with pytest.raises(ValueError, match=f"{key} is (missing|None)"):
        OMSUNetConfig.from_dict(raw)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '"x"', "\x00\xff"])
def test_a_config_that_is_no_json_object(published, text):
    path = published / "oms_module" / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ModuleFileError, match=r"config\.json: is not (a JSON object|JSON)"):
        OMSUNet.from_pretrained(published)


# --- broken files ---------------------------------------------------------------------------------


def rewrite(published: Path, change) -> Path:
    path = published / "oms_module" / WEIGHTS_NAME
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path


def test_a_missing_tensor(published):
    name = "mid_block.resnets.1.conv2.weight"
    path = rewrite(published, lambda tensors: tensors.pop(name))
    with pytest.raises(ModuleFileError) as caught:
        OMSUNet.from_pretrained(published)
    assert str(path) in str(caught.value)
    assert f"tensor '{name}' is missing; expected [32, 32, 3, 3]" in str(caught.value)


def test_an_extra_tensor(published):
    path = rewrite(published, lambda tensors: tensors.update({"up_blocks.2.resnets.9.norm1.weight": torch.ones(8)}))
    with pytest.raises(ModuleFileError) as caught:
        OMSUNet.from_pretrained(published)
    assert str(path) in str(caught.value)
    said = str(caught.value)
    assert "tensor 'up_blocks.2.resnets.9.norm1.weight' of shape [8] is one too many: expected none" in said


def test_a_misshapen_tensor(published):
    path = rewrite(published, lambda tensors: tensors.update({"conv_out.bias": torch.zeros(8)}))
    with pytest.raises(ModuleFileError) as caught:
        OMSUNet.from_pretrained(published)
    assert str(path) in str(caught.value)
    assert "tensor 'conv_out.bias' has shape [8], expected [4]" in str(caught.value)


def test_a_transposed_tensor_of_the_same_size(published):
    name = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2.weight"
    rewrite(published, lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))
    with pytest.raises(ModuleFileError, match=rf"tensor '{name}' has shape \[64, 16\], expected \[16, 64\]"):
        OMSUNet.from_pretrained(published)


def test_whole_numbers_where_weights_should_be(published):
    rewrite(published, lambda tensors: tensors.update({"conv_out.bias": torch.zeros(4, dtype=torch.int64)}))
    with pytest.raises(ModuleFileError, match=r"tensor 'conv_out.bias' has dtype I64, expected one of .*F16"):
        OMSUNet.from_pretrained(published)


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 5_000, -1], ids=lambda keep: f"{keep} bytes")
def test_a_truncated_file(published, keep):
    path = published / "oms_module" / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModuleFileError, match="truncated") as caught:
        OMSUNet.from_pretrained(published)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_renamed_is_never_opened(published, zipped):
    path = published / "oms_module" / WEIGHTS_NAME
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModuleFileError, match=f"{WEIGHTS_NAME}: is a pickle or a torch zip archive"):
        OMSUNet.from_pretrained(published)


def test_a_folder_with_a_pickle_only(tmp_path):
    torch.save(small().state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ModuleFileError, match=r"holds no OMS model; expected config\.json and"):
        OMSUNet.from_pretrained(tmp_path)


FOREIGN = {
    "a whole SDXL checkpoint": ["conditioner.embedders.0.transformer.x", "model.diffusion_model.out.0.weight"],
    "a whole Stable Diffusion checkpoint": ["cond_stage_model.transformer.x", "model.diffusion_model.out.0.weight"],
    "the UNet of an SDXL model": ["add_embedding.linear_1.bias", "conv_in.bias", "time_embedding.linear_1.bias"],
    "the UNet of a diffusion model": ["time_embedding.linear_1.bias", "conv_in.bias"],
    "a LoRA": ["lora_unet_mid_block.alpha"],
    "something else": ["encoder.conv_in.bias"],
}


@pytest.mark.parametrize(("kind", "names"), FOREIGN.items(), ids=FOREIGN)
def test_another_models_file_is_named_for_what_it_is(tmp_path, kind, names):
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(3) for name in names}, path)
    with pytest.raises(ModuleFileError) as caught:
        OMSUNet.from_pretrained(path)
    said = str(caught.value)
    assert f"{path}: is {kind}, not an OMS model: it holds tensor '{names[0]}' of shape [3]; expected only" in said


def test_diffusers_own_unet_in_place_of_psi(published):
    folder = published / "oms_module"
    shutil.rmtree(folder)
    options = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2}
    UNet2DConditionModel(
        **options,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(folder)
    with pytest.raises(ModuleFileError, match=r"is the UNet of a diffusion model, .* holds tensor '.*time_emb"):
        OMSUNet.from_pretrained(published)


@pytest.mark.parametrize("name", ["nothing", "nothing.safetensors", "nul\0", "x" * 10_000])
def test_no_such_path(tmp_path, name):
    with pytest.raises(ModuleFileError):
        OMSUNet.from_pretrained(tmp_path / name)
