"""Files before anything trusts them: the headers of .safetensors files, what they tell of latents, and small JSON.

Nothing here knows what an OMS model is.
"""

from lib_oms.files.disk import json_object, read_json, written_whole
from lib_oms.files.header import FLOATS, Header, TensorInfo, file_stamp, read_header
from lib_oms.files.latents import LATENTS_NAMES, SCALE_FACTORS, checkpoint_latents
from lib_oms.files.tensors import copied, fill

__all__ = [
    "FLOATS",
    "LATENTS_NAMES",
    "SCALE_FACTORS",
    "Header",
    "TensorInfo",
    "checkpoint_latents",
    "copied",
    "file_stamp",
    "fill",
    "json_object",
    "read_header",
    "read_json",
    "written_whole",
]
