"""Joins the parts of the page, which are files of this package, and the data into one file."""

from __future__ import annotations

import hashlib
import html
import json
import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from pipeline.errors import OutputError
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import write_whole

PAGE = Path(__file__).parent / "page"
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A kind of page: the files of ``page/`` that it is made of.

    Attributes:
        body: A template of what is on the page.
        styles: Style sheets, in order.
        scripts: Modules, each after those that it imports.
    """

    body: str
    styles: tuple[str, ...]
    scripts: tuple[str, ...]


_COMMON = "drawing.js", "elements.js", "scene.js", "thumbnails.js", "viewer.js"
REPORT = Page(
    "report.html",
    ("base.css", "page.css", "charts.css"),
    (*_COMMON, "charts.js", "evaluation.js", "report.js"),
)
SWEEP = Page("sweep.html", ("base.css", "page.css", "sweep.css"), (*_COMMON, "sweep.js"))


def write_page(
    path: Path, page: Page, title: str, data: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Replace a page.

    Args:
        path: The file.
        page: Its kind.
        title: Its title.
        data: What depends on the results alone; equal data give equal bytes. ``images`` are the
            images, each with its ``src``.
        facts: What else it shows.

    Raises:
        OutputError: A directory on the way is a symbolic link.
    """
    style = "".join(_read(name) for name in page.styles)
    script = "".join(_module(name) for name in page.scripts)
    policy = {
        "default-src": "'none'",
        "img-src": "data:" if _is_embedded(data) else "data: 'self' file:",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    shared = {name: _read(f"{name}.html") for name in ("threshold", "classes")}
    body = Template(_read(page.body)).substitute(shared, title=html.escape(title))
    text = Template(_read("frame.html")).substitute(
        policy=html.escape("; ".join(f"{key} {value}" for key, value in policy.items())),
        title=html.escape(title),
        kind=path.stem,
        body=body,
        viewer=_read("viewer.html"),
        style=style,
        script=script,
        facts=encoded(facts),
        data=encoded(data),
    )
    write_whole(path, text)


def read_page(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the data and the facts of a page.

    Raises:
        OutputError: It is not a page.
    """
    try:
        with open_to_read(path) as file:
            text = file.read().decode()
        found = (_block(text, name) for name in ("data", "facts"))
        data, facts = (json.loads(each) for each in found)
    except (OSError, ValueError) as exc:
        raise OutputError(f"{path.name} cannot be read; write it again with runner=report") from exc
    return data, facts


def _block(text: str, name: str) -> str:
    start = f'<script type="application/json" id="{name}">'
    at = text.index(start) + len(start)
    return text[at : text.index("</script>", at)]


def _is_embedded(data: dict[str, Any]) -> bool:
    return all(not image["src"] or image["src"].startswith("data:") for image in data["images"])


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _module(name: str) -> str:
    """Return a module as a part of a larger one."""
    return re.sub(r"^export ", "", _IMPORT.sub("", _read(name)), flags=re.MULTILINE)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{b64encode(digest).decode('ascii')}'"


def encoded(value: Any) -> str:
    """Return JSON that cannot end the element that it is in: one byte per character."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026").replace(">", "\\u003e")
