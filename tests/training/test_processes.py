"""The trainer as people start it: as a process that is killed, and as several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_helpers import write_model, write_pictures, write_tar

pytestmark = pytest.mark.slow

PATIENCE = 240  # seconds; far more than it takes, for machines that do much else


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Of a training that is over in seconds."""
    folder = tmp_path_factory.mktemp("training")
    model, pictures = write_model(folder / "model"), write_pictures(folder / "pictures")
    return [
        "--data", str(pictures), "--model", str(model), "--latents", "oms-demo", "--size", "tiny", "--cpu",
        "--resolution", "16", "--batch-size", "4", "--log-every", "1", "--lr", "0.001", "--warmup", "3",
        "--save-every", "3",
    ]  # fmt: skip


def start(root, *words):
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},  # or the end of the bar's line may be cut
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A shell that runs the tests in the background has Ctrl-C ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process):
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()  # a launcher that is terminated ends its processes, one that is killed leaves them
        output, _ = process.communicate()
        pytest.fail(f"did not end within {PATIENCE} s:\n{output}")
    assert process.returncode == 0, output
    return output


def wait_for(path, process):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def module_of(output):
    return output / "oms_module" / "diffusion_pytorch_model.safetensors"


def tensors_of(output):
    return load_file(module_of(output))


def log_of(output):
    lines = map(json.loads, (output / "training" / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, root, options):
    output = tmp_path_factory.mktemp("uninterrupted")
    text = finish(start(root, "lib_oms", "train", *options, "--steps", "16", "--keep", "9", "--output", str(output)))
    assert "loss" in text
    assert "images/s" in text
    return output


def test_an_interrupted_and_a_killed_training_continue_to_the_same_result(tmp_path, root, options, uninterrupted):
    command = ["lib_oms", "train", *options, "--steps", "16", "--output", str(tmp_path)]
    for step, sent, code in ((3, signal.SIGINT, 130), (9, signal.SIGKILL, -signal.SIGKILL)):
        process = start(root, *command)
        wait_for(tmp_path / "training" / "checkpoints" / f"step-{step:08d}", process)
        process.send_signal(sent)
        text, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, text
        assert "Traceback" not in text
        assert not module_of(tmp_path).exists()
    assert "continuing from" in finish(start(root, *command))
    expected, result = tensors_of(uninterrupted), tensors_of(tmp_path)
    assert expected.keys() == result.keys()
    assert [name for name in expected if not torch.equal(expected[name], result[name])] == []


@pytest.mark.parametrize(
    "launcher",
    [
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "no",
         "--rdzv_backend", "c10d", "--main_process_ip", "localhost", "--main_process_port", "0"],
        ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    ],
    ids=["accelerate", "torchrun"],
)  # fmt: skip
def test_two_processes_train_what_one_trains(tmp_path, root, options, uninterrupted, launcher):
    """Also when they continue what one process began. The losses are the same as well, at every step."""
    if launcher[0].startswith("torch"):
        third = Path("training") / "checkpoints" / "step-00000003"
        shutil.copytree(uninterrupted / third, tmp_path / third)
    command = [*launcher, "-m", "lib_oms", "train", *options, "--steps", "16", "--output", str(tmp_path)]
    text = finish(start(root, *command))
    assert ("continuing from" in text) == launcher[0].startswith("torch")
    assert "2 process(es)" in text
    assert text.count("was written after") == 1
    with safe_open(module_of(tmp_path), framework="pt") as file:
        assert file.metadata()["training.processes"] == "2"
    expected, result = tensors_of(uninterrupted), tensors_of(tmp_path)
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], atol=2e-4, rtol=1e-2)
    ran, alone = log_of(tmp_path), log_of(uninterrupted)
    assert [step for step, _ in ran] == [step for step, _ in alone if step > 3 or not launcher[0].startswith("torch")]
    assert [loss for _, loss in ran] == pytest.approx([loss for _, loss in alone[-len(ran) :]], rel=1e-4)


def test_two_processes_that_share_out_the_weights_train_what_one_trains(tmp_path, root, options, uninterrupted):
    """In two halves, so that what is shared out is written and read again, too."""
    third = Path("training") / "checkpoints" / "step-00000003"
    shutil.copytree(uninterrupted / third, tmp_path / third)
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lib_oms", "train", *options,
               "--steps", "16", "--shard", "--keep", "9", "--accumulate", "2", "--output", str(tmp_path)]  # fmt: skip
    assert "continuing from" in finish(start(root, *command))
    for step in (12, 15, 16):
        shutil.rmtree(tmp_path / "training" / "checkpoints" / f"step-{step:08}")
    assert "step-00000009" in finish(start(root, *command))
    expected, result = tensors_of(uninterrupted), tensors_of(tmp_path)
    assert expected.keys() == result.keys()
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], atol=2e-4, rtol=1e-2)
    kept = Path("training") / "checkpoints" / "step-00000015" / "optimizer.safetensors"
    assert {n: t.shape for n, t in load_file(tmp_path / kept).items()} == {
        n: t.shape for n, t in load_file(uninterrupted / kept).items()
    }


def test_two_processes_read_shards_as_one_does_and_one_goes_on(tmp_path, root, options):
    files = sorted(write_pictures(tmp_path / "pictures").glob("*.png"))
    for file in files:
        file.with_suffix(".txt").write_text(f"a page {file.stem}", encoding="utf-8")
    shards = tmp_path / "shards"
    shards.mkdir()
    for at in range(0, 12, 3):
        pairs = [(file, file.with_suffix(".txt")) for file in files[at : at + 3]]
        write_tar(shards / f"{at:02}.tar", [file for pair in pairs for file in pair])
    words = ["-m", "lib_oms", "train", *options, "--data", str(shards), "--streams", "2", "--shuffle-buffer", "4",
             "--steps", "6", "--output", str(tmp_path / "out")]  # fmt: skip
    finish(start(root, "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words))
    losses = log_of(tmp_path / "out")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    shutil.rmtree(tmp_path / "out" / "training" / "checkpoints" / "step-00000006")
    assert "step-00000003" in finish(start(root, *words[1:]))
    assert [loss for _, loss in log_of(tmp_path / "out")] == pytest.approx([loss for _, loss in losses], rel=1e-4)


def test_bf16(tmp_path, root, options):
    text = finish(
        start(root, "lib_oms", "train", *options, "--steps", "4", "--precision", "bf16", "--output", str(tmp_path))
    )
    assert "was written after 4 steps" in text
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(tmp_path).values())
    assert {tensor.dtype for tensor in tensors_of(tmp_path).values()} == {torch.float32}


def test_fp16_on_a_cpu_is_refused_in_one_line(tmp_path, root, options):
    process = start(
        root, "lib_oms", "train", *options, "--steps", "4", "--precision", "fp16", "--output", str(tmp_path)
    )
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "error: precision fp16" in text
    assert "Traceback" not in text
