"""What requests and infotexts mean that do not name a setting."""

UNSAID = {
    "source": "prompt",
    "color": "",
    "picture": "",
    "brush": "",
    "prompt_weight": 0.0,
    "strength": 1.0,
    "detail": 16,
    "quiet": 0,
    "guidance_rescale": 0.0,
    "brightness": 0.0,
    "saturation": 0.0,
    "style": "",
}
"""The settings that version 0.2 did not have, and what they were before they existed."""
