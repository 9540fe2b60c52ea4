"""Joins the parts of the page, which are files of this package, and the data into one file."""

from __future__ import annotations

import hashlib
import html
import json
import re
from base64 import b64encode
from pathlib import Path
from string import Template
from typing import Any

from pipeline.system.files import write_whole

PAGE = Path(__file__).parent / "page"
_STYLES = "base.css", "report.css"
_SCRIPTS = "drawing.js", "elements.js", "charts.js", "viewer.js", "report.js"
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)


def write_page(path: Path, data: dict[str, Any], facts: dict[str, Any]) -> None:
    """Replace the page.

    Args:
        path: The file.
        data: What depends on the results alone; equal data give equal bytes.
        facts: About the run.

    Raises:
        OutputError: A directory on the way is a symbolic link.
    """
    style = "".join(_read(name) for name in _STYLES)
    script = "".join(_module(name) for name in _SCRIPTS)
    policy = {
        "default-src": "'none'",
        "img-src": "data:" if _is_embedded(data) else "data: 'self' file:",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    page = Template(_read("index.html")).substitute(
        policy=html.escape("; ".join(f"{key} {value}" for key, value in policy.items())),
        title=html.escape(str(facts.get("directory", ""))),
        n_frames=data["n_frames"],
        n_failures=data["n_failures"],
        style=style,
        script=script,
        facts=_json(facts),
        data=_json(data),
    )
    write_whole(path, page)


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


def _json(value: Any) -> str:
    """Return JSON that cannot end the element that it is in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026").replace(">", "\\u003e")
