"""One More Step for the Stable Diffusion WebUI (arXiv 2311.15744)."""

__version__ = "0.2.0"
