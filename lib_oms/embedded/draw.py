"""Pictures that code draws, with captions that say how bright and of what color they are.

No shape, one, or two, on a background of any brightness and hue: plain, fading, ground under a sky, or patterned. About
a third of the captions leave the background out, as captions of real pictures mostly do: that is what makes a diffusion
model read the brightness from what is left of the picture at the last timestep, which is the flaw that One More Step
mends.
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

Color = tuple[float, float, float]  # RGB, 0..1
Paint = tuple[int, int, int]  # RGB, 0..255

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLORS = {
    "red": (0.0, 0.95, 0.85),
    "orange": (0.08, 0.95, 0.95),
    "yellow": (0.155, 0.95, 0.95),
    "green": (0.35, 0.90, 0.62),
    "cyan": (0.50, 0.85, 0.88),
    "blue": (0.62, 0.92, 0.85),
    "purple": (0.77, 0.80, 0.70),
    "pink": (0.92, 0.50, 0.95),
}
GRAYS = (
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
PATTERNS = {
    "fading": "background fading from {} to {}",  # from above to below
    "sideways": "background fading from {} at the left to {} at the right",
    "horizon": "ground of {1} under a {0} sky",
    "halves": "background of {} at the left and {} at the right",
    "stripes": "{} and {} striped background",
    "checks": "{} and {} checkered background",
    "dots": "{} background with {} dots",
}
"""Backgrounds of two colors: how it is drawn -> how it is named."""
LAYOUTS = ("fading", "sideways", "horizon", "halves")
"""Those of which the lowest frequencies tell nearly all; most backgrounds of two colors are so."""


def gray_name(value: float) -> str:
    """The name that captions give to a gray of this value (0 black, 1 white)."""
    return next(name for bound, name in GRAYS if value < bound)


@dataclass(frozen=True)
class Shape:
    """One shape of a picture."""

    name: str  # one of SHAPES
    color_name: str
    color: Color
    centre: tuple[float, float] = (0.5, 0.5)  # fractions of the picture's width
    radius: float = 0.2
    angle: float = 0.0  # radians


@dataclass(frozen=True)
class Scene:
    """What a picture shows: all that `draw` needs, and all that its caption may tell."""

    background: Color
    background_name: str  # "black background", "at night", "black and white striped background", ...
    shapes: tuple[Shape, ...] = ()
    gradient: tuple[float, float] = (0.0, 0.0)  # brightness change across the picture, x and y
    pattern: str | None = None  # one of PATTERNS
    other: Color = (0.0, 0.0, 0.0)  # the pattern's second color
    phase: tuple[float, float] = (0.0, 0.0)  # where the pattern begins, in its periods


def _gray(rng: np.random.Generator) -> float:
    """Half of the free grays at the ends, where the last timestep matters most."""
    return float(rng.choice([rng.uniform(), rng.beta(0.35, 0.35)]))


def _tone(rng: np.random.Generator) -> tuple[Color, str]:
    """A color and its name: "dark blue"."""
    name = str(rng.choice(list(COLORS)))
    hue, saturation, value = COLORS[name]
    tone = str(rng.choice(["", "", "dark ", "light "]))
    value *= {"": rng.uniform(0.9, 1.05), "dark ": rng.uniform(0.3, 0.5), "light ": 1.0}[tone]
    if tone == "light ":
        value, saturation = rng.uniform(0.92, 1.0), saturation * rng.uniform(0.3, 0.45)
    return colorsys.hsv_to_rgb(hue + rng.uniform(-0.01, 0.01), saturation, min(value, 1.0)), f"{tone}{name}"


def _any_tone(rng: np.random.Generator) -> tuple[Color, str]:
    if rng.uniform() < 0.5:
        return _tone(rng)
    value = _gray(rng)
    return (value, value, value), gray_name(value)


def _background(rng: np.random.Generator, gray: float | None) -> Scene:
    """A scene without shapes."""
    kind = 0.0 if gray is not None else rng.uniform()
    if kind < 0.45:
        value = gray if gray is not None else _gray(rng)
        return Scene((value, value, value), f"{gray_name(value)} background")
    if kind < 0.66:
        color, name = _tone(rng)
        return Scene(color, f"{name} background")
    if kind < 0.78:
        name = str(rng.choice(list(LIGHTS)))
        return Scene(colorsys.hsv_to_rgb(*(rng.uniform(*bounds) for bounds in LIGHTS[name])), name)
    pattern = str(rng.choice(LAYOUTS if rng.uniform() < 0.8 else list(PATTERNS)))
    (first, first_name), (second, second_name) = _any_tone(rng), _any_tone(rng)
    while math.dist(first, second) < 0.35:  # two that look alike are no pattern
        second, second_name = _any_tone(rng)
    name = PATTERNS[pattern].format(first_name, second_name)
    x, y = rng.uniform(size=2)
    return Scene(first, name, pattern=pattern, other=second, phase=(x, y))


def _shape(rng: np.random.Generator, behind: list[Color], x: float, y: float, radius: float) -> Shape:
    while True:
        color_name = str(rng.choice([*COLORS, "white", "black", "gray"]))
        if color_name in COLORS:
            hue, saturation, value = COLORS[color_name]
            red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value * rng.uniform(0.92, 1.03))
            color = (min(red, 1.0), min(green, 1.0), min(blue, 1.0))
        else:
            value = {"white": 0.98, "black": 0.02, "gray": 0.5}[color_name]
            color = (value, value, value)
        if all(math.dist(color, other) > 0.35 for other in behind):  # what cannot be seen teaches nothing
            break
    return Shape(str(rng.choice(SHAPES)), color_name, color, (x, y), radius, rng.uniform(-0.25, 0.25))


def sample_scene(rng: np.random.Generator, *, gray: float | None = None, shapes: int | None = None) -> Scene:
    """Draws a scene's facts.

    Args:
        gray: the value (0..1) of a plain gray background; None draws any background.
        shapes: how many (0 to 2); None: mostly one.
    """
    scene = _background(rng, gray)
    if scene.pattern is None and rng.uniform() < 0.3:
        gradient_x, gradient_y = rng.uniform(-0.06, 0.06, 2)
        scene = replace(scene, gradient=(gradient_x, gradient_y))
    count = shapes if shapes is not None else int(rng.choice(3, p=(0.15, 0.7, 0.15)))
    behind = [scene.background] + ([scene.other] if scene.pattern else [])
    if count == 1:
        x, y = rng.uniform(0.36, 0.64, 2)
        return replace(scene, shapes=(_shape(rng, behind, x, y, rng.uniform(0.16, 0.25)),))
    places = [(rng.uniform(0.22, 0.30), rng.uniform(0.36, 0.64)), (rng.uniform(0.70, 0.78), rng.uniform(0.36, 0.64))]
    return replace(scene, shapes=tuple(_shape(rng, behind, x, y, rng.uniform(0.13, 0.17)) for x, y in places[:count]))


def caption(scene: Scene, rng: np.random.Generator, *, say_background: bool | None = None) -> str:
    """A caption that is true of the scene; of two shapes the left one is named first.

    Args:
        say_background: whether it names the background; None: two times of three.
    """
    where = scene.background_name
    if not scene.shapes:
        if where in ("white background", "black background") and rng.uniform() < 0.3:
            return f"a {where.split()[0]} page"
        return f"a scene {where}" if where in LIGHTS else where
    names = []
    for shape in scene.shapes:
        article = "an" if shape.color_name == "orange" else "a"
        names.append(f"{article} {shape.color_name} {shape.name}" if rng.uniform() < 0.85 else f"a {shape.name}")
    what = " and ".join(names)
    if say_background is False or (say_background is None and rng.uniform() < 0.34):
        return what
    if where in LIGHTS:
        return f"{what} {where}"
    form = rng.uniform()
    if form < 0.8:
        return f"{what} on {where}" if where.split()[0] == "ground" else f"{what} on a {where}"
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
    base = np.asarray(scene.background, dtype=np.float32) + slope[..., None]
    if scene.pattern is not None:
        share = _pattern(scene, steps)[..., None]
        base = (1 - share) * base + share * np.asarray(scene.other, dtype=np.float32)
    picture = Image.fromarray(np.round(np.clip(base, 0.0, 1.0) * 255).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(picture)
    for shape in scene.shapes:
        color = _paint(shape.color)
        if style == "shadow":
            _fill(pen, shape, _paint(scene.background, 0.55), full, offset=0.06)
        _fill(pen, shape, color, full)
        if style == "outlined":
            _fill(pen, shape, _paint(scene.background), full, scale=0.68)
            _fill(pen, shape, color, full, scale=0.3)
    return picture.resize((size, size), Image.Resampling.BOX)


def _pattern(scene: Scene, steps: np.ndarray) -> np.ndarray:
    """How much of the second color there is where, [H, W], 0..1."""
    x, y = np.meshgrid(steps, steps)
    waves = 3.0  # periods across the picture: few enough for latents that are 8 times smaller
    across, down = waves * x + scene.phase[0], waves * y + scene.phase[1]
    if scene.pattern == "fading":
        return y + 0.5
    if scene.pattern == "sideways":
        return x + 0.5
    if scene.pattern == "horizon":
        return (y > 0.1 + 0.2 * scene.phase[1]).astype(np.float32)
    if scene.pattern == "halves":
        return (x > 0.5 * scene.phase[0] - 0.25).astype(np.float32)
    if scene.pattern == "stripes":
        return (across % 1.0 < 0.5).astype(np.float32)
    if scene.pattern == "checks":
        return ((across % 1.0 < 0.5) ^ (down % 1.0 < 0.5)).astype(np.float32)
    return ((across % 1.0 - 0.5) ** 2 + (down % 1.0 - 0.5) ** 2 < 0.09).astype(np.float32)


def _paint(color: tuple[float, float, float], light: float = 1.0) -> Paint:
    red, green, blue = (round(c * 255 * light) for c in color)
    return red, green, blue


def _fill(
    pen: ImageDraw.ImageDraw, shape: Shape, color: Paint, full: int, *, scale: float = 1.0, offset: float = 0.0
) -> None:
    x, y = ((c + offset) * full for c in shape.centre)
    radius = shape.radius * full * scale
    if shape.name == "circle":
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
    else:
        pen.polygon([(x + dx, y + dy) for dx, dy in _outline(shape.name, radius, shape.angle)], fill=color)


def example(number: int, seed: int, *, style: str = "plain", size: int = SIZE) -> tuple[np.ndarray, str, str]:
    """Picture `number` of the seed's endless data set, uint8 [size, size, 3], its caption, and one that is astray.

    The second caption names another picture's background: see `denoiser.ASTRAY`.
    """
    rng = np.random.default_rng((seed, number))
    scene = sample_scene(rng)
    text = caption(scene, rng)
    elsewhere = sample_scene(rng).background_name
    says_it = scene.background_name in text or text.endswith("page")
    astray = caption(replace(scene, background_name=elsewhere), rng, say_background=True) if says_it else text
    return np.array(draw(scene, style=style, size=size)), text, astray


def dataset(count: int, seed: int, *, style: str = "plain", start: int = 0) -> tuple[np.ndarray, list[str]]:
    """Pictures number `start` to `start + count` of the seed's endless data set.

    Returns:
        uint8 [count, SIZE, SIZE, 3] and the captions.
    """
    examples = [example(start + index, seed, style=style) for index in range(count)]
    return np.stack([picture for picture, _, _ in examples]), [text for _, text, _ in examples]


def captions(count: int, seed: int) -> list[str]:
    """Those of `dataset`, without the pictures, which take a hundred times as long."""
    texts = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        texts.append(caption(sample_scene(rng), rng))
    return texts


def evaluation_scenes(count: int, seed: int) -> list[tuple[Scene, str]]:
    """Scenes whose backgrounds cover the brightness range evenly, and their captions.

    Every caption names its background, a gray, and one shape; all else is free.
    """
    scenes = []
    for index in range(count):
        rng = np.random.default_rng((seed, index, 1))
        scene = sample_scene(rng, gray=(index + rng.uniform()) / count, shapes=1)
        scenes.append((scene, caption(scene, rng, say_background=True)))
    return scenes


def evaluation_set(count: int, seed: int, *, style: str = "plain") -> tuple[np.ndarray, list[str]]:
    """The captions of `evaluation_scenes`, and a picture true of each, uint8 [count, SIZE, SIZE, 3]."""
    scenes = evaluation_scenes(count, seed)
    return np.stack([np.asarray(draw(scene, style=style)) for scene, _ in scenes]), [text for _, text in scenes]
