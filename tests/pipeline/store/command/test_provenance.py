"""``python -m pipeline.store provenance``: the run, the model and the input of a result file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from batches import job_of, write_images

from pipeline.store.command.cli import main

NAMES = ("x", "x.png", "sub/x.png", "y.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provenance")
    write_images(folder / "in", *NAMES[1:], value=7)
    (folder / "in/x").mkdir()
    write_images(folder / "in", f"{'n' * 240}.png", "x/y.png")
    job = job_of(f"input={folder}/in", "sink=[coco,overlay,crops]", f"output={folder}/run",
                 "sink.crops.by_class=true")  # fmt: skip
    assert job.runner.run(job).exit_status == 0
    return folder


def shown(capsys: pytest.CaptureFixture[str], path: Path, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["provenance", str(path), "-o", "json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_each_file_of_an_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run"
    files = [path for top in ("overlay", "crops") for path in (run / top).rglob("*.jpg")]
    assert len(files) > 6
    seen = set()
    for path in files:
        found = shown(capsys, path)
        source = Path(found["input"]["path"])
        data = source.read_bytes()
        assert found["input"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert found["input"]["size"] == len(data)
        assert source.relative_to(folder / "in").as_posix() == found["input"]["asset"]
        assert found["file"] == {
            "name": path.relative_to(run).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "manifest.sha256": "matches",
        }
        if path.is_relative_to(run / "overlay") and "n" * 240 not in path.name:
            assert path.relative_to(run / "overlay").as_posix() == f"{found['input']['asset']}.jpg"
        seen.add(found["input"]["asset"])
    assert len(seen) == 5


def test_a_file_of_the_whole_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((folder / "run/run.json").read_bytes())
    found = shown(capsys, folder / "run/coco.json")
    assert found["input"] is None
    assert found["run"]["path"] == str(folder / "run")
    assert found["run"]["fingerprint"] == record["fingerprint"]
    assert found["model"]["config"] == record["model"]["config"]
    assert "class_names" not in found["model"]
    assert shown(capsys, folder / "run/run.json")["file"]["manifest.sha256"] == "not listed"
    assert main(["provenance", str(folder / "run/coco.json"), "-o", "path"]) == 0
    assert capsys.readouterr().out == f"{folder}/run\n"
    assert main(["provenance", str(folder / "run/coco.json")]) == 0
    assert "manifest.sha256: matches" in capsys.readouterr().out


def test_a_changed_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "run/overlay/y.png.jpg"
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    try:
        assert shown(capsys, path, status=1)["file"]["manifest.sha256"] == "changed"
    finally:
        path.write_bytes(data)


def test_what_has_no_provenance(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, problem in ((folder / "in/y.png", "not in a run directory"),
                          (folder / "none", "no such file")):  # fmt: skip
        assert main(["provenance", str(path)]) == 2
        assert problem in capsys.readouterr().err
