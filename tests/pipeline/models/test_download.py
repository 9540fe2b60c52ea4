import hashlib
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import ConfigError, ModelCorruptError, StoreError
from pipeline.models import download as module
from pipeline.models.download import download, local_path

BODY = os.urandom(600_000)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        step = self.server.script.pop(0) if self.server.script else "ok"
        if isinstance(step, int):
            return self.send_error(step)
        if step == "reset":
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # close with RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return self.connection.close()
        if step == "redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere/w.pkl")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        if step == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[: len(BODY) // 2] if step == "half" else BODY)

    protocol_version = "HTTP/1.0"

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.seen, httpd.script = [], []
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_port}/zoo/a/w.pkl"


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(["ok"], id="ok"),
        pytest.param([500, "ok"], id="500-then-ok"),
        pytest.param([503, 429, "ok"], id="503-429-then-ok"),
        pytest.param(["half", "ok"], id="truncated-then-ok"),
        pytest.param(["reset", "reset", "ok"], id="reset-then-ok"),
        pytest.param(["redirect", "ok"], id="redirect"),
    ],
)
def test_downloads_once(tmp_path, server, url, script):
    server.script = list(script)
    path = download(url, tmp_path, backoff_s=0)
    assert path == tmp_path / f"127.0.0.1_{server.server_port}" / "zoo" / "a" / "w.pkl"
    assert path.read_bytes() == BODY
    digest = hashlib.sha256(BODY).hexdigest()
    assert (path.parent / "w.pkl.sha256").read_text() == f"{digest}  w.pkl\n"
    assert names(tmp_path) == ["w.pkl", "w.pkl.sha256"]
    requests = len(server.seen)
    assert download(url, tmp_path) == path
    assert len(server.seen) == requests == len(script)


@pytest.mark.parametrize(
    ("script", "message", "requests"),
    [
        pytest.param([404], "HTTP 404", 1, id="404"),
        pytest.param([403], "HTTP 403", 1, id="403"),
        pytest.param([500] * 4, "HTTP 500", 3, id="500"),
        pytest.param(["half"] * 4, r"ended after 300000 of 600000 bytes", 3, id="truncated"),
        pytest.param(["reset"] * 4, "cannot download", 3, id="reset"),
    ],
)
def test_failed_download(tmp_path, server, url, script, message, requests):
    server.script = list(script)
    with pytest.raises(StoreError, match=message) as caught:
        download(url, tmp_path, backoff_s=0)
    assert url in str(caught.value)
    assert f"place the file at '{local_path(url, tmp_path)}'" in str(caught.value)
    assert "model.weights=PATH" in str(caught.value)
    assert len(server.seen) == requests
    assert names(tmp_path) == []


def test_refused_connection(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match=r"Connection refused.*place the file at"):
        download(f"http://127.0.0.1:{port}/w.pkl", tmp_path, backoff_s=0)


def test_silent_server(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StoreError, match="timed"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/w.pkl", tmp_path, backoff_s=0)


@pytest.mark.parametrize("step", ["ok", 404])
def test_credentials_are_sent_and_never_shown(tmp_path, server, url, step, caplog):
    server.script = [step]
    caplog.set_level("DEBUG")
    secret = url.replace("http://", "http://me:pa%40ss@") + "?token=abc#frag"
    text = ""
    try:
        text = str(download(secret, tmp_path, backoff_s=0))
    except StoreError as exc:
        text = str(exc)
    assert server.seen[0][1] == "Basic bWU6cGFAc3M="
    assert server.seen[0][0] == "/zoo/a/w.pkl?token=abc"
    for word in ("me:", "pa%40", "pa@", "token", "abc", "frag"):
        assert word not in text + caplog.text


def test_queries_have_separate_files(tmp_path):
    a, b = (local_path(f"http://h/w.pkl?v={i}", tmp_path) for i in (1, 2))
    assert a != b
    assert a.suffix == ".pkl"


def test_user_placed_file_is_accepted_and_recorded(tmp_path):
    url = "http://127.0.0.1:9/w.pkl"
    path = local_path(url, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert download(url, tmp_path) == path
    assert names(tmp_path) == ["w.pkl", "w.pkl.sha256"]
    path.write_bytes(b"changed")
    with pytest.raises(ModelCorruptError, match=r"does not match its \.sha256; delete both"):
        download(url, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/w.pkl", "http://", "http:///w.pkl", "http://h", "http://h/", "http://[x/w.pkl",
        "http://h:port/w.pkl", "http://h/../w.pkl", "http://h/a/%2e%2e/w.pkl", "s3://b/w.pkl",
    ],
)  # fmt: skip
def test_bad_addresses(tmp_path, url):
    with pytest.raises(ConfigError):
        download(url, tmp_path / "d")
    with pytest.raises(ConfigError, match=r"malformed|not the http") as caught:
        download("http://me:hush/hush@h/w.pkl", tmp_path / "d")
    assert "hush" not in str(caught.value)
    assert not (tmp_path / "d").exists()


def test_encoded_slashes_are_part_of_the_name(tmp_path):
    assert local_path("http://h/a%2f..%2f..%2fw.pkl", tmp_path).parent == tmp_path / "h"


def test_concurrent_downloads(tmp_path, server, url):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: download(url, tmp_path), range(8)))
    assert {path.read_bytes() for path in paths} == {BODY}
    assert len(server.seen) == 1


def test_full_disk(tmp_path, url, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replaced", full)
    with pytest.raises(StoreError, match="No space left"):
        download(url, tmp_path, backoff_s=0)
