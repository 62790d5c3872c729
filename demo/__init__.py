"""A miniature Stable Diffusion WebUI around the embedded model: `python -m demo`. README.md says what stands where."""
