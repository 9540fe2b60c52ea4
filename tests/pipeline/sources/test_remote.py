"""Images at an address: listing, ids, fetching ahead, retries, and what must not be shown."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from pipeline.errors import ConfigError, DecodeError
from pipeline.protocols import FetchedAsset, ReadableAsset, VersionedAsset
from pipeline.sources import Several
from pipeline.sources.auto import auto
from pipeline.sources.decode.workers import DecodeWorkers
from pipeline.sources.fetching import Fetcher, RemoteObject
from pipeline.sources.remote import Remote
from runners.todo import fetched_ahead


def png(value: int = 0) -> bytes:
    return bytes(cv2.imencode(".png", np.full((2, 3, 3), value, np.uint8))[1])


@pytest.fixture
def bucket() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    names = ("10.png", "9.png", "sub/a.png", "sub/.b.png", "x.txt", "odd [1].png", "q?.png")
    for i, name in enumerate(names):
        system.pipe(f"/bucket/{name}", png(i))
    yield system
    system.store.clear()


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def copies(scratch: Path) -> list[Path]:
    return [path for path in scratch.rglob("*") if path.is_file()]


def ids(source: Any) -> list[str]:
    return [asset.id for asset in source]


def shade(asset: Any) -> int:
    (frame,) = asset.frames()
    return int(frame.image[0, 0, 0])


def test_a_directory(bucket: Any, scratch: Path) -> None:
    source = auto("memory://bucket/")
    assert type(source) is Remote
    source.check()
    assert ids(source) == ["9.png", "10.png", "odd [1].png", "q?.png", "sub/a.png"]
    assert len(source) == 5
    skipped = {entry.path: entry.reason for entry in source.skipped()}
    assert skipped == {"sub/.b.png": "hidden", "x.txt": "not an image (.txt)"}
    asset = next(iter(source))
    assert all(isinstance(asset, p) for p in (FetchedAsset, ReadableAsset, VersionedAsset))
    assert asset.status()[0] == len(png(1))
    assert shade(asset) == 1
    assert (asset.size_bytes, asset.mtime_ns) == asset.status()
    assert asset.fingerprint() == hashlib.sha256(png(1)).hexdigest()
    assert next(iter(source)).fingerprint() == asset.fingerprint()
    assert copies(scratch) == []


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("memory://bucket/*.png", ["9.png", "10.png", "odd [1].png", "q?.png"]),
        ("memory://bucket/sub", ["a.png"]),
        ("memory://bucket/**/a.png", ["sub/a.png"]),
        ("memory://bucket/10.png", ["10.png"]),
        ("memory://bucket/x.tx*", []),
        ("memory://bucket/q?.png", ["q?.png"]),
    ],
)
def test_what_is_found(bucket: Any, address: str, found: list[str]) -> None:
    assert ids(auto(address)) == found


def test_directories_can_be_skipped(bucket: Any) -> None:
    assert "sub/a.png" not in ids(auto("memory://bucket", recursive=False))


def test_a_single_object_needs_no_extension(bucket: Any) -> None:
    bucket.pipe("/bucket/photo", png(7))
    (asset,) = auto("memory://bucket/photo")
    assert (asset.id, shade(asset)) == ("photo", 7)


def test_names_are_made_safe(bucket: Any) -> None:
    bucket.store.clear()
    bucket.store["/b/../../up.png"] = bucket.open("/t", "wb")
    bucket.store["/b//x.png"] = bucket.open("/t", "wb")
    assert all(".." not in name and not name.startswith("/") for name in ids(auto("memory://b/")))


def test_workers_read_copies(bucket: Any, scratch: Path) -> None:
    (asset,) = auto("memory://bucket/9.png")
    with DecodeWorkers(1, memory_mb=512, timeout_s=30) as reader:
        asset.reader = reader
        assert shade(asset) == 1
    bucket.pipe("/bucket/9.png", b"no image")
    (asset,) = auto("memory://bucket/9.png")
    with pytest.raises(DecodeError, match="not an image"):
        list(asset.frames())
    assert asset.fingerprint() == hashlib.sha256(b"no image").hexdigest()
    assert copies(scratch) == []


def test_several_inputs(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("/other/9.png", png(3))
    source = Several([auto("memory://bucket/sub"), auto("memory://other")])
    assert ids(source) == ["sub/a.png", "other/9.png"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://nothing", "cannot list 'memory://nothing': no such object"),
        ("nosuch://x/y", "nosuch:// is not supported"),
        ("file:///tmp", "for files on this machine"),
        ("simplecache::memory://bucket", "no file or directory"),
        ("memory://bucket::x", "is not an address"),
        ("s3://bucket/a.zip", "only images are read from an address"),
        ("https://me:hush@host/v.csv?token=hush", "only images are read from an address"),
    ],
)
def test_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        auto(address).check()
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"cache_mb": -1}, {"cache_mb": "x"}, {"recursive": 1}, {"max_pixels": 0}]
)
def test_wrong_values(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Remote("memory://bucket", **options)


class Store:
    """A store that fails, lies, or sends what was not announced."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers, self.calls = list(answers), 0

    def get_file(self, name: str, path: str, callback: Any) -> None:
        self.calls += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            Path(path).write_bytes(b"half")
            raise answer
        with Path(path).open("wb") as file:
            for start in range(0, len(answer), 1000):
                file.write(answer[start : start + 1000])
                callback.relative_update(len(answer[start : start + 1000]))


def fetch(store: Store, wanted: RemoteObject, **options: Any) -> tuple[bytes, list[float]]:
    pauses: list[float] = []
    given = {"cache_bytes": 1000, "max_pixels": 1000, **options}
    fetcher = Fetcher("x://", system=store, sleep=pauses.append, **given)
    with fetcher.file(wanted) as path:
        return path.read_bytes(), pauses


def test_failures_that_pass_are_retried(scratch: Path) -> None:
    failures = (OSError("reset"), TimeoutError(), RuntimeError("throttled"))
    store = Store(*failures, b"abc")
    assert fetch(store, RemoteObject("x", 3, None)) == (b"abc", [0.5, 1.0, 2.0])
    assert copies(scratch) == []


@pytest.mark.parametrize(
    ("answers", "wanted", "message", "calls"),
    [
        ([FileNotFoundError("x")], RemoteObject("x", 3, None), "no such object", 1),
        ([PermissionError("x")], RemoteObject("x", 3, None), "no permission", 1),
        ([OSError("https://me:hush@h/x?t=hush")] * 5, RemoteObject("x", 3, 1), "https://***", 5),
        ([b"ab"] * 5, RemoteObject("x", 3, None), "2 of 3 bytes arrived", 5),
        ([b"abc"] * 5, RemoteObject("x", 3, None, "AAAA"), "its checksum differs", 5),
        ([], RemoteObject("x", 1 << 40, None), "too large for an image", 0),
        ([bytes(68 << 20)], RemoteObject("x", None, None), "too large for an image", 1),
    ],
)
def test_failures_that_stay(
    scratch: Path, answers: list[Any], wanted: RemoteObject, message: str, calls: int
) -> None:
    store = Store(*answers)
    with pytest.raises(DecodeError) as caught:
        fetch(store, wanted)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)
    assert (store.calls, caught.value.attempts) == (calls, max(1, calls))
    assert copies(scratch) == []


def test_checksums_of_the_store(scratch: Path) -> None:
    md5 = base64.b64encode(hashlib.md5(b"abc").digest()).decode()
    assert fetch(Store(b"abc"), RemoteObject("x", 3, None, md5))[0] == b"abc"


def test_what_is_ahead_is_bounded(scratch: Path) -> None:
    content = bytes(1000)
    store = Store(*[content] * 50)
    fetcher = Fetcher("x://", cache_bytes=10_000, max_pixels=1000, system=store)
    wanted = [RemoteObject(str(i), 1000, None) for i in range(50)]
    for each in wanted:
        fetcher.fetch_ahead(each)
    for future in fetcher._ahead.values():
        future.result()
    assert len(copies(scratch)) == store.calls == 10
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: read(fetcher, each), wanted))
    assert found == [content] * 50
    assert (fetcher._used, copies(scratch), store.calls) == (0, [], 50)


def read(fetcher: Fetcher, wanted: RemoteObject) -> bytes:
    with fetcher.file(wanted) as path:
        return path.read_bytes()


def test_assets_are_fetched_before_their_turn(bucket: Any) -> None:
    bucket.store.clear()
    for i in range(200):
        bucket.pipe(f"/bucket/{i}.png", png(i))
    source = auto("memory://bucket/")
    fetcher = next(iter(source)).fetcher
    found = fetched_ahead((asset, i) for i, asset in enumerate(source))
    places = []
    for asset, place in found:
        assert len(fetcher._ahead) <= 65
        if place < 100:
            assert len(fetcher._ahead) >= 64
        assert shade(asset) == place
        places.append(place)
    assert places == list(range(200))
    assert fetcher._used == 0


class Pages(BaseHTTPRequestHandler):
    """A directory as a web server shows it; the first request for an image fails."""

    failed: set[str] = set()  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/photos/":
            body = b'<a href="a%20b.png">a</a><a href="c.png">c</a><a href="../">up</a>'
            kind = "text/html"
        else:
            body, kind = png(9), "image/png"
            if self.command == "GET" and self.path not in self.failed:
                self.failed.add(self.path)
                self.send_error(503)
                return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Tue, 03 Nov 2026 10:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Pages.failed.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_web_servers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.fetching._PAUSES_S", (0.01,))
    assets = list(auto(f"{address}/photos/"))
    assert [asset.id for asset in assets] == ["a b.png", "c.png"]
    assert [shade(asset) for asset in assets] == [9, 9]
    (asset,) = auto(f"{address}/photos/d.png?token=hush")
    assert asset.id == "d.png"
    assert asset.status() == (len(png(9)), 1_793_700_000 * 10**9)
    assert shade(asset) == 9
    assert "hush" not in os.fspath(asset.path)
