"""Pictures that code draws, with captions that say how bright and of what color they are.

One shape, or none, on a background of any brightness and hue. About a third of the captions leave the background
out, as captions of real pictures mostly do: that is what makes a diffusion model read the brightness from what is left
of the picture at the last timestep, which is the flaw that One More Step mends.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

SIZE = 256
OVERSAMPLING = 2
"""Shapes are drawn this many times larger and reduced, for smooth edges."""

Paint = tuple[int, int, int]  # RGB, 0..255

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {
    "red": (0.0, 0.95, 0.85),
    "orange": (0.08, 0.95, 0.95),
    "yellow": (0.155, 0.95, 0.95),
    "green": (0.35, 0.90, 0.62),
    "cyan": (0.50, 0.85, 0.88),
    "blue": (0.62, 0.92, 0.85),
    "purple": (0.77, 0.80, 0.70),
    "pink": (0.92, 0.50, 0.95),
}
GREYS = (
    (0.05, "black"),
    (0.16, "very dark gray"),
    (0.34, "dark gray"),
    (0.60, "gray"),
    (0.80, "light gray"),
    (0.94, "very light gray"),
    (1.01, "white"),
)
"""(upper bound of the gray value, its name); 0 is black and 1 white."""
LIGHTS = {
    "at night": ((0.60, 0.68), (0.2, 0.6), (0.02, 0.09)),
    "in the dark": ((0.0, 1.0), (0.0, 0.1), (0.01, 0.07)),
    "at dusk": ((0.68, 0.80), (0.3, 0.5), (0.20, 0.34)),
    "at dawn": ((0.03, 0.09), (0.2, 0.4), (0.60, 0.75)),
    "in daylight": ((0.52, 0.58), (0.12, 0.3), (0.90, 1.0)),
    "in fog": ((0.5, 0.6), (0.0, 0.06), (0.70, 0.82)),
    "in the snow": ((0.5, 0.6), (0.0, 0.04), (0.95, 1.0)),
}
"""Light of a time or a place: name -> (hue range, saturation range, value range)."""


def grey_name(value: float) -> str:
    """The name that captions give to a gray of this value (0 black, 1 white)."""
    return next(name for bound, name in GREYS if value < bound)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: all that `draw` needs, and all that its caption may tell."""

    background: tuple[float, float, float]  # RGB, 0..1
    background_name: str  # "black background", "at night", ...
    shape: str | None = None
    colour_name: str | None = None
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre: tuple[float, float] = (0.5, 0.5)  # fractions of the picture's width
    radius: float = 0.2
    angle: float = 0.0  # radians
    gradient: tuple[float, float] = (0.0, 0.0)  # brightness change across the picture, x and y


def _background(rng: np.random.Generator, grey: float | None) -> tuple[tuple[float, float, float], str]:
    kind = 0.0 if grey is not None else rng.uniform()
    if kind < 0.5:
        # half of the free grays at the ends, where the last timestep matters most
        value = grey if grey is not None else rng.choice([rng.uniform(), rng.beta(0.35, 0.35)])
        return (value, value, value), f"{grey_name(value)} background"
    if kind < 0.82:
        name = str(rng.choice(list(COLOURS)))
        hue, saturation, value = COLOURS[name]
        tone = str(rng.choice(["", "", "dark ", "light "]))
        value *= {"": rng.uniform(0.9, 1.05), "dark ": rng.uniform(0.3, 0.5), "light ": 1.0}[tone]
        if tone == "light ":
            value, saturation = rng.uniform(0.92, 1.0), saturation * rng.uniform(0.3, 0.45)
        return colorsys.hsv_to_rgb(hue + rng.uniform(-0.01, 0.01), saturation, min(value, 1.0)), (
            f"{tone}{name} background"
        )
    name = str(rng.choice(list(LIGHTS)))
    return colorsys.hsv_to_rgb(*(rng.uniform(*bounds) for bounds in LIGHTS[name])), name


def sample_scene(rng: np.random.Generator, *, grey: float | None = None, empty: bool | None = None) -> Scene:
    """Draws a scene's facts.

    Args:
        grey: the value (0..1) of a gray background; None draws any background.
        empty: True for no shape, False for a shape, None for one in most pictures.
    """
    background, background_name = _background(rng, grey)
    gradient_x, gradient_y = rng.uniform(-0.06, 0.06, 2) if rng.uniform() < 0.3 else (0.0, 0.0)
    scene = Scene(background, background_name, gradient=(gradient_x, gradient_y))
    if empty or (empty is None and rng.uniform() < 0.15):
        return scene
    while True:
        colour_name = str(rng.choice([*COLOURS, "white", "black", "gray"]))
        if colour_name in COLOURS:
            hue, saturation, value = COLOURS[colour_name]
            colour = colorsys.hsv_to_rgb(hue, saturation, value * rng.uniform(0.92, 1.03))
        else:
            value = {"white": 0.98, "black": 0.02, "gray": 0.5}[colour_name]
            colour = (value, value, value)
        if math.dist(colour, background) > 0.35:  # a shape that cannot be seen teaches nothing
            break
    red, green, blue = colour
    shape = str(rng.choice(SHAPES))
    x, y = rng.uniform(0.36, 0.64, 2)
    return replace(
        scene,
        shape=shape,
        colour_name=colour_name,
        colour=(min(red, 1.0), min(green, 1.0), min(blue, 1.0)),
        centre=(x, y),
        radius=rng.uniform(0.16, 0.25),
        angle=rng.uniform(-0.25, 0.25),
    )


def caption(scene: Scene, rng: np.random.Generator, *, say_background: bool | None = None) -> str:
    """A caption that is true of the scene.

    Args:
        say_background: whether it names the background; None: two times of three.
    """
    where = scene.background_name
    names_it = where if where.endswith("background") else f"a scene {where}"
    if scene.shape is None:
        if where in ("white background", "black background") and rng.uniform() < 0.3:
            return f"a {where.split()[0]} page"
        return names_it
    article = "an" if scene.colour_name == "orange" else "a"
    what = f"{article} {scene.colour_name} {scene.shape}" if rng.uniform() < 0.85 else f"a {scene.shape}"
    if say_background is False or (say_background is None and rng.uniform() < 0.34):
        return what
    if not where.endswith("background"):
        return f"{what} {where}"
    form = rng.uniform()
    if form < 0.8:
        return f"{what} on a {where}"
    return f"{what}, {where}" if form < 0.9 else f"{where}, {what}"


def _outline(shape: str, radius: float, angle: float) -> list[tuple[float, float]]:
    def polar(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(r * math.sin(a + angle), -r * math.cos(a + angle)) for a, r in points]

    if shape == "square":
        return polar([(math.pi / 4 + i * math.pi / 2, radius * 1.2) for i in range(4)])
    if shape == "triangle":
        return polar([(i * 2 * math.pi / 3, radius * 1.3) for i in range(3)])
    if shape == "star":
        return polar([(i * math.pi / 5, radius * (1.3 if i % 2 == 0 else 0.55)) for i in range(10)])
    arm, width = radius * 1.2, radius * 0.42  # cross
    corners = [(width, arm), (width, width), (arm, width)]
    quarter = [*corners, *[(x, -y) for x, y in corners[::-1]]]
    points = [*quarter, *[(-x, -y) for x, y in quarter]]
    return polar([(math.atan2(x, y), math.hypot(x, y)) for x, y in points])


def draw(scene: Scene, *, style: str = "plain", size: int = SIZE) -> Image.Image:
    """Draws a scene as an RGB picture of size x size pixels.

    Args:
        style: "plain": filled shapes; "outlined": shapes as thick lines with a small filled core, the style that the
            second UNet learns; "shadow": filled shapes with a shadow beside them, the style that the LoRA learns.
    """
    full = size * OVERSAMPLING
    steps = np.linspace(-0.5, 0.5, full, dtype=np.float32)
    slope = scene.gradient[0] * steps[None, :] + scene.gradient[1] * steps[:, None]
    base = np.clip(np.asarray(scene.background, dtype=np.float32) + slope[..., None], 0.0, 1.0)
    picture = Image.fromarray(np.round(base * 255).astype(np.uint8), "RGB")
    if scene.shape is not None:
        pen = ImageDraw.Draw(picture)
        colour = _paint(scene.colour)
        if style == "shadow":
            shade = _paint(scene.background, 0.55)
            _fill(pen, scene, shade, full, offset=0.06)
        if style == "outlined":
            _fill(pen, scene, colour, full)
            inside = _paint(scene.background)
            _fill(pen, scene, inside, full, scale=0.68)
            _fill(pen, scene, colour, full, scale=0.3)
        else:
            _fill(pen, scene, colour, full)
    return picture.resize((size, size), Image.Resampling.BOX)


def _paint(colour: tuple[float, float, float], light: float = 1.0) -> Paint:
    red, green, blue = (round(c * 255 * light) for c in colour)
    return red, green, blue


def _fill(
    pen: ImageDraw.ImageDraw, scene: Scene, colour: Paint, full: int, *, scale: float = 1.0, offset: float = 0.0
) -> None:
    x, y = ((c + offset) * full for c in scene.centre)
    radius = scene.radius * full * scale
    if scene.shape == "circle":
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    elif scene.shape is not None:
        pen.polygon([(x + dx, y + dy) for dx, dy in _outline(scene.shape, radius, scene.angle)], fill=colour)


def dataset(count: int, seed: int, *, style: str = "plain", start: int = 0) -> tuple[np.ndarray, list[str]]:
    """Pictures number `start` to `start + count` of the seed's endless data set.

    Returns:
        uint8 [count, SIZE, SIZE, 3] and the captions.
    """
    scenes = [_sample(seed, start + index) for index in range(count)]
    pictures = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    for index, (scene, _) in enumerate(scenes):
        pictures[index] = np.asarray(draw(scene, style=style))
    return pictures, [text for _, text in scenes]


def captions(count: int, seed: int) -> list[str]:
    """Those of `dataset`, without the pictures, which take a hundred times as long."""
    return [_sample(seed, index)[1] for index in range(count)]


def _sample(seed: int, index: int) -> tuple[Scene, str]:
    rng = np.random.default_rng((seed, index))
    scene = sample_scene(rng)
    return scene, caption(scene, rng)


def evaluation_set(count: int, seed: int, *, style: str = "plain") -> tuple[np.ndarray, list[str]]:
    """Captions whose backgrounds cover the brightness range evenly, and a picture true of each.

    Every caption names its background, a gray; the shape and everything else are free. Shapes as in `dataset`.
    """
    pictures = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    captions = []
    for index in range(count):
        rng = np.random.default_rng((seed, index, 1))
        scene = sample_scene(rng, grey=(index + rng.uniform()) / count, empty=False)
        captions.append(caption(scene, rng, say_background=True))
        pictures[index] = np.asarray(draw(scene, style=style))
    return pictures, captions
