"""Colors of classes, instances and tracks: functions of a number, so equal in every run."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from pipeline.records import Predictions

Color = tuple[int, int, int]  # blue, green, red
ColorBy = Literal["class", "instance", "track"]
COLOR_BY: Sequence[ColorBy] = ("class", "instance", "track")

_GOLDEN_ANGLE = 0.381966  # of a turn; consecutive multiples are far apart
_BRIGHTNESS = (0.95, 0.75, 0.85)


@lru_cache(maxsize=4096)
def color(number: int) -> Color:
    """Return the color of a class id, an instance's position or a track id.

    The hues of neighboring numbers are far apart.
    """
    return _hsv(0.02, number, 0.9)


@lru_cache(maxsize=4096)
def stuff_color(class_id: int) -> Color:
    """Return the color of a stuff class; paler than those of things."""
    return _hsv(0.32, class_id, 0.45)


def instance_colors(
    p: Predictions, color_by: ColorBy, named: Mapping[str, Color] = MappingProxyType({})
) -> list[Color]:
    """Return the color of each instance.

    Args:
        p: The predictions of a frame.
        color_by: ``class``, ``instance`` (the position in the frame) or ``track``. An instance
            without a track id, or with a negative one (not yet confirmed), has its class's color.
        named: The colors of some classes, by name; other classes have the color of their id.
    """
    classes = p.classes.tolist()
    if color_by == "instance":
        return [color(i) for i in range(len(classes))]
    if color_by == "track" and p.track_ids is not None:
        tracks = p.track_ids.tolist()
        pairs = zip(classes, tracks, strict=True)
        return [class_color(p.class_names[c], c, named) if t < 0 else color(t) for c, t in pairs]
    return [class_color(p.class_names[c], c, named) for c in classes]


def class_color(name: str, class_id: int, named: Mapping[str, Color]) -> Color:
    """Return the color of a thing class: the one given by name, or that of its id."""
    return named[name] if name in named else color(class_id)


def text_color(background: Color) -> Color:
    """Return black or white, whichever is easier to read on a background."""
    blue, green, red = background
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return (255, 255, 255) if is_dark else (0, 0, 0)


def _hsv(first_hue: float, number: int, saturation: float) -> Color:
    hue = (first_hue + number * _GOLDEN_ANGLE) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, _BRIGHTNESS[number % 3])
    return round(255 * blue), round(255 * green), round(255 * red)
