"""x0hat that a person gives, instead of psi's answer to a prompt: of a color, a picture, a sketch, or in a style.

pictures.py takes in pictures, latents.py asks the VAE of the loaded model what they are as latents, and style.py draws
them by what a folder of pictures has in common.
"""

from lib_oms.given.latents import Encode, VAELatents, latents_of, trims_of
from lib_oms.given.pictures import png, small_picture
from lib_oms.given.style import Style, find_style, labelled_style, load_style, style_of, styles

__all__ = [
    "Encode",
    "Style",
    "VAELatents",
    "find_style",
    "labelled_style",
    "latents_of",
    "load_style",
    "png",
    "small_picture",
    "style_of",
    "styles",
    "trims_of",
]
