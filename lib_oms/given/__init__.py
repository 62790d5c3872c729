"""x0hat that a person gives: the latent of a color, of a picture or of a sketch, instead of psi's answer to a prompt.

pictures.py takes in pictures, latents.py asks the VAE of the loaded model what they are as latents.
"""

from lib_oms.given.latents import Encode, VAELatents, latents_of, trims_of
from lib_oms.given.pictures import small_picture

__all__ = ["Encode", "VAELatents", "latents_of", "small_picture", "trims_of"]
