"""A folder of odd, broken and hostile files: each ends as one of done, failed or skipped."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import Run, environment
from odd_files import odd_files


def test_a_folder_of_odd_files(d2run: Run, tmp_path: Path) -> None:
    files = list(odd_files())
    (tmp_path / "odd").mkdir()
    for file in files:
        (tmp_path / "odd" / file.name).write_bytes(file.data)
    ghostscript = tmp_path / "bin" / "gs"  # which Pillow would start for an EPS
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    env = environment(tmp_path)
    env["PATH"] = f"{ghostscript.parent}:{env['PATH']}"

    job = ("model=mask_rcnn", "runnable=fake", f"input={tmp_path}/odd", "output=run")
    done = d2run(*job, env=env)

    assert done.returncode == 3, done.stderr
    out = tmp_path / "cwd/run"
    predictions, failures = (
        {line["asset"]: line for line in map(json.loads, (out / name).read_text().splitlines())}
        for name in ("predictions.jsonl", "failures.jsonl")
    )
    read = {file.name: file.size for file in files if file.corners}
    assert {name: (p["height"], p["width"]) for name, p in predictions.items()} == read
    refused = {file.name: file.refused for file in files if file.refused}
    assert failures.keys() == refused.keys()
    for name, failure in failures.items():
        assert failure["error"] == "DecodeError"
        assert re.match(refused[name], failure["message"]), name
    counts = json.loads((out / "run.json").read_text())["counts"]
    assert counts == {"done": len(read), "failed": len(refused)}
    assert len(done.stderr.splitlines()) == len(refused) + 1  # a line each, and no library's noise
    overlays = {p.name.removesuffix(".jpg") for p in (out / "overlay").iterdir()}
    assert overlays == read.keys()
    assert not (tmp_path / "started").exists()
