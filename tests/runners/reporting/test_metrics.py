from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import ConfigError
from pipeline.system.versions import VERSION
from runners.reporting.status import Status

NEVER_S = 3600.0  # the thread writes nothing: only entering and leaving do


def samples(text: str) -> dict[tuple[str, ...], float]:
    found = (s for family in text_string_to_metric_families(text) for s in family.samples)
    return {(s.name, *s.labels.values()): s.value for s in found}


def test_metrics(tmp_path: Path) -> None:
    with Status(tmp_path, metrics=True, every_s=NEVER_S) as status:
        before = samples((tmp_path / "metrics.prom").read_text())
        status.update(pending=7)
        status.health(True)
        status.advance("done", "a", seconds={"forward": 0.5}, instances=3)
        status.advance("done", "b", seconds={"forward": 0.25, "decode": 1.0}, instances=2)
    text = (tmp_path / "metrics.prom").read_text()
    found = samples(text)
    assert ("d2run_healthy",) not in before
    assert ("d2run_last_commit_timestamp_seconds",) not in before
    assert before["d2run_inputs_total", "done"] == before["d2run_inputs_total", "failed"] == 0
    assert found["d2run_inputs_total", "done"] == 2
    assert found["d2run_inputs_total", "failed"] == 0
    assert found["d2run_instances_total",] == 5
    assert found["d2run_seconds_total", "forward"] == 0.75
    assert found["d2run_seconds_total", "decode"] == 1.0
    assert found["d2run_pending",] == 7
    assert found["d2run_healthy",] == 0  # it has ended
    assert found["d2run_build_info", VERSION] == 1
    started, committed = (
        found[f"d2run_{name}_timestamp_seconds",] for name in ("start", "last_commit")
    )
    assert 0 <= committed - started < 3600
    assert all(name.startswith("d2run_") for name, *_ in found)
    assert text.count("# HELP") == text.count("# TYPE") == 8


def test_the_port(tmp_path: Path) -> None:
    with Status(tmp_path, metrics_port=0, every_s=NEVER_S) as status:
        status.advance("done", "x")
        port = status.metrics_port
        assert port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert samples(answer.read().decode())["d2run_inputs_total", "done"] == 1
        assert listening() == [("0100007F", port)]  # 127.0.0.1, as the kernel writes it
        with (
            pytest.raises(ConfigError, match=f"127.0.0.1:{port} .*in use.*a free port"),
            Status(tmp_path, metrics_port=port),
        ):
            pass
    assert listening() == []
    assert not (tmp_path / "metrics.prom").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("port", [-1, 65536])
def test_no_such_port(tmp_path: Path, port: int) -> None:
    with (
        pytest.raises(ConfigError, match=f"metrics_port: expected .*65535, got {port}"),
        Status(tmp_path, metrics_port=port),
    ):
        pass


def listening() -> list[tuple[str, int]]:
    """Addresses, in hexadecimal, and ports at which this process listens."""
    mine = {str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()}
    found = []
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                address, port = fields[1].split(":")
                found.append((address, int(port, 16)))
    return found


def test_no_socket_and_no_library_unless_asked_for(tmp_path: Path) -> None:
    code = (
        "import socket, sys, pathlib; from runners.reporting.status import Status\n"
        "def no(*args): raise AssertionError('a socket')\n"
        "socket.socket.bind = no\n"
        "with Status(pathlib.Path(sys.argv[1])) as status: status.advance('done', 'x')\n"
        "assert 'prometheus_client' not in sys.modules and 'torch' not in sys.modules\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
