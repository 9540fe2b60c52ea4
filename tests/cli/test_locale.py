"""The same job gives the same bytes in every environment that says how text is written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import command, environment, write_picture

NAMES = ["B.png", "z.png", "ä.png", "日本.png", "\ue000.png", "😀.png"]
SAME = ("predictions.jsonl", "coco.json", "coco_results.json", "failures.jsonl", "inputs.jsonl")
ENVIRONMENTS = {
    "POSIX": {"LC_ALL": "POSIX"},
    "ASCII": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "no such locale": {
        "LANG": "xx_YY.ISO-8859-1",
        "LC_NUMERIC": "de_DE.UTF-8",
        "TZ": "Asia/Tokyo",
        "PYTHONIOENCODING": "ascii:strict",
    },
}


def outputs(tmp_path: Path, name: str, **more: str) -> dict[str, bytes]:
    out = tmp_path / name
    done = subprocess.run(
        command("model=mask_rcnn", "runnable=fake", f"input={tmp_path}/ün", f"output={out}"),
        env=environment(tmp_path) | more,
        capture_output=True,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.count(b"\n") == 2, done.stderr
    raw = os.fsencode(out / "overlay")
    pictures = {os.path.join(raw, picture)[len(raw) :]: b"" for picture in os.listdir(raw)}  # noqa: PTH118, PTH208
    for picture in pictures:
        with open(raw + picture, "rb") as file:  # noqa: PTH123
            pictures[picture] = file.read()
    assert len(pictures) == len(NAMES) + 1
    lists = {each: (out / each).read_bytes() for each in SAME}
    return lists | {os.fsdecode(picture): data for picture, data in pictures.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("locale")
    for i, name in enumerate([*NAMES, os.fsdecode(b"\xff.png")]):
        write_picture(tmp_path / "ün" / name, np.full((24, 32, 3), 30 * i, np.uint8))
    (tmp_path / "ün" / "broken-é.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return tmp_path


@pytest.fixture(scope="module")
def usual(folder: Path) -> dict[str, bytes]:
    return outputs(folder, "usual", LC_ALL="C.UTF-8")


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_environment_changes_no_byte(folder: Path, usual: dict[str, bytes], name: str) -> None:
    assert outputs(folder, name, **ENVIRONMENTS[name]) == usual
