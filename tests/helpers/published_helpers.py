"""The published repositories, small: what a hub on loopback offers."""

import json
from pathlib import Path

import torch
from module_helpers import tiny_psi
from safetensors.torch import load_file, save_file
from text_helpers import VIT_H, text_model, write_tokenizer

from lib_oms.text import TEXT_ENCODERS

NAME = "oms_b_openclip_15_21"
MODULE = "h1t/oms_b_openclip_15_21"
WEIGHTS = "oms_module/diffusion_pytorch_model.fp16.safetensors"
ENCODERS = TEXT_ENCODERS["openclip"].repositories
ENCODER_WEIGHTS = "text_encoder/model.safetensors"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(module: Path, encoder: Path) -> dict[str, dict[str, bytes]]:
    """The repositories: as published, but small; and with files that nobody should take."""
    # The real ones tell their text encoder by the width of 1024, which this one has not.
    psi = tiny_psi(VIT_H["hidden_size"], metadata={"oms.text_encoder": "openclip"})
    halves = psi.save_pretrained(module / "oms_module", variant="fp16").read_bytes()
    psi.save_pretrained(module / "oms_module")  # which leaves no other weights there
    (module / WEIGHTS).write_bytes(halves)
    (module / "model_index.json").write_text('{"_class_name": "OMSPipeline"}')
    for part in ("oms_text_encoder", "oms_tokenizer"):
        (module / part).mkdir()
        (module / part / "config.json").write_text(json.dumps({"_name_or_path": ENCODERS[0], "subfolder": part[4:]}))
    text_model(VIT_H, 1).save_pretrained(encoder / "text_encoder", safe_serialization=True)
    weights = encoder / ENCODER_WEIGHTS
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    save_file({**tensors, "unused": torch.arange(100_000).float()}, weights, {"format": "pt"})
    write_tokenizer(encoder / "tokenizer", "!")
    unwanted = {"pickle.bin": b"\x80" * 10, "run.py": b"raise SystemExit", "../evil.json": b"{}", "README.md": b"#"}
    return {MODULE: {**content(module), **unwanted}, ENCODERS[0]: {**content(encoder), **unwanted}}
