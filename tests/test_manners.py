"""How the extension behaves as a guest in the host: device memory, text encoders it borrows, failures.

The parts are called inside a running miniature WebUI, whose `modules` they import. "meta" plays a device with memory of
its own: tensors really leave the CPU for it.
"""

from __future__ import annotations

import gc
import io
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from extension_helpers import RequestFailed, WebUI
from manager_helpers import MANAGERS, ForgeManager
from module_helpers import tiny_encoder, tiny_psi
from pretend_device import PretendDevice
from text_helpers import BIG_G, CLIP_L, text_model, tokenizer, vocabulary, write_tokenizer
from torch import nn

from lib_oms.embedded.make import write_untrained
from lib_oms.settings import OMSSettings
from lib_oms.text import MixClipEncoder
from lib_oms.text_sources import Places, find_tokenizer

pytest.importorskip("gradio")

MODULE = "untrained"
META, CPU = torch.device("meta"), torch.device("cpu")
POLICIES = ("keep on the device", "keep in RAM", "drop after use")


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("manners")
    write_untrained(folder / "models" / MODULE, seed=0)
    webui = WebUI(folder / "webui", "a1111", folder / "models" / MODULE)
    yield webui
    webui.close()


@pytest.fixture
def options(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets an option of the running host for one test."""
    from modules import shared

    return lambda name, value: monkeypatch.setitem(shared.opts.data, name, value)


@pytest.fixture
def memory(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Any:
    from lib_oms.webui import memory

    monkeypatch.setattr(memory, "manager", None)
    return memory


# Device memory


class Guest(nn.Linear):
    """A network that can come back from "meta"; its numbers do not matter here."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def _apply(self, fn: Any, recurse: bool = True) -> Guest:
        try:
            return super()._apply(fn, recurse)
        except NotImplementedError:  # "Cannot copy out of meta tensor"
            return self.to_empty(device=CPU)

    @property
    def at(self) -> torch.device:
        return self.weight.device


@pytest.mark.parametrize("policy", POLICIES)
def test_plain_host(memory: Any, options: Any, policy: str) -> None:
    options("oms_memory_policy", policy)
    guest = Guest()
    with memory.on_device(guest, META):
        assert guest.at == META
    assert guest.at == (META if policy == "keep on the device" else CPU)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_prompt_that_is_known_brings_no_text_encoder_to_the_device(
    memory: Any, options: Any, tmp_path: Path, kind: str
) -> None:
    from lib_oms.webui import hook
    from lib_oms.webui.request import FirstStep, Request

    options("oms_memory_policy", "keep in RAM")
    encoder = tiny_encoder(tmp_path)
    first_step, noise = FirstStep(1.0, True, 1.0), torch.zeros(1, 4, 8, 8)
    asked = Request(OMSSettings(prompt="night"), ["a"], [1], [], 0.0, noise, first_step)
    with PretendDevice(kind) as device:
        first = hook._encoded(asked, encoder, torch.device(kind))
        came = device.moved
        again = hook._encoded(asked, encoder, torch.device(kind))
        assert came > 0
        assert device.moved == came
        torch.testing.assert_close(again["night"].cpu(), first["night"].cpu(), rtol=0, atol=0)


def test_unknown_policy_is_keep_in_ram(memory: Any, options: Any) -> None:
    options("oms_memory_policy", "something of the future")
    assert memory.memory_policy() == "keep in RAM"


@pytest.mark.parametrize("policy", POLICIES)
def test_host_that_saves_memory_has_its_own_part_sent_away_first_and_gets_the_device_back(
    memory: Any, options: Any, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    options("oms_memory_policy", policy)
    guest, where = Guest(), []
    monkeypatch.setattr(memory.lowvram, "is_enabled", lambda model: True)
    monkeypatch.setattr(memory.lowvram, "send_everything_to_cpu", lambda: where.append(guest.at))
    with memory.on_device(guest, META):
        assert where == [CPU]
        assert guest.at == META
    assert guest.at == CPU


def test_failure_leaves_nothing_on_the_device(memory: Any, options: Any) -> None:
    options("oms_memory_policy", "keep on the device")
    guest = Guest()
    with pytest.raises(RuntimeError, match="out of memory"), memory.on_device(guest, META):
        raise RuntimeError("out of memory")
    assert guest.at == CPU


@pytest.fixture(params=MANAGERS)
def managed(memory: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ForgeManager:
    manager = MANAGERS[request.param]()
    monkeypatch.setattr(memory, "manager", manager)
    monkeypatch.setattr(memory, "ModelPatcher", manager.patcher)
    monkeypatch.setattr(manager.patcher, "made", 0)
    return manager


@pytest.mark.parametrize("policy", POLICIES)
def test_managed_host_has_one_patcher_and_evicts_it(
    memory: Any, managed: ForgeManager, options: Any, policy: str
) -> None:
    options("oms_memory_policy", policy)
    guest = Guest()
    for _ in range(3):
        with memory.on_device(guest, META):
            assert [loaded.model.model.network for loaded in managed.current_loaded_models] == [guest]
            assert guest.at == META
        stays = policy == "keep on the device"
        assert len(managed.current_loaded_models) == int(stays)
        assert guest.at == (META if stays else CPU)
    assert managed.patcher.made == 1
    # The sampler's own load evicts a guest that was left there.
    samplers = managed.patcher(Guest(), META, CPU)
    managed.load_models_gpu([samplers])
    assert guest.at == CPU


def held(cache: Any) -> list[Any]:
    """The modules in memory."""
    return [held.module for held in cache._modules.values()]


@pytest.mark.parametrize("policy", POLICIES)
def test_same_pictures_under_every_policy_and_only_drop_forgets(
    webui: WebUI, options: Any, capfd: pytest.CaptureFixture[str], policy: str
) -> None:
    from lib_oms.webui.loaded import LOADED

    LOADED.clear()
    expected = webui.txt2img(True, MODULE, "night", 1.5, sampler_name="Euler").pixels
    LOADED.clear()
    capfd.readouterr()
    options("oms_memory_policy", policy)
    for _ in range(2):
        assert webui.txt2img(True, MODULE, "night", 1.5, sampler_name="Euler").pixels == expected
    dropped = policy == "drop after use"
    assert capfd.readouterr().out.count("Loading OMS module") == (2 if dropped else 1)
    assert (not held(LOADED)) == dropped


def test_dropped_module_is_really_gone(webui: WebUI, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_oms.module import OMSModule
    from lib_oms.webui.loaded import LOADED

    loaded = []

    def watched(*args: Any, **kwargs: Any) -> OMSModule:
        module = load(*args, **kwargs)
        loaded.extend(weakref.ref(part) for part in (module.psi, module.text_encoder))
        return module

    load = OMSModule.from_pretrained
    monkeypatch.setattr(OMSModule, "from_pretrained", watched)
    LOADED.clear()
    options("oms_memory_policy", "drop after use")
    webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    gc.collect()
    assert len(loaded) == 2
    assert [part() for part in loaded] == [None, None]


def test_known_prompts_leave_the_text_encoder_where_it_is(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_oms.webui import memory

    moved = []
    on_device = memory.on_device

    def watched(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        moved.append(type(network))
        return on_device(network, *args, **kwargs)

    monkeypatch.setattr(memory, "on_device", watched)
    for _ in range(2):
        webui.txt2img(True, MODULE, "a prompt that was never there before", 1.5, sampler_name="Euler")
    assert [kind.__name__ for kind in moved] == ["OpenCLIPEncoder", "OMSUNet", "OMSUNet"]


# SDXL's own text encoders


class OpenClipEmbedder(nn.Module):
    """sgm's FrozenOpenCLIPEmbedder2 by its interface, around transformers' bigG: both compute the same."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.positional_embedding = network.text_model.embeddings.position_embedding.weight
        self.model.vocab_size = network.config.vocab_size
        self.network = network

    def encode_with_transformer(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.network(input_ids=ids, output_hidden_states=True).hidden_states
        return {"penultimate": states[-2], "last": states[-1]}


class WithLora(nn.Module):
    """A token embedding that A1111's Lora extension has changed for as long as its list of networks is not empty."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.wrapped(ids) + len(sys.modules["networks"].loaded_networks)


@pytest.fixture
def pair(tmp_path: Path) -> tuple:
    return (
        text_model(CLIP_L, 2),
        tokenizer(tmp_path / "tokenizer"),
        text_model(BIG_G, 3, projection=True),
        tokenizer(tmp_path / "tokenizer_2", pad_token="!"),
    )


def a1111_model(pair: tuple) -> Any:
    """As A1111's sd_hijack leaves an SDXL model: the conditioner with its embedders, each wrapped."""
    first = SimpleNamespace(wrapped=SimpleNamespace(transformer=pair[0], tokenizer=pair[1]))
    second = SimpleNamespace(wrapped=OpenClipEmbedder(pair[2]))
    conditioner = nn.Module()
    conditioner.embedders = [first, second]
    return _Model(conditioner=conditioner, sd_checkpoint_info=SimpleNamespace(filename="a.safetensors"))


def forge_model(pair: tuple, load_device: torch.device = CPU) -> Any:
    """As Forge's StableDiffusionXL engine."""
    engines = [
        SimpleNamespace(text_encoder=SimpleNamespace(transformer=network), tokenizer=tokenizer, id_pad=pad)
        for network, tokenizer, pad in ((pair[0], pair[1], pair[1].pad_token_id), (pair[2], pair[3], 0))
    ]
    clip = SimpleNamespace(patcher=SimpleNamespace(load_device=load_device))
    return _Model(
        text_processing_engine_l=engines[0],
        text_processing_engine_g=engines[1],
        forge_objects_original=SimpleNamespace(clip=clip),
    )


class LdmPatchedClip(nn.Module):
    """ldm_patched/modules/clip_model.py's CLIPTextModel by its interface, around transformers'."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.text_model = network.text_model

    def forward(
        self, input_tokens: Any, attention_mask: Any = None, intermediate_output: Any = None,
        final_layer_norm_intermediate: bool = True,
    ) -> tuple:
        found = self.text_model(input_ids=input_tokens, output_hidden_states=True)
        between = found.hidden_states[intermediate_output]
        if final_layer_norm_intermediate:
            between = self.text_model.final_layer_norm(between)
        return found.last_hidden_state, between, found.pooler_output


def first_forge_model(pair: tuple) -> Any:
    """As the forge_loader of reForge and Forge Classic leaves an SDXL model."""
    embedders = [
        SimpleNamespace(wrapped=SimpleNamespace(transformer=LdmPatchedClip(network), tokenizer=tokenizer), id_pad=pad)
        for network, tokenizer, pad in ((pair[0], pair[1], pair[1].pad_token_id), (pair[2], pair[3], 0))
    ]
    return _Model(
        conditioner=SimpleNamespace(embedders=[*embedders, object()]),
        forge_objects_original=SimpleNamespace(clip=SimpleNamespace(patcher=object())),
        sd_checkpoint_info=SimpleNamespace(filename="a.safetensors"),
    )


class _Model(SimpleNamespace):
    """With an identity, as the hosts' models have."""

    __hash__ = object.__hash__


PROMPTS = ["", "a night", "a (bright:1.3) night, BREAK and [day]", "nig " * 100, "a ! night"]


@pytest.mark.parametrize("kind", ["a1111", "forge", "first forge"])
def test_lent_pair_is_as_good_as_our_own(memory: Any, monkeypatch: Any, pair: tuple, kind: str) -> None:
    from lib_oms.webui import host_text

    fetched = []
    if kind != "a1111":
        monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=fetched.append))
        model = forge_model(pair) if kind == "forge" else first_forge_model(pair)
    else:
        model = a1111_model(pair)
        model.conditioner.register_forward_pre_hook(lambda module, _: fetched.append(module))
    own = MixClipEncoder(*pair)
    lent = host_text.of(model)
    assert lent.width == own.width
    for prompt in PROMPTS:
        torch.testing.assert_close(lent.encode([prompt]), own.encode([prompt]), rtol=0, atol=1e-5)
    wanted = model.conditioner if kind == "a1111" else model.forge_objects_original.clip.patcher
    assert fetched == [wanted] * len(PROMPTS)
    assert host_text.of(model) is lent
    assert not list(lent.parameters())  # the host's weights are the host's to move


def _half_embeddings(network: nn.Module) -> nn.Module:
    """Embeddings as Forge loads them from a checkpoint in half precision; its layers take any dtype."""
    embeddings = network.text_model.embeddings.half()
    embeddings.register_forward_hook(lambda module, args, output: output.float())
    return embeddings


def test_lent_pair_is_the_same_whether_or_not_the_host_has_encoded_with_it(
    memory: Any, monkeypatch: Any, pair: tuple
) -> None:
    """Forge and Forge Neo turn the embeddings to float32 when they encode (encode_with_transformers). A model that was
    unloaded and comes back has not, if the main prompt's conditioning is still in their cache.
    """
    from lib_oms.webui import host_text

    monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=lambda patcher: None))
    halves = [_half_embeddings(network) for network in (pair[0], pair[2])]
    with torch.inference_mode():  # in which hosts call scripts
        model, again = forge_model(pair), forge_model(pair)
        before = host_text.of(model).encode(["night"])
        for embeddings in halves:
            embeddings.token_embedding.to(torch.float32)
            embeddings.position_embedding.to(torch.float32)
        after = host_text.of(again).encode(["night"])
    assert torch.equal(before, after)
    torch.testing.assert_close(before, MixClipEncoder(*pair).encode(["night"]), rtol=0, atol=1e-5)


def test_lent_pair_is_called_where_its_patcher_computes_and_not_where_a_first_weight_lies(
    memory: Any, monkeypatch: Any, pair: tuple
) -> None:
    """When memory is short Forge leaves weights in RAM, and position_ids always; its layers fetch their weights to the
    input.
    """
    from lib_oms.webui import host_text

    monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=lambda patcher: None))
    seen = []

    def forward(input_ids: Any, position_ids: Any, output_hidden_states: bool) -> Any:
        seen.append((input_ids.device, position_ids.device, position_ids.shape))
        states = torch.zeros(*input_ids.shape, 24, device=CPU)
        return SimpleNamespace(hidden_states=[states, states])

    for network in (pair[0], pair[2]):
        monkeypatch.setattr(network, "forward", forward)
    model = forge_model(pair, META)
    host_text.of(model).encode(["night"])
    assert seen == [(META, META, (1, 77))] * 2


def test_lent_pair_goes_without_the_loras_of_the_main_prompt(memory: Any, monkeypatch: Any, pair: tuple) -> None:
    from lib_oms.webui import host_text

    networks = SimpleNamespace(loaded_networks=[])
    monkeypatch.setitem(sys.modules, "networks", networks)
    embeddings = pair[0].text_model.embeddings
    expected = MixClipEncoder(*pair).encode(["night"])
    embeddings.token_embedding = WithLora(embeddings.token_embedding)
    networks.loaded_networks = loras = ["a lora"]
    model = a1111_model(pair)
    lent = host_text.of(model)
    torch.testing.assert_close(lent.encode(["night"]), expected, rtol=0, atol=1e-5)
    assert networks.loaded_networks is loras
    assert not torch.allclose(MixClipEncoder(*pair).encode(["night"]), expected)  # with it, it would differ


@pytest.mark.parametrize(
    "folder", ["stable-diffusion-2-1/tokenizer", "stable-diffusion-xl-base-1.0/tokenizer_2"], ids=["forge", "neo"]
)
def test_an_sd2_among_the_checkpoints_gets_the_tokenizer_that_the_host_brings_along(
    webui: WebUI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    from modules import paths

    from lib_oms.webui import host

    bundled = write_tokenizer(tmp_path / "backend/huggingface/stabilityai" / folder, pad_token="!")
    monkeypatch.setattr(paths, "script_path", str(tmp_path))
    tokenizer = find_tokenizer(len(vocabulary()), Places(tokenizers=tuple(host.tokenizer_folders())))
    assert tokenizer is not None
    assert host.tokenizer_folders() == [bundled]
    assert tokenizer().pad_token_id == 0


def test_other_weights_in_the_same_model_are_another_pair(memory: Any, pair: tuple) -> None:
    from lib_oms.webui import host_text

    model = a1111_model(pair)
    lent = host_text.of(model)
    model.sd_checkpoint_info = SimpleNamespace(filename="b.safetensors")
    assert host_text.of(model) is not lent
    assert host_text.of(_Model()) is None


def test_a_pair_that_is_dropped_forgets_its_prompts_and_keeps_its_tokenizers(memory: Any, pair: tuple) -> None:
    """transformers 4 never frees a tokenizer: "drop after use" must not make two with each picture."""
    from lib_oms.webui import host_text

    model = a1111_model(pair)
    lent = host_text.of(model)
    lent.encode(["night"])
    assert lent.remembered(["night"], lent.device) is not None
    host_text.forget()
    assert lent.remembered(["night"], lent.device) is None
    assert host_text.of(model) is lent


def test_page_download_and_queue_get_the_same_pair(memory: Any, pair: tuple) -> None:
    """psi is kept for the encoder that it was loaded with: with another one it would be read again."""
    from lib_oms.webui import host_text

    model = a1111_model(pair)
    barrier, got = threading.Barrier(4), []

    def ask() -> None:
        barrier.wait()
        got.append(host_text.of(model))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert len({id(lent) for lent in got}) == 1


def test_checkpoints_of_one_vocabulary_share_its_tokenizers(memory: Any, pair: tuple) -> None:
    """transformers 4 never frees a tokenizer: another two with each checkpoint that is loaded would be a leak."""
    from lib_oms.webui import host_text

    first = host_text.of(a1111_model(pair))
    second = host_text.of(a1111_model(pair))
    assert second is not first
    assert [tower.tokenizer for tower in second.towers] == [tower.tokenizer for tower in first.towers]
    assert [tower.tokenizer.pad_token_id for tower in first.towers] == [pair[1].pad_token_id, 0]

    pair[1].add_tokens(["another"])
    assert "another" in host_text._fast(pair[1], 0).get_vocab()


def test_a_console_that_cannot_show_a_name_stops_nothing(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_oms.webui import host
    from lib_oms.webui.downloading import Job

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    said = []
    host.say_skipped(SimpleNamespace(comment=said.append), "the OMS module '暗' is for SDXL")
    assert said == ["One More Step skipped: the OMS module '暗' is for SDXL"]
    job = Job()
    job.start("暗")
    for _ in job.watch():
        pass
    assert "no module '暗' is published" in job.outcome


def test_unloaded_model_is_not_kept(memory: Any, tmp_path: Path) -> None:
    from lib_oms.webui import host_text

    network = text_model(CLIP_L, 2)
    pair = (network, tokenizer(tmp_path / "t"), text_model(BIG_G, 3, projection=True), None)
    model = a1111_model(pair)
    host_text.of(model).encode(["night"])
    gone = weakref.ref(model), weakref.ref(network)
    del model, network, pair
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_module_with_the_lent_pair_reads_no_other(memory: Any, pair: tuple, tmp_path: Path) -> None:
    from lib_oms import library
    from lib_oms.module_cache import ModuleCache
    from lib_oms.webui import host_text

    width = CLIP_L["hidden_size"] + BIG_G["hidden_size"]
    metadata = {"oms.text_encoder": "mixclip", "oms.latents": "sdxl"}
    tiny_psi(width, metadata=metadata).save_pretrained(tmp_path / "large" / "oms_module")  # and no text encoder
    (entry,) = library.scan([tmp_path])
    model = a1111_model(pair)
    lent = host_text.of(model)
    cache = ModuleCache(lambda entry: pytest.fail("another text encoder was looked for"))
    with cache.use(entry, "x", torch.float32, lent) as module:
        assert module.text_encoder is lent
    noise = torch.randn(1, 4, 8, 8)
    v, _ = module.predict_v(noise, ["night"])
    torch.testing.assert_close(v, module.psi(noise, MixClipEncoder(*pair).encode(["night"])), rtol=0, atol=1e-5)
    with cache.use(entry, "x", torch.float32, lent) as again:
        assert again is module
    cache.clear()


# Failures


class OutOfMemory:
    """psi's forward when the device is full."""

    def __call__(self, *args: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def full_device(webui: WebUI) -> Iterator[None]:
    from lib_oms.webui.loaded import LOADED

    LOADED.clear()
    webui.txt2img(True, MODULE, sampler_name="Euler")
    (module,) = held(LOADED)
    hook = module.psi.register_forward_pre_hook(OutOfMemory())
    yield
    hook.remove()


def test_out_of_memory_says_what_to_do(webui: WebUI, full_device: None) -> None:
    with pytest.raises(RequestFailed, match=r"too little free memory.*smaller module.*Tried to allocate") as failed:
        webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    # Forge Neo takes these words for an error of its own sampling, and then synchronizes a GPU that need not be there.
    assert "out of memory" not in str(failed.value).lower()
    assert webui.txt2img(sampler_name="Euler").seen


def test_no_message_has_the_words_by_which_a_host_knows_its_own_errors(webui: WebUI) -> None:
    with pytest.raises(RequestFailed, match="there is no OMS module named") as failed:
        webui.txt2img(True, "Out of Memory", sampler_name="Euler")
    assert "out of memory" not in str(failed.value).lower()


def test_out_of_memory_without_it_if_a_person_wants_that(webui: WebUI, options: Any, full_device: None) -> None:
    options("oms_on_failure", "continue without it")
    plain = webui.txt2img(sampler_name="Euler")
    made = webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    assert made.pixels == plain.pixels
    assert 'OMS skipped: "it failed: there is too little free memory' in made.infotext
    assert "OMS: True" not in made.infotext


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((True, "no such module"), "there is no OMS module named"),
        ((True, "Automatic", "", 99), "OMS guidance scale (guidance_scale): 99 is not allowed"),
        (("yes",), "true or false"),
    ],
)
def test_what_else_fails_goes_without_it_if_a_person_wants_that(
    webui: WebUI, options: Any, capfd: pytest.CaptureFixture[str], args: tuple, reason: str
) -> None:
    options("oms_on_failure", "continue without it")
    plain = webui.txt2img(sampler_name="Euler")
    made = webui.txt2img(*args, sampler_name="Euler")
    assert made.pixels == plain.pixels
    assert "OMS skipped: " in made.infotext
    assert reason in made.infotext
    assert "OMS: True" not in made.infotext
    assert reason in capfd.readouterr().out
    options("oms_on_failure", "stop")
    with pytest.raises(RequestFailed):
        webui.txt2img(*args, sampler_name="Euler")
