"""The embedded demo model: a tiny latent diffusion model whose pictures and captions our own code draws.

draw.py        pictures and their captions
build.py       the model's parts, untrained
make.py        trains them (`python -m lib_oms.embedded.make`)
evaluate.py    measures what One More Step does to them (`python -m lib_oms evaluate --embedded`)
"""

from pathlib import Path

#: The trained model that is kept in the repository, in diffusers layout.
MODEL_DIR = Path(__file__).resolve().parents[2] / "models" / "demo"
#: What `oms.latents` says of a psi for this model's latents.
LATENTS = "oms-demo"
