"""Links planted in an output: whatever name a run touches, nothing outside of it is touched.

The names are recorded, not listed. A link at each of them leads to a file, to a directory, to
nothing, or is a hard link; pipes and directories are in the way too. The run ends with one
sentence, or the link gives way to what is renamed into its place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dying import ended, forked
from file_layer import Layer
from forking import warm
from scenarios import make_inputs, outputs, run_scenario, tell, told, with_maps

SQLITE = ["ledger.sqlite-journal", "ledger.sqlite-wal", "ledger.sqlite-shm"]  # not Python's calls
TEMPORARY = re.compile(r"-\d+\.\d+\.part$")  # of one process; such a name cannot be planted ahead
KINDS = ["file", "directory", "dangling", "hard link", "pipe", "a directory"]


def recorded(arguments: list[str], out: Path, names: Path, prepare: Callable[[], None]) -> None:
    """Run a command and add the names that it touches in its output."""

    def record() -> None:
        prepare()
        file = names.open("a")

        def note(name: str) -> None:
            file.write(json.dumps(name) + "\n")
            file.flush()

        def audited(event: str, args: tuple[object, ...]) -> None:
            if args and isinstance(args[0], (str, bytes)):
                path = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100
                if path.startswith(f"{out}/"):
                    note(path[len(str(out)) + 1 :])

        sys.addaudithook(audited)
        Layer(out, lambda _, name: note(name)).install()

    assert ended(forked(arguments, record)) in (0, 3)


def plant(path: Path, kind: str, outside: Path) -> None:
    """Put something in the place of a file; ``outside`` holds what it leads to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "hard link":
        os.link(outside / "file", path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        (path / "x").mkdir(parents=True)
    else:
        path.symlink_to(outside / kind)


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def scenario_links(folder: Path, every: int) -> None:
    arguments = make_inputs(folder / "in", 3)
    (folder / "in" / "0" / "sub").mkdir()
    shutil.copy(folder / "in" / "0" / "0.png", folder / "in" / "0" / "sub" / "0.png")
    names_file = folder / "names"

    def command(out: Path, kind: str) -> list[str]:
        more = {
            "batch": [],
            "watch": ["runner=watch", "runner.max_passes=1", "runner.settle_s=0"],
            "plan": ["runner=plan"],
            "repair": ["runner=repair"],
        }[kind]
        return [*arguments, *more, f"output={out}"]

    def prepare() -> None:
        with_maps()

    for kind in ("batch", "watch"):
        recorded(command(folder / kind, kind), folder / kind, names_file, prepare)
        more = folder / "in" / "0" / "more.png"  # brings predictions.jsonl out of order
        shutil.copy(folder / "in" / "0" / "0.png", more)
        later = folder / f"{kind} later"
        shutil.copytree(folder / kind, later)
        for runner in (kind, "plan", "repair"):
            recorded(command(later, runner), later, names_file, prepare)
        more.unlink()
    found = {json.loads(line) for line in names_file.read_text().splitlines()} - {""}
    names = sorted({name for name in found if not TEMPORARY.search(name)} | set(SQLITE))
    assert {"run.json", ".hydra", ".lock", "overlay", "coco.json", "health"} <= set(names), names
    assert any(name.endswith(".part") for name in names)
    whole = outputs(folder / "batch")

    ways = [("batch", False), *((runner, True) for runner in ("batch", "watch", "repair", "plan"))]
    cases = [(name, kind, *way) for name in names for kind in KINDS for way in ways][::every]
    for name, planted, runner, begun in cases:
        out, outside = folder / "out", folder / "outside"
        if begun:
            shutil.copytree(folder / ("watch" if runner == "watch" else "batch"), out)
            (out / "coco.json").unlink(missing_ok=True)  # so that there is something to do
            shutil.copy(folder / "in" / "0" / "0.png", folder / "in" / "0" / "more.png")
        (outside / "directory").mkdir(parents=True)
        (outside / "directory" / ".x.part").write_text("another's")
        (outside / "file").write_text("another's")
        plant(out / name, planted, outside)
        before = content(outside)
        status, lines = told(
            lambda: forked(command(out, runner), prepare),  # noqa: B023
            folder / "stderr",
        )
        case = (name, planted, runner, begun, status, lines)
        assert content(outside) == before, case
        assert status in (0, 1, 2, 3, 11), case
        said = [line for line in lines if "broken.png" not in line and "inputs failed" not in line]
        assert len(said) <= 1 + (status == 3), case
        assert not any("unexpected" in line for line in said), case
        assert status in (0, 3) or len(said) == 1, case
        if runner == "batch" and not begun and status == 3:
            assert outputs(out) == whole, case
        shutil.rmtree(out)
        shutil.rmtree(outside)
        (folder / "in" / "0" / "more.png").unlink(missing_ok=True)
    tell(f"{len(cases)} links, {len(names)} names")


def links_tried(tmp_path: Path, every: int) -> int:
    return int(run_scenario(__file__, tmp_path, "links", every).split()[0])


@pytest.mark.timeout(300)
def test_links_at_some_names(tmp_path: Path) -> None:
    assert links_tried(tmp_path, 524) >= 2


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_links_at_every_name(tmp_path: Path) -> None:
    assert links_tried(tmp_path, 1) >= 1000


if __name__ == "__main__":
    warm()
    scenario_links(Path(sys.argv[2]), *json.loads(sys.argv[3]))
