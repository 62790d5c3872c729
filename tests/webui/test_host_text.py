"""The loaded checkpoint's own text encoders, SDXL's pair or SD1.x's CLIP-L, lent by the host: as good as our own, and
without the main prompt's business.
"""

from __future__ import annotations

import gc
import io
import shutil
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from browser_helpers import host_style
from checkpoint_helpers import write_unet
from diffusers import AutoencoderKL
from extension_helpers import RequestFailed, WebUI
from host_models import CPU, Model, a1111_model, first_forge_model, forge_model
from module_helpers import tiny_psi
from safetensors.torch import load_file, save_file
from text_helpers import BIG_G, CLIP_L, VIT_H, text_model, tokenizer, vocabulary, write_tokenizer
from torch import nn
from untrained_helpers import place_untrained

from lib_oms.library import Places
from lib_oms.library.text_sources import find_tokenizer
from lib_oms.module import OMSModule
from lib_oms.text import ClipEncoder, MixClipEncoder, TextEncoder, encoder_width

pytest.importorskip("gradio")

META = torch.device("meta")
QUICK = {"sampler_name": "Euler", "steps": 1}
SD1, SD2 = "embedded", "embedded-second"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, of which the host takes one for an SD1.x and the other for an SD2.x. Beside them lies a module
    that reads the text of the former, and brings no text encoder.
    """
    folder = place_untrained(tmp_path_factory.mktemp("models") / "plain")
    for part, family in (("unet", "sd1"), ("unet_second", "sd2")):
        (weights,) = (folder / part).glob("*.safetensors")
        save_file(load_file(weights), weights, {"format": "pt", "demo.family": family})
    psi = tiny_psi(encoder_width(folder, "clip"), metadata={"oms.latents": "sd", "oms.text_encoder": "clip"})
    psi.save_pretrained(folder.parent / "sd1s" / "oms_module")
    return folder


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], model: Path) -> WebUI:
    return start_webui(host_style(), model=model)


def test_a_picture_is_made_with_the_text_of_the_loaded_sd1(webui: WebUI, model: Path) -> None:
    module = OMSModule.from_pretrained(model.parent / "sd1s", text_encoder=model)
    webui.options(sd_model_checkpoint=SD1)
    (plain,) = webui.txt2img(**QUICK).seen
    noise = plain.x / plain.level
    for main in ("a red circle", "a (yellow:1.4) square " * 30):
        made = webui.txt2img(True, "sd1s", "a (black:1.2) night", prompt=main, **QUICK)
        assert "OMS model: sd1s [" in made.infotext
        v, _ = module.predict_v(noise, ["a (black:1.2) night"])
        torch.testing.assert_close(made.seen[0].x, plain.level * noise - v, rtol=0, atol=1e-4)


def test_an_sd2_says_what_to_do_for_a_module_that_reads_the_text_of_sd1(webui: WebUI) -> None:
    from lib_oms.webui import module_note

    webui.options(sd_model_checkpoint=SD2)
    told = (
        r"'sd1s' needs its text encoder \(clip\): press Download .*, load an SD1.x checkpoint .*, which lends its own"
    )
    with pytest.raises(RequestFailed, match=told):
        webui.txt2img(True, "sd1s", "night", **QUICK)
    assert "It lacks its text encoder. Press Download." in module_note.as_html("sd1s")
    webui.options(sd_model_checkpoint=SD1)
    webui.txt2img(**QUICK)  # loads it
    assert "sd1s fits the checkpoint" in module_note.as_html("sd1s")
    assert "lacks" not in module_note.as_html("sd1s")


class WithLora(nn.Module):
    """A token embedding that A1111's Lora extension has changed for as long as its list of networks is not empty."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.wrapped(ids) + len(sys.modules["networks"].loaded_networks)


PROMPTS = ["", "a night", "a (bright:1.3) night, BREAK and [day]", "nig " * 100, "a ! night"]


def test_automatic_takes_what_the_loaded_checkpoint_has_the_text_for(
    webui: WebUI, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_oms.webui import host

    width = encoder_width(model, "clip")
    for name, kind, note in (("reads-sd1s", "clip", ""), ("larger", "openclip", "x" * 1000)):
        psi = tiny_psi(width, metadata={"oms.latents": "sd", "oms.text_encoder": kind, "note": note})
        psi.save_pretrained(tmp_path / name / "oms_module")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(model / part, tmp_path / "larger" / part)
    monkeypatch.setattr(host, "module_folders", lambda: [tmp_path])
    for checkpoint, module in ((SD1, "reads-sd1s"), (SD2, "larger")):
        webui.options(sd_model_checkpoint=checkpoint)
        webui.txt2img(**QUICK)  # loads it
        assert f"OMS model: {module} [" in webui.txt2img(True, "Automatic", "night", **QUICK).infotext


def test_what_will_be_lent_is_not_said_to_be_lacking(
    webui: WebUI, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forge loads a checkpoint only for its first picture; until then it is known by its file."""
    from modules import sd_models

    from lib_oms.webui import host, library_list, module_note

    chosen = sd_models.CheckpointInfo("one", str(write_unet(tmp_path / "one.safetensors", 768)), "0" * 64)
    monkeypatch.setattr(sd_models.model_data, "forge_loading_parameters", {"checkpoint_info": chosen}, raising=False)
    monkeypatch.setattr(host, "loaded_model", lambda: object())  # what Forge has instead of a model until then
    monkeypatch.setattr(host, "module_folders", lambda: [model.parent])
    assert host.latents_now() == "sd"
    assert "Automatic is now sd1s, for the checkpoint one (SD1/SD2)." in module_note.as_html("Automatic")
    assert "lacks" not in module_note.as_html("Automatic")
    assert library_list.look().missing is None


@pytest.fixture(params=["clip", "mixclip"])
def parts(request: pytest.FixtureRequest, clip_l: tuple, pair: tuple) -> tuple:
    """Text encoders of an SD1.x or an SDXL, with their tokenizers."""
    return clip_l if request.param == "clip" else pair


def our_own(parts: tuple) -> TextEncoder:
    return ClipEncoder(*parts) if len(parts) == 2 else MixClipEncoder(*parts)


@pytest.mark.parametrize("host", ["a1111", "forge", "first forge"])
def test_lent_text_encoder_is_as_good_as_our_own(memory: Any, monkeypatch: Any, parts: tuple, host: str) -> None:
    from lib_oms.webui import host_text

    fetched: list[Any] = []
    if host != "a1111":
        monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=fetched.append))
        model = forge_model(parts) if host == "forge" else first_forge_model(parts)
        wanted = model.forge_objects_original.clip.patcher
    else:
        model = a1111_model(parts)
        wanted = parts[0] if len(parts) == 2 else model.conditioner
        monkeypatch.setattr(wanted, "_forward_pre_hooks", {0: lambda module, _: fetched.append(module)})
    own = our_own(parts)
    assert host_text.kind_of(model) == ("clip" if len(parts) == 2 else "mixclip")
    lent = host_text.of(model)
    assert lent.width == own.width
    for prompt in PROMPTS:
        fetched.clear()
        encoded = lent.encode([prompt])
        assert fetched[:1] == [wanted], "it is where it computes before its input is made"
        torch.testing.assert_close(encoded, own.encode([prompt]), rtol=0, atol=1e-5)
    assert host_text.of(model) is lent
    assert not list(lent.parameters())  # the host's weights are the host's to move


@pytest.mark.parametrize("host", [forge_model, first_forge_model])
def test_an_sd2_lends_no_clip(memory: Any, monkeypatch: Any, tmp_path: Path, host: Any) -> None:
    from lib_oms.webui import host_text

    monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=lambda patcher: None))
    model = host((text_model(VIT_H, 1), tokenizer(tmp_path / "tokenizer", pad_token="!")))
    assert host_text.kind_of(model) is None
    assert host_text.of(model) is None


def _half_embeddings(network: nn.Module) -> nn.Module:
    """Embeddings as Forge loads them from a checkpoint in half precision; its layers take any dtype."""
    embeddings = network.text_model.embeddings.half()
    embeddings.register_forward_hook(lambda module, args, output: output.float())
    return embeddings


def test_lent_text_encoder_is_the_same_whether_or_not_the_host_has_encoded_with_it(
    memory: Any, monkeypatch: Any, parts: tuple
) -> None:
    """Forge and Forge Neo turn the embeddings to float32 when they encode (encode_with_transformers). A model that was
    unloaded and comes back has not, if the main prompt's conditioning is still in their cache.
    """
    from lib_oms.webui import host_text

    monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=lambda patcher: None))
    halves = [_half_embeddings(network) for network in parts[::2]]
    with torch.inference_mode():  # in which hosts call scripts
        model, again = forge_model(parts), forge_model(parts)
        before = host_text.of(model).encode(["night"])
        for embeddings in halves:
            embeddings.token_embedding.to(torch.float32)
            embeddings.position_embedding.to(torch.float32)
        after = host_text.of(again).encode(["night"])
    assert torch.equal(before, after)
    torch.testing.assert_close(before, our_own(parts).encode(["night"]), rtol=0, atol=1e-5)


def test_lent_text_encoder_is_called_where_its_patcher_computes_and_not_where_a_first_weight_lies(
    memory: Any, monkeypatch: Any, parts: tuple
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
        return SimpleNamespace(hidden_states=[states, states], last_hidden_state=states)

    for network in parts[::2]:
        monkeypatch.setattr(network, "forward", forward)
    model = forge_model(parts, META)
    host_text.of(model).encode(["night"])
    assert seen == [(META, META, (1, 77))] * len(parts[::2])


def test_lent_text_encoder_goes_without_the_loras_of_the_main_prompt(
    memory: Any, monkeypatch: Any, parts: tuple
) -> None:
    from lib_oms.webui import host_text

    networks = SimpleNamespace(loaded_networks=[])
    monkeypatch.setitem(sys.modules, "networks", networks)
    embeddings = parts[0].text_model.embeddings
    expected = our_own(parts).encode(["night"])
    embeddings.token_embedding = WithLora(embeddings.token_embedding)
    networks.loaded_networks = loras = ["a lora"]
    model = a1111_model(parts)
    lent = host_text.of(model)
    torch.testing.assert_close(lent.encode(["night"]), expected, rtol=0, atol=1e-5)
    assert networks.loaded_networks is loras
    assert not torch.allclose(our_own(parts).encode(["night"]), expected)  # with it, it would differ


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
    assert host_text.of(Model()) is None


def test_a_pair_that_is_dropped_loses_its_prompts_and_keeps_its_tokenizers(memory: Any, pair: tuple) -> None:
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
    host.say_skipped(SimpleNamespace(comment=said.append), "the OMS model '暗' is for SDXL")
    assert said == ["One More Step skipped: the OMS model '暗' is for SDXL"]
    job = Job()
    job.start("暗")
    for _ in job.watch():
        pass
    assert "no OMS model '暗' is published" in job.outcome


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


@pytest.mark.parametrize("host", [a1111_model, forge_model, first_forge_model])
def test_module_with_the_lent_pair_reads_no_other_and_obeys(
    memory: Any, monkeypatch: pytest.MonkeyPatch, pair: tuple, host: Any, root: Path, tmp_path: Path
) -> None:
    from lib_oms.library import scan
    from lib_oms.module_cache import ModuleCache
    from lib_oms.webui import host_text

    if host is not a1111_model:
        monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=lambda patcher: None))
    shutil.copytree(root / "models/demo-xl/oms_module", tmp_path / "large" / "oms_module")  # and no text encoder
    (entry,) = scan([tmp_path])
    assert entry.text_encoder == "mixclip"
    model = host(pair)
    lent = host_text.of(model)
    cache = ModuleCache(lambda entry: pytest.fail("another text encoder was looked for"))
    with cache.use(entry, "x", torch.float32, lent) as module:
        assert module.text_encoder is lent
    noise = torch.randn(2, 4, 32, 32)
    vae = AutoencoderKL.from_pretrained(root / "models/demo-xl/vae", local_files_only=True).float()
    seen = {}
    for ground in ("black", "gray", "white", "red"):
        prompt = f"a blue circle on a {ground} background"
        v, _ = module.predict_v(noise, [prompt])
        torch.testing.assert_close(v, module.psi(noise, MixClipEncoder(*pair).encode([prompt])), rtol=0, atol=1e-5)
        with torch.no_grad():  # at the last timestep x0hat is -v
            pictures = vae.decode(-v / vae.config.scaling_factor).sample / 2 + 0.5
        seen[ground] = pictures.clamp(0, 1).mean(dim=(0, 2, 3))
    assert seen["black"].mean() < 0.2 < 0.35 < seen["gray"].mean() < 0.6 < 0.8 < seen["white"].mean()
    assert seen["red"][0] > 0.6 > 0.3 > seen["red"][1]
    with cache.use(entry, "x", torch.float32, lent) as again:
        assert again is module
    cache.clear()
