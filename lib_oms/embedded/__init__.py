"""The embedded models: tiny latent diffusion models whose pictures and captions our own code draws.

draw.py makes the pictures, build.py the untrained parts, make.py trains them (loop.py, denoiser.py, shapes.py), lora.py
and load.py take them from disk.
"""

from pathlib import Path

MODEL_DIR = Path(__file__).resolve().parents[2] / "models" / "demo"
"""The trained model that is kept in the repository, in diffusers layout: Stable Diffusion in small."""
XL_MODEL_DIR = MODEL_DIR.with_name("demo-xl")
"""Another in the shape of SDXL: two text encoders, pooled text, sizes, latents of its own."""
LATENTS = "oms-demo"
"""What `oms.latents` says of a psi for this model's latents."""
XL_LATENTS = "oms-demo-xl"
