"""The trainer: what it learns, what it caches, what it draws, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file
from training_helpers import (
    CAPTIONS,
    LEVELS,
    TEXT_WIDTH,
    assert_same_bits,
    small_config,
    small_data,
    small_settings,
    weights,
    write_model,
    write_picture,
    write_pictures,
)

from lib_oms import __main__ as command_line
from lib_oms.errors import OMSError, SettingError
from lib_oms.module import OMSModule
from lib_oms.psi import OMSUNet
from lib_oms.text import ClipEncoder, load_text_encoder
from lib_oms.training import checkpoint, draws, loop, train
from lib_oms.training import data as training_data
from lib_oms.training.data import Encoders, Rows, Workers, encode_examples, load_vae, scaled_latents
from lib_oms.training.dataset import read_image_folder
from lib_oms.training.network import checkpoint_gradients
from lib_oms.training.state import learning_rate, moving_average


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


# What it learns


@pytest.mark.slow
def test_psi_learns_minus_x0_of_each_caption(tmp_path):
    settings = small_settings(tmp_path, steps=150, lr=5e-3, warmup=10, batch_size=24, ema_decay=0.9, save_every=1000)
    psi = OMSUNet.from_pretrained(train(settings, small_data(), small_config()))
    text = torch.nn.functional.one_hot(torch.arange(4), 8).float()[:, None].expand(4, 5, 8)
    with torch.no_grad():
        x0hat = -psi(torch.randn(4, 4, 4, 4), text)
    means = x0hat.mean((1, 2, 3))
    torch.testing.assert_close(means[:3], torch.tensor(LEVELS), atol=0.12, rtol=0)
    # With an empty caption the least squared error is the mean of all.
    assert float(means[3]) == pytest.approx(sum(LEVELS) / 3, abs=0.15)


def test_the_same_settings_give_the_same_bits(tmp_path):
    first = train(small_settings(tmp_path / "a"), small_data(), small_config())
    second = train(small_settings(tmp_path / "b"), small_data(), small_config())
    other = train(small_settings(tmp_path / "c", seed=1), small_data(), small_config())
    assert_same_bits(weights(first), weights(second))
    assert not torch.equal(weights(first)["conv_in.weight"], weights(other)["conv_in.weight"])


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(small_settings(tmp_path, steps=1), small_data(), small_config())
    assert torch.equal(torch.rand(3), expected)


def test_accumulation_changes_rounding_only(tmp_path):
    whole = weights(train(small_settings(tmp_path / "a"), small_data(), small_config()))
    parts = weights(train(small_settings(tmp_path / "b", accumulate=4), small_data(), small_config()))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-4, rtol=1e-3)


def test_gradient_checkpointing_changes_rounding_only(tmp_path, monkeypatch):
    plain = weights(train(small_settings(tmp_path / "a", steps=2), small_data(), small_config()))
    started = []
    forward = ResnetBlock2D.forward
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda *args: started.append(1) or forward(*args))
    settings = small_settings(tmp_path / "b", steps=2, gradient_checkpointing=True)
    spared = weights(train(settings, small_data(), small_config()))
    blocks = sum(isinstance(module, ResnetBlock2D) for module in OMSUNet(small_config()).modules())
    assert len(started) > 2 * 1.5 * blocks, "most blocks run forward twice in a step"
    for name in plain:
        torch.testing.assert_close(spared[name], plain[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [4, 5])
def test_gradients_are_the_same_where_activations_are_computed_again(side):
    text, noise, x_0 = torch.randn(2, 5, 8), torch.randn(2, 4, side, side), torch.randn(2, 4, side, side)
    plain = OMSUNet(small_config()).train()
    spared = copy.deepcopy(plain)
    checkpoint_gradients(spared)
    for psi in (plain, spared):
        torch.nn.functional.mse_loss(psi(noise, text), -x_0).backward()
    for (name, one), other in zip(plain.named_parameters(), spared.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name


def test_what_is_saved_is_the_moving_average(tmp_path):
    averaged = train(small_settings(tmp_path / "a"), small_data(), small_config())
    plain = train(small_settings(tmp_path / "b", ema_decay=0.0), small_data(), small_config())
    newest = checkpoint.list_checkpoints(tmp_path / "a" / "training" / "checkpoints")[-1]
    last = load_file(newest / "psi.safetensors")
    ema = load_file(newest / "ema.safetensors")
    assert torch.equal(last["psi.conv_in.weight"], weights(plain)["conv_in.weight"])
    assert torch.equal(ema["ema.module.conv_in.weight"], weights(averaged)["conv_in.weight"])
    assert not torch.equal(weights(averaged)["conv_in.weight"], weights(plain)["conv_in.weight"])


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no GradScaler for the CPU")
def test_a_step_that_overflowed_leaves_the_moving_average_alone(tmp_path, monkeypatch):
    """As fp16 on a GPU: the scaler tries larger and larger scales, and skips the steps at which that was too much."""
    data = small_data()
    data.latents *= 100  # a loss that overflows at the second scale
    scalers = []

    def scaled(settings):
        accelerator = make(settings)
        scalers.append(torch.amp.GradScaler("cpu", init_scale=1e6, growth_factor=1e32, growth_interval=2))
        accelerator.scaler = scalers[-1]
        return accelerator

    make = loop._make_accelerator
    monkeypatch.setattr(loop, "_make_accelerator", scaled)
    same = dict(schedule="constant", clip=0.0, warmup=0, ema_decay=0.9)
    before = weights(train(small_settings(tmp_path / "a", steps=2, **same), data, small_config()))
    after = weights(train(small_settings(tmp_path / "b", steps=5, **same), data, small_config()))
    assert scalers[1].get_scale() == 2.0**-3 * scalers[0].get_scale() > 1e30, "steps 3 to 5 were skipped"
    assert_same_bits(before, after)


def test_moving_average_rises_to_its_decay():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = moving_average(module, decay=0.5)
    expected = 1.0
    for step in range(1, 30):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update_parameters(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_file_says_how_it_was_made_and_nothing_of_where(tmp_path):
    folder = train(small_settings(tmp_path, steps=3), small_data(), small_config())
    psi = OMSUNet.from_pretrained(tmp_path)  # the output folder is a module folder: it has the oms_module/ level
    facts = psi.metadata
    assert facts["oms.latents"] == "oms-demo"
    assert facts["oms.text_encoder"] == "openclip"
    for name, value in {"steps": 3, "seed": 0, "lr": 1e-3, "batch_size": 8, "examples": 24}.items():
        assert facts[f"training.{name}"] == str(value)
    assert len(facts["training.dataset_sha256"]) == 64
    assert f"torch {version('torch')}" in facts["training.versions"]
    assert math.isfinite(float(facts["training.loss"]))
    assert psi.config == small_config()
    assert not any(str(tmp_path) in value for value in facts.values())
    assert folder == tmp_path / "oms_module"


def test_log_has_a_line_every_so_often(tmp_path):
    train(small_settings(tmp_path, steps=5), small_data(), small_config())
    lines = [json.loads(line) for line in (tmp_path / "training" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(math.isfinite(line["loss"]) for line in lines)


def board_of(output):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(output / "training" / "tensorboard")).Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def test_tensorboard_shows_what_the_log_says(tmp_path):
    """Also after a break: what a killed run had written beyond its checkpoint is hidden."""
    settings = small_settings(tmp_path, steps=4, log_every=1, save_every=2, tensorboard=True)
    train(settings, small_data(), small_config())
    checkpoint.remove(checkpoint.list_checkpoints(tmp_path / "training" / "checkpoints")[-1])
    train(settings, small_data(), small_config())
    lines = [json.loads(line) for line in (tmp_path / "training" / "log.jsonl").read_text().splitlines()]
    shown = board_of(tmp_path)
    assert shown.keys() == {"loss", "lr", "images_per_second"}
    for name in ("loss", "lr"):
        assert [step for step, _ in shown[name]] == [1, 2, 3, 4]
        assert [value for _, value in shown[name]] == pytest.approx([line[name] for line in lines])


def test_tensorboard_that_is_missing_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OMSError, match=r"--tensorboard needs the library tensorboard .*pip install tensorboard"):
        train(small_settings(tmp_path, tensorboard=True), small_data(), small_config())
    assert not (tmp_path / "training").exists()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(OMSError, match="no longer finite"):
        train(small_settings(tmp_path, lr=1e30, clip=0.0, warmup=0, steps=50), small_data(), small_config())


# What it draws


def all_draws(settings, data, share=None, first=0):
    share = share or [slice(0, settings.batch_size)]
    return list(draws.ahead(draws.draws(settings, data, share, first)))


def test_draws_depend_on_the_step_alone(tmp_path):
    settings, data = small_settings(tmp_path, steps=9), small_data()
    late = all_draws(settings, data, first=6)
    assert len(late) == 3
    for a, b in zip(all_draws(settings, data)[6:], late, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_processes_share_one_batch(tmp_path):
    settings, data = small_settings(tmp_path, steps=2, accumulate=2), small_data()
    whole = all_draws(settings, data)
    shares = loop._share_of_batch(settings, processes=2)
    per_process = [all_draws(settings, data, share) for share in shares]
    for step in range(2):
        parts = [part for drawn in per_process for part in drawn[2 * step : 2 * step + 2]]
        for kind in range(3):
            assert torch.equal(torch.cat([part[kind] for part in parts]), whole[step][kind])


def test_every_epoch_shows_each_example_once_in_another_order():
    order = draws.Order(seed=5, count=7)
    seen = torch.cat([order.examples(first, 3) for first in range(0, 21, 3)]).view(3, 7)
    assert seen.sort(dim=1).values.tolist() == [list(range(7))] * 3
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 3
    assert torch.equal(draws.Order(5, 7).examples(9, 12), seen.flatten()[9:])


def test_a_batch_may_be_larger_than_the_data(tmp_path):
    train(small_settings(tmp_path, batch_size=8, steps=2), small_data(3), small_config())


def test_captions_are_dropped_as_often_as_asked(tmp_path):
    settings = small_settings(tmp_path, steps=200, batch_size=24, caption_dropout=0.25)
    empty = small_data().text[0]
    dropped = [torch.equal(text, empty) for _, batch, _ in all_draws(settings, small_data()) for text in batch]
    assert sum(dropped) / len(dropped) == pytest.approx(0.25, abs=0.02)


def test_noise_is_standard_normal(tmp_path):
    noise = torch.cat([noise for noise, _, _ in all_draws(small_settings(tmp_path, steps=100), small_data())])
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert len(torch.unique(noise[:, 0, 0, 0])) == len(noise)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate(tmp_path, schedule):
    settings = small_settings(tmp_path, steps=110, warmup=10, lr=0.5, schedule=schedule)
    rates = [learning_rate(settings, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.05 * n for n in range(1, 11)])
    assert rates[10] == 0.5
    if schedule == "constant":
        assert set(rates[10:]) == {0.5}
    else:
        assert rates[60] == pytest.approx(0.25)
        assert all(a > b for a, b in itertools.pairwise(rates[10:]))
        assert 0 < rates[-1] < 1e-3


# Continuing


def test_a_training_cut_short_continues_to_the_same_bits(tmp_path):
    whole = train(small_settings(tmp_path / "whole", steps=7), small_data(), small_config())
    folder = tmp_path / "cut" / "training" / "checkpoints"
    train(small_settings(tmp_path / "cut", steps=7, keep=9), small_data(), small_config())
    for path in checkpoint.list_checkpoints(folder)[2:]:
        checkpoint.remove(path)  # as if it had been killed after step 4
    (folder / f"{checkpoint.TEMPORARY}step-00000006").mkdir()  # ... while it wrote step 6
    (tmp_path / "cut" / "oms_module" / "diffusion_pytorch_model.safetensors").unlink()
    cut = train(small_settings(tmp_path / "cut", steps=7), small_data(), small_config())
    assert_same_bits(weights(cut), weights(whole))
    assert not list(folder.glob(f"{checkpoint.TEMPORARY}*"))

    def losses(output):
        lines = (output / "training" / "log.jsonl").read_text().splitlines()
        return [(line["step"], line["loss"]) for line in map(json.loads, lines)]

    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_power_cut_while_the_log_was_written(tmp_path):
    train(small_settings(tmp_path, steps=4), small_data(), small_config())
    log = tmp_path / "training" / "log.jsonl"
    whole = log.read_text(encoding="utf-8")
    log.write_bytes(whole.encode() + b'{"step": 4, "lo\xff\0\0')
    train(small_settings(tmp_path, steps=4), small_data(), small_config())
    assert log.read_text(encoding="utf-8") == whole


def test_a_finished_training_writes_its_module_again(tmp_path):
    first = weights(train(small_settings(tmp_path), small_data(), small_config()))
    (tmp_path / "oms_module" / "diffusion_pytorch_model.safetensors").unlink()
    assert_same_bits(weights(train(small_settings(tmp_path), small_data(), small_config())), first)


def test_at_a_constant_rate_a_training_may_go_on(tmp_path):
    long = train(small_settings(tmp_path / "a", steps=6, schedule="constant"), small_data(), small_config())
    train(small_settings(tmp_path / "b", steps=4, schedule="constant"), small_data(), small_config())
    longer = train(small_settings(tmp_path / "b", steps=6, schedule="constant"), small_data(), small_config())
    assert_same_bits(weights(longer), weights(long))
    with pytest.raises(SettingError, match="steps was 6 and is 5"):
        train(small_settings(tmp_path / "b", steps=5, schedule="constant"), small_data(), small_config())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 2e-3}, r"lr was 0\.001 and is 0\.002"),
        ({"steps": 7}, "steps was 6 and is 7"),
        ({"batch_size": 4, "seed": 3}, "batch_size was 8 and is 4; seed was 0 and is 3"),
    ],
)
def test_other_settings_do_not_continue(tmp_path, change, named):
    train(small_settings(tmp_path), small_data(), small_config())
    before = weights(tmp_path / "oms_module")
    with pytest.raises(SettingError, match=named):
        train(small_settings(tmp_path, **change), small_data(), small_config())
    assert_same_bits(weights(tmp_path / "oms_module"), before)


def test_other_data_and_other_architecture_do_not_continue(tmp_path):
    train(small_settings(tmp_path), small_data(), small_config())
    with pytest.raises(SettingError, match="content of dataset was"):
        train(small_settings(tmp_path), small_data(seed=2), small_config())
    with pytest.raises(SettingError, match="size was"):
        train(small_settings(tmp_path), small_data(), dataclasses.replace(small_config(), block_out_channels=(8, 32)))


def test_restart_begins_anew(tmp_path):
    expected = weights(train(small_settings(tmp_path / "a", lr=2e-3), small_data(), small_config()))
    train(small_settings(tmp_path / "b"), small_data(), small_config())
    anew = train(small_settings(tmp_path / "b", lr=2e-3, restart=True), small_data(), small_config())
    assert_same_bits(weights(anew), expected)


def test_only_the_newest_checkpoints_are_kept_and_nothing_is_pickled(tmp_path):
    train(small_settings(tmp_path, steps=9, keep=3), small_data(), small_config())
    folder = tmp_path / "training" / "checkpoints"
    assert [path.name for path in sorted(folder.iterdir())] == [f"step-{step:08d}" for step in (6, 8, 9)]
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl"}


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    train(small_settings(tmp_path), small_data(), small_config())
    newest = checkpoint.list_checkpoints(tmp_path / "training" / "checkpoints")[-1]
    file = newest / "optimizer.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.unlink()
    with pytest.raises(OMSError, match=r"step-00000006 cannot be used .* delete this folder"):
        train(small_settings(tmp_path), small_data(), small_config())


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    checkpoint.save_checkpoint(tmp_path, 1, {"psi.a": torch.ones(2)}, {"step": 1}, keep=2)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OMSError, match=r"step-00000002 could not be written .*No space left"):
        checkpoint.save_checkpoint(tmp_path, 2, {"psi.a": torch.ones(2)}, {"step": 2}, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_old_checkpoint_that_cannot_be_removed_ends_nothing(tmp_path, monkeypatch):
    """On Windows, where another program looks into it."""

    def save(step):
        checkpoint.save_checkpoint(tmp_path, step, {"psi.a": torch.ones(2)}, {"step": step}, keep=1)

    def refuse(path, *_, **__):
        raise PermissionError(13, "Access is denied", str(path))

    save(1)
    for step, (owner, blocked) in enumerate(((Path, "unlink"), (os, "rmdir")), start=2):
        with monkeypatch.context() as patch:
            patch.setattr(owner, blocked, refuse)
            save(step)
        assert checkpoint.list_checkpoints(tmp_path)[-1].name == f"step-0000000{step}"
    save(4)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"], "tried again with the next one"


def test_a_restart_that_cannot_remove_a_checkpoint_says_so(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Access is denied", str(path))

    train(small_settings(tmp_path, steps=1), small_data(), small_config())
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OMSError, match=r"step-00000001 cannot be removed \(.*Access is denied"):
        train(small_settings(tmp_path, steps=1, restart=True), small_data(), small_config())


# Pictures, captions and their cache


def encode(folder, model, cache, resolution=16, count=None):
    """Encodes a folder; `count` gets an entry for every call of an encoder, with the number of items."""
    count = [] if count is None else count
    encoder = load_text_encoder(model, "openclip")

    def load_text(_):
        def encode_text(captions):
            count.append(("text", len(captions)))
            return loop.encode_captions(encoder, captions)

        return encode_text

    def counted(items, **_):
        for path, part, last in items:
            if isinstance(part[0], str):
                yield path, part, last
            else:
                count.append(("latents", len(part)))
                yield path, part, last

    encoders = Encoders(model / "vae", load_text, [model / "text_encoder", model / "tokenizer"], "openclip")
    workers = Workers(torch.device("cpu"), progress=counted)
    return encode_examples(read_image_folder(folder), encoders, resolution, cache, workers)


def test_latents_are_the_scaled_mean_and_text_is_the_encoders(tmp_path, model, pictures):
    data = encode(pictures, model, tmp_path)
    x_0, text = data.batch(torch.arange(len(data)), torch.zeros(len(data), dtype=torch.bool))
    vae = load_vae(model / "vae")
    examples = read_image_folder(pictures)
    pixels = torch.stack([training_data.load_picture(example.picture, 16) for example in examples])
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mean * 0.5
    torch.testing.assert_close(x_0, expected, atol=2e-3, rtol=2e-3)
    encoder = load_text_encoder(model, "openclip")
    expected_text = encoder.encode([example.caption for example in examples])
    torch.testing.assert_close(text, expected_text, atol=2e-3, rtol=2e-3)
    _, dropped = data.batch(torch.tensor([0, 5]), torch.tensor([True, True]))
    torch.testing.assert_close(dropped, encoder.encode(["", ""]), atol=2e-3, rtol=2e-3)


def test_every_picture_and_every_caption_is_encoded_once(tmp_path, model, pictures):
    count = []
    first = encode(pictures, model, tmp_path, count=count)
    done = {kind: sum(n for k, n in count if k == kind) for kind in ("text", "latents")}
    assert done == {"text": len(CAPTIONS) + 1, "latents": 12}
    again = []
    second = encode(pictures, model, tmp_path, count=again)
    assert again == []
    assert first.hashes == second.hashes
    for a, b in zip(all_rows(first), all_rows(second), strict=True):
        assert torch.equal(a, b)


def all_rows(data):
    return data.batch(torch.arange(len(data)), torch.zeros(len(data), dtype=torch.bool))


def test_only_what_changed_is_encoded_again(tmp_path, model, monkeypatch):
    monkeypatch.setattr(training_data, "PICTURES_PER_SHARD", 4)
    folder = write_pictures(tmp_path / "pictures", 8)
    first = encode(folder, model, tmp_path / "cache")
    for name in ("008", "009"):
        write_picture(folder / f"{name}.png", 0.3).with_suffix(".txt").write_text(CAPTIONS[0], encoding="utf-8")
    # Before all others in the list, and the same picture once more.
    write_picture(folder / "00.png", 0.7).with_suffix(".txt").write_text("a new page", encoding="utf-8")
    shutil.copyfile(folder / "003.png", folder / "0.png")
    (folder / "0.txt").write_text(CAPTIONS[1], encoding="utf-8")
    count = []
    second = encode(folder, model, tmp_path / "cache", count=count)
    assert count == [("text", 1), ("latents", 3)]
    assert first.hashes["dataset"] != second.hashes["dataset"]
    assert first.hashes["vae"] == second.hashes["vae"]
    for a, b in zip(all_rows(second), all_rows(encode(folder, model, tmp_path / "anew")), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    count.clear()
    encode(folder, model, tmp_path / "cache", resolution=8, count=count)
    assert sum(n for _, n in count) == 11


def test_what_nothing_needs_any_more_is_deleted_from_the_cache(tmp_path, model, monkeypatch):
    monkeypatch.setattr(training_data, "PICTURES_PER_SHARD", 4)
    folder, cache = write_pictures(tmp_path / "pictures", 8), tmp_path / "cache"
    encode(folder, model, cache)
    shards = set(cache.iterdir())
    assert len(shards) == 3
    (cache / ".latents-0123.safetensors.77").write_bytes(b"of a run that was killed")
    encode(folder, model, cache)
    assert set(cache.iterdir()) == shards
    encode(folder, model, cache, resolution=8)
    assert len(list(cache.iterdir())) == 3
    assert len(shards & set(cache.iterdir())) == 1, "the captions are the same"


def test_a_cache_cut_short_is_made_again(tmp_path, model, pictures):
    expected = all_rows(encode(pictures, model, tmp_path))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-10])
    for a, b in zip(all_rows(encode(pictures, model, tmp_path)), expected, strict=True):
        assert torch.equal(a, b)


def test_a_training_on_pictures_encodes_once_and_continues(tmp_path, model, pictures, monkeypatch):
    def settings(**changes):
        return small_settings(
            tmp_path, data=str(pictures), model=str(model), resolution=16, size="tiny", steps=2, **changes
        )

    first = weights(train(settings()))
    assert first["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1] == TEXT_WIDTH

    def refuse(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(training_data, "load_vae", refuse)
    monkeypatch.setattr(loop, "_load_text", refuse)
    assert_same_bits(weights(train(settings(restart=True))), first)


def test_a_psi_that_reads_sd1s_own_text(tmp_path, model, pictures, capsys):
    """Trained, made one file, and loaded with the text encoder that it was trained with."""
    settings = small_settings(
        tmp_path / "out", data=str(pictures), model=str(model), text_kind="clip", resolution=16, size="tiny", steps=1,
        batch_size=2,
    )  # fmt: skip
    train(settings)
    file = tmp_path / "mine.safetensors"
    assert command_line.main(["convert", str(tmp_path / "out"), str(file), "--latents", "sd"]) == 0
    module = OMSModule.from_pretrained(file, text_encoder=model)
    assert (module.latents, type(module.text_encoder)) == ("sd", ClipEncoder)
    noise = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = module.psi(noise, load_text_encoder(model, "clip").encode(["a black page"]))
    assert torch.equal(module.predict_v(noise, ["a black page"])[0], expected)


def test_mixclip_has_the_width_of_both_encoders(tmp_path, model, pictures):
    settings = small_settings(
        tmp_path, data=str(pictures), vae=str(model / "vae"), text=str(model), text_kind="mixclip",
        resolution=16, size="tiny", steps=1, batch_size=2,
    )  # fmt: skip
    psi = OMSUNet.from_pretrained(train(settings))
    assert psi.config.cross_attention_dim == TEXT_WIDTH + 16
    assert psi.metadata["oms.text_encoder"] == "mixclip"


def test_the_other_kind_of_text_is_encoded_anew(tmp_path, model, pictures):
    def trained(kind, **changes):
        settings = small_settings(
            tmp_path, data=str(pictures), model=str(model), text_kind=kind, resolution=16, size="tiny", steps=1,
            batch_size=2, **changes,
        )  # fmt: skip
        return OMSUNet.from_pretrained(train(settings)).config.cross_attention_dim

    assert trained("openclip") == TEXT_WIDTH
    assert trained("mixclip", restart=True) == TEXT_WIDTH + 16


def test_a_caption_is_no_prompt(model):
    encoder = load_text_encoder(model, "openclip")
    caption = "a page (1984) <b:c> [x|y] AND z:2"
    plain = loop.encode_captions(encoder, [caption])
    ids = encoder.towers[0].tokenizer(caption, padding="max_length", max_length=77, truncation=True)["input_ids"]
    with torch.no_grad():
        expected = encoder.towers[0].model(torch.tensor([ids])).last_hidden_state
    torch.testing.assert_close(plain, expected)
    assert not torch.allclose(plain, encoder.encode([caption])[:, :77])


def test_a_long_caption_is_cut(model):
    encoder = load_text_encoder(model, "openclip")
    assert loop.encode_captions(encoder, ["long " * 100, "short"]).shape == (2, 77, TEXT_WIDTH)


def test_a_long_caption_keeps_its_first_75_tokens(model):
    """Unlike a long prompt, which goes on in a second chunk and is cut at a comma for it."""
    encoder = load_text_encoder(model, "openclip")
    caption = "a " * 58 + "," + " b" * 40
    ids = encoder.towers[0].tokenizer(caption, padding="max_length", max_length=77, truncation=True)["input_ids"]
    with torch.no_grad():
        expected = encoder.towers[0].model(torch.tensor([ids])).last_hidden_state
    torch.testing.assert_close(loop.encode_captions(encoder, [caption]), expected)


def test_rows_are_read_across_shards():
    whole = torch.randn(10, 2, 3)
    rows = Rows([whole[:4], whole[4:5], whole[5:]])
    index = torch.tensor([9, 0, 4, 3, 5, 4])
    assert rows.shape == whole.shape
    assert torch.equal(rows[index], whole[index])


def test_a_vae_with_a_shift_and_one_with_statistics(model):
    vae = load_vae(model / "vae")
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    mean = scaled_latents(vae, pixels) / 0.5
    vae.register_to_config(shift_factor=0.25)
    torch.testing.assert_close(scaled_latents(vae, pixels), (mean - 0.25) * 0.5)
    vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    centre = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(scaled_latents(vae, pixels), (mean - centre) * 0.5 / 2)


# What it refuses


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 0}, r"steps is 0: allowed is at least 1"),
        ({"steps": 1.5}, r"steps is 1\.5: int expected"),
        ({"steps": True}, r"steps is True: int expected"),
        ({"lr": -1.0}, r"lr is -1\.0"),
        ({"lr": math.nan}, r"lr is nan"),
        ({"lr": "fast"}, r"lr is 'fast': float expected"),
        ({"caption_dropout": 1.5}, r"caption_dropout is 1\.5: allowed is 0\.0 to 1\.0"),
        ({"size": "huge"}, r"size is 'huge': allowed are tiny, base, large"),
        ({"channels_last": 1}, r"channels_last is 1: bool expected"),
        ({"latents": ""}, r"latents is not given"),
        ({"shard": True}, r"shard: needs several processes"),
        ({"batch_size": 6, "accumulate": 4}, r"batch_size 6 .* multiple of 4 \(1 process"),
    ],
)
def test_settings_that_are_refused(tmp_path, change, named):
    with pytest.raises(SettingError, match=named):
        train(small_settings(tmp_path, **change), small_data(), small_config())


def test_text_of_another_width_is_refused(tmp_path):
    with pytest.raises(SettingError, match="text of width 16, but this text encoder gives 8"):
        train(small_settings(tmp_path), small_data(), small_config(16))


@pytest.mark.parametrize(("kind", "width"), [("openclip", 1024), ("clip", 768), ("mixclip", 2048)])
@pytest.mark.parametrize("latents", ["sd", "sdxl"])
def test_text_that_no_host_gives_is_refused(tmp_path, model, pictures, latents, kind, width):
    """Before a picture is encoded, which takes hours."""
    told = rf"latents {latents} with text_kind {kind} .* width {width}, but this text encoder gives"
    settings = small_settings(tmp_path, latents=latents, text_kind=kind)
    with pytest.raises(SettingError, match=told):
        train(settings, small_data(), small_config())
    folders = {"data": str(pictures), "model": str(model), "resolution": 16}
    with pytest.raises(SettingError, match=told):
        train(dataclasses.replace(settings, **folders))
    assert not (tmp_path / "training").exists()


def test_latents_of_other_channels_are_refused(tmp_path):
    config = dataclasses.replace(small_config(), in_channels=16, out_channels=16)
    with pytest.raises(SettingError, match="latents of 16 channels, but these have 4"):
        train(small_settings(tmp_path), small_data(), config)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resolution": 15}, r"resolution 15 is no multiple of 2, .* use 14 or 16"),
        ({"data": ""}, "data is not given"),
        ({"data": "no/where"}, "no/where does not exist"),
        ({"model": ""}, "neither model nor vae is given"),
        ({"model": "no/where"}, r"vae: the folder no.where.vae does not exist"),
    ],
)
def test_folders_that_are_refused(tmp_path, model, pictures, change, named):
    values = {"data": str(pictures), "model": str(model), "resolution": 16, **change}
    with pytest.raises(OMSError, match=named):
        train(small_settings(tmp_path, **values))


def test_a_folder_that_holds_no_vae(tmp_path, model, pictures):
    settings = small_settings(tmp_path, data=str(pictures), model=str(model), vae=str(pictures), resolution=16)
    with pytest.raises(OMSError, match="no VAE in diffusers layout"):
        train(settings)


def test_the_unreadable_picture_is_named(tmp_path, model):
    folder = write_pictures(tmp_path / "pictures", 3)
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:100])
    with pytest.raises(OMSError, match=r"001\.png cannot be read"):
        train(small_settings(tmp_path / "out", data=str(folder), model=str(model), resolution=16))
