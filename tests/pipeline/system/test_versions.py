"""Where the installed Detectron2 comes from."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest

from pipeline.system import versions

FAIR = "Author: FAIR"
WHEEL = "https://dl.fbaipublicfiles.com/detectron2/wheels/cu113/detectron2-0.6-cp38.whl"


class Installed(metadata.Distribution):
    def __init__(self, version: str, line: str, source: Any) -> None:
        self.files_by_name = {
            "METADATA": f"Metadata-Version: 2.1\nName: detectron2\nVersion: {version}\n{line}\n",
            "direct_url.json": None if source is None else json.dumps(source),
        }

    def read_text(self, filename: str) -> str | None:
        return self.files_by_name.get(filename)

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


def git(url: str) -> dict[str, Any]:
    return {"url": url, "vcs_info": {"vcs": "git", "commit_id": "9604f5995cc628619f0e4fd913453b4d"}}


@pytest.mark.parametrize(
    ("version", "line", "source", "origin"),
    [
        ("0.7.2", "Summary: Detectron2 without compiled code: ...", None, "in-tree 0.7.2"),
        ("0.6+cu113", FAIR, None, "official build 0.6+cu113"),
        ("0.6", FAIR, {"url": WHEEL, "archive_info": {}}, "official build 0.6"),
        (
            "0.6", FAIR, git("https://github.com/facebookresearch/detectron2.git"),
            "facebookresearch git 9604f5995c",
        ),
        ("0.6", FAIR, git("https://github.com/someone/d2"), "someone git 9604f5995c"),
        ("0.6", FAIR, {"url": "file:///src/d2", "dir_info": {}}, "local build 0.6"),
        ("0.6", FAIR, {"url": "https://example.com/d.whl"}, "build of example.com 0.6"),
        ("0.9", "Author: Someone", None, "other build 0.9"),
        ("0.9", "Author: Someone", ["damaged"], "other build 0.9"),
    ],
)  # fmt: skip
def test_origin(
    monkeypatch: pytest.MonkeyPatch, version: str, line: str, source: Any, origin: str
) -> None:
    found = Installed(version, line, source)
    monkeypatch.setattr(versions.metadata, "distribution", lambda name: found)
    assert versions.detectron2_origin() == origin


@pytest.mark.parametrize(("spec", "origin"), [(None, None), ("a module", "unknown build")])
def test_origin_without_metadata(
    monkeypatch: pytest.MonkeyPatch, spec: str | None, origin: str | None
) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions.metadata, "distribution", missing)
    monkeypatch.setattr(versions, "find_spec", lambda name: spec)
    assert versions.detectron2_origin() == origin
