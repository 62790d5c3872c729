"""The embedded model: a tiny latent diffusion model whose pictures and captions our own code draws.

draw.py makes the pictures, build.py the untrained parts, make.py trains them, lora.py and load.py take them from disk.
"""

from pathlib import Path

MODEL_DIR = Path(__file__).resolve().parents[2] / "models" / "demo"
"""The trained model that is kept in the repository, in diffusers layout."""
LATENTS = "oms-demo"
"""What `oms.latents` says of a psi for this model's latents."""
