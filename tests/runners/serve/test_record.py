"""``runner.record``: images and results of requests, as a run directory."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from batches import lines, record, run
from command_line import command, environment
from served import IN_THIS_PROCESS, Served, form, image_file, served

from pipeline.errors import ConfigError, OutputError, OutputLockedError, PipelineError
from pipeline.system.output_folder import OutputFolder
from runners.serve.record import recorder


def batch(folder: Path, out: Path) -> None:
    """Run a batch over recorded images, with the options of ``served``."""
    run("runnable=fake", "sink=[coco,overlay]", f"input={folder}", f"output={out}")


def files(out: Path) -> dict[str, bytes]:
    """Return what a batch must write, too."""
    names = ["predictions.jsonl", "failures.jsonl", "inputs.jsonl", "coco.json"]
    names += ["coco_results.json", *(str(p.relative_to(out)) for p in out.glob("overlay/*/*"))]
    return {name: (out / name).read_bytes() for name in sorted(names)}


def test_a_record_is_that_of_a_batch(tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    secret = "runner.token=hush-hush"
    with served(f"runner.record={out}", secret) as running:
        header = {"Authorization": "Bearer hush-hush"}
        body, kind = form(("../../etc/a.png", image_file(20)), ("b.exe", b"x"), ("c", b""))
        answers = running.predict(body, header | kind)[1].splitlines()
        assert [json.loads(line)["asset"] for line in answers] == ["etc/a.png", "b.exe", "c"]
        assert running.request("POST", "/overlay", image_file(30), header)[0] == 200
        assert running.predict(image_file()[:60], header)[0] == 422
        assert len(lines(out / "inputs.jsonl")) == 5  # before the answer
    with served(f"runner.record={out}", secret) as running:  # a restart appends
        assert running.predict(image_file(40), header)[0] == 200
    ids = [line["asset"] for line in lines(out / "inputs.jsonl")]
    name = re.compile(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-(\d{6})\.(png|jpg)")
    assert [name.fullmatch(one)[1] for one in ids] == [f"{i:06d}" for i in range(6)]
    # images of one request are recorded in the order in which they are done
    assert sorted(one[-3:] for one in ids[:3]) == ["jpg", "jpg", "png"]
    assert [(out / "images" / one).read_bytes() for one in ids[3:]] == [
        image_file(30),
        image_file()[:60],
        image_file(40),
    ]
    failed = [line["asset"] for line in lines(out / "failures.jsonl")]
    assert failed == [one for one in ids[:3] if one.endswith("jpg")] + [ids[4]]
    assert record(out)["totals"] == {"done": 3, "failed": 3}
    assert record(out)["exit_status"] == 0
    batch(out / "images", again)
    assert files(out) == files(again)
    assert {path.name for path in out.rglob(".*")} <= {".lock", ".hydra"}
    for path in out.rglob("*"):
        assert path.is_dir() or b"hush-hush" not in path.read_bytes()


def test_a_batch_continues_a_record(tmp_path: Path) -> None:
    with served(f"runner.record={tmp_path}") as running:
        assert running.predict(image_file())[0] == 200
    (tmp_path / "images/late.png").write_bytes(image_file(30))
    batch(tmp_path / "images", tmp_path)
    assert record(tmp_path)["counts"] == {"done": 1, "failed": 0, "earlier": 1}


def refused(error: type[PipelineError], match: str, *arguments: str) -> None:
    with pytest.raises(error, match=match), served(*arguments):
        pass


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    with served(f"runner.record={a}") as running:
        assert running.predict(image_file())[0] == 200
        refused(OutputLockedError, "another run holds", f"runner.record={a}")
    other = r"other settings \(seed was 0, is 1\); choose another output$"
    refused(ConfigError, other, f"runner.record={a}", "seed=1")
    (b / "images").mkdir(parents=True)
    (b / "images/mine.jpg").write_bytes(b"")
    refused(ConfigError, "holds images, which no run of d2run wrote", f"runner.record={b}")
    assert [path.name for path in b.rglob("*")] == ["images", "mine.jpg"]
    c.write_text("")
    refused(ConfigError, "is a file", f"runner.record={c}")
    refused(ConfigError, "expected a directory, or null", "runner.record=")
    refused(OutputError, "cannot write the output", "runner.record=/proc/d2run")


def recorded(running: Served) -> dict[str, float]:
    """Return the counts of the metric, by outcome."""
    text = running.request("GET", "/metrics")[1].decode()
    counts = re.findall(r'd2run_recorded_total{outcome="(\w+)"} (\S+)', text)
    return {outcome: float(number) for outcome, number in counts}


def test_an_answer_does_not_depend_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recorder, "_RETRY_S", 0.2)
    with served(f"runner.record={tmp_path}", "sink=[]") as running:
        before = running.predict(image_file())

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

        with monkeypatch.context() as patch:
            patch.setattr(OutputFolder, "write", full)
            for _ in range(2):
                assert running.predict(image_file()) == before
        while recorded(running)["written"] < 3:
            assert running.predict(image_file()) == before
        counts = recorded(running)
    assert counts["lost"] >= 1
    assert len(lines(tmp_path / "predictions.jsonl")) == counts["written"]
    assert len(list((tmp_path / "images").glob("*/*"))) == counts["written"]
    told = capfd.readouterr().err
    assert told.count("error: requests are not recorded: cannot write the output") == 1
    assert told.count("resolved: requests are not recorded") == 1


def test_an_answer_does_not_wait_for_a_hanging_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_MAX_WAIT_S", 0.05)
    opened, write = threading.Event(), OutputFolder.write

    def hanging(*arguments: Any) -> None:
        opened.wait(60)
        write(*arguments)

    monkeypatch.setattr(OutputFolder, "write", hanging)
    with served(f"runner.record={tmp_path}", "sink=[]", "runner.max_queue=3") as running:
        answers = {running.predict(image_file())[0] for _ in range(5)}
        assert answers == {200}
        assert recorded(running) == {"lost": 2}
        opened.set()
    assert len(lines(tmp_path / "predictions.jsonl")) == 3


def test_a_killed_service_has_recorded_what_it_answered(tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    line = command("runner=serve", "runnable=fake", "model=mask_rcnn", "runner.port=0")
    with subprocess.Popen(
        [*line, IN_THIS_PROCESS, f"runner.record={out}"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    ) as process:
        assert process.stderr is not None
        port = int(process.stderr.readline().split(":")[2].partition("/")[0])

        def post(height: int) -> int:
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            with suppress(OSError, HTTPException), closing(connection):
                connection.request("POST", "/predict", image_file(height))
                if connection.getresponse().status == 200:
                    return height
            return 0

        with ThreadPoolExecutor(4) as clients:
            posts = [clients.submit(post, height) for height in range(10, 90)]
            posts[20].result()
            process.kill()
            answered = {one.result() for one in posts} - {0}
    assert 20 < len(answered) < 80
    with served(f"runner.record={out}") as running:
        assert running.predict(image_file(100))[0] == 200
    kept = {line["height"] for line in lines(out / "predictions.jsonl")}
    assert answered | {100} <= kept
    known = {line["asset"] for line in lines(out / "predictions.jsonl")}
    for path in (out / "images").glob("*/*"):  # those of requests in flight have no result
        if str(path.relative_to(out / "images")) not in known:
            path.unlink()
    batch(out / "images", again)
    for name in ("predictions.jsonl", "coco.json", "inputs.jsonl"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
