"""How an overlay looks: parsed without OpenCV, which takes 0.1 s to import."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.errors import ConfigError, did_you_mean
from pipeline.validation import check, check_choice, check_number

MaskStyle = Literal["fill", "outline", "halo", "blur", "pixelate"]
_MASK_STYLES: Sequence[MaskStyle] = ("fill", "outline", "halo", "blur", "pixelate")
TEMPLATE = "{track} {name} {score}"
FIELD = re.compile(r"\{(track|name|score|class_id)\}")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Style:
    """How predictions look.

    Attributes:
        mask_style: ``fill``: an area and its outline; ``outline``; ``halo``: a glow around the
            mask; ``blur`` or ``pixelate``: instances cannot be recognized.
        line_scale: Factor of the thickness of lines.
        text_scale: Factor of the size of text.
        label: Text in which ``{track}``, ``{name}``, ``{score}`` and ``{class_id}`` are replaced.
        colors: The colors of some classes by name: blue, green, red.
    """

    mask_style: MaskStyle = "fill"
    line_scale: float = 1.0
    text_scale: float = 1.0
    label: str = TEMPLATE
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


def parsed_style(
    mask_style: MaskStyle,
    line_scale: float,
    text_scale: float,
    label: str,
    colors: Mapping[str, str] | None,
) -> Style:
    """Return the style that options describe; colors are written ``#rrggbb``.

    Raises:
        ConfigError: An option has an invalid value.
    """
    check_choice("mask_style", mask_style, _MASK_STYLES)
    check_number("line_scale", line_scale, 0.1, 10)
    check_number("text_scale", text_scale, 0.1, 10)
    valid = isinstance(label, str) and not set("{}") & set(FIELD.sub("", label))
    check(
        "label", label, valid, "text with {track}, {name}, {score}, {class_id} and no other { or }"
    )
    parsed = {str(name): _color(f"colors.{name}", text) for name, text in (colors or {}).items()}
    return Style(mask_style, line_scale, text_scale, label, parsed)


def check_colors(colors: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ConfigError if a color is that of a class that the model does not have."""
    for name in colors:
        if name not in known:
            raise ConfigError(f"colors: the model has no class '{name}'{did_you_mean(name, known)}")


def _color(option: str, text: object) -> tuple[int, int, int]:
    valid = isinstance(text, str) and bool(_HEX.fullmatch(text))
    check(option, text, valid, "a color written as '#ff0000'")
    red, green, blue = bytes.fromhex(str(text)[1:])
    return blue, green, red
