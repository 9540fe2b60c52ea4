"""``runner=serve`` in a process: an answer, a refusal, and the end by SIGTERM."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from runners.serve.options import ServeOptions

ROOT = Path(__file__).parents[3]
SCENE = ROOT / "examples/shapes/scenes/scene_2026_0001.jpg"


def post(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", body)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_serves_until_terminated(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), "runner=serve", "runnable=fake"]
    command += ["model=shapes", "runner.port=0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        serving = next(line for line in lines if line.startswith("serving http://127.0.0.1:"))
        port = int(serving.split(":")[2].partition("/")[0])
        status, body = post(port, SCENE.read_bytes())
        assert status == 200
        line = json.loads(body)
        assert (line["asset"], line["width"], line["height"]) == ("image", 278, 307)
        status, body = post(port, b"not an image")
        assert status == 422
        assert "not an image" in json.loads(body)["error"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_only_this_machine_can_connect() -> None:
    with pytest.raises(ConfigError, match=r"^host: expected"):
        ServeOptions(host="0.0.0.0")
