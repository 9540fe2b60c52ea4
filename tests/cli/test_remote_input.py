"""An address as input: its password is in nothing that a run writes or says."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from command_line import Run

JOB = ("model=mask_rcnn", "runnable=fake", "sink=[coco]")
LOGIN = "Basic " + base64.b64encode(b"me:hush1").decode()


class Private(SimpleHTTPRequestHandler):
    def send_head(self) -> object:
        if self.headers.get("Authorization") != LOGIN:
            self.send_error(403)
            return None
        return super().send_head()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host(photos: Path) -> Iterator[str]:
    handler = partial(Private, directory=str(photos))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_password_in_an_address(d2run: Run, photos: Path, host: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = (*JOB, f"input=http://me:hush1@{host}/a2.jpg?token=hush2", f"output={out}")
    for _ in range(2):
        done = d2run(*job)
        assert done.returncode == 0, done.stderr
    wrong = d2run(*JOB, f"input=http://me:hush3@{host}/a2.jpg?token=hush2", f"output={out}")
    assert wrong.returncode == 2
    assert "cannot list" in wrong.stderr
    counts = json.loads((out / "run.json").read_text())["counts"]
    assert counts == {"done": 0, "failed": 0, "earlier": 1}
    (line,) = (out / "inputs.jsonl").read_text().splitlines()
    assert json.loads(line)["asset"] == "a2.jpg"
    for path in out.rglob("*"):
        assert not path.is_file() or b"hush" not in path.read_bytes(), path
    for each in (done, wrong):
        assert "hush" not in each.stdout + each.stderr
