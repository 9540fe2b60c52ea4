"""Streams from a local camera: what arrives, what is lost, and that nothing hangs."""

from __future__ import annotations

import threading
import tracemalloc
from base64 import b64encode
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cameras import Camera, clip
from videos import number_of

from pipeline.errors import ConfigError, PartialError
from pipeline.records import Frame
from pipeline.sources.decode.options import Decoded
from pipeline.sources.live.capture import Capture
from pipeline.sources.live.connection import Arrived, LostError
from pipeline.sources.stream import Stream, StreamSegment

ONCE: dict[str, Any] = {"retries": 0, "timeout_s": 2.0, "on_slow": "block"}


@pytest.fixture
def camera() -> Iterator[Camera]:
    with Camera(60, rate=0) as camera:
        yield camera


def read(source: Stream) -> list[tuple[StreamSegment, list[Frame]]]:
    return [(segment, list(segment.frames())) for segment in source]


def numbers(found: list[tuple[StreamSegment, list[Frame]]]) -> list[int]:
    return [number_of(frame.image) for _, frames in found for frame in frames]


@pytest.mark.parametrize(
    ("path", "scheme", "base", "least"),
    [
        ("clip.mp4", "http", Fraction(1, 12800), 60),
        ("live.ts", "http", Fraction(1, 90000), 60),
        ("live.mjpg", "http", Fraction(1, 1000), 60),
        # the last frame of a transport stream ends where the next one begins
        ("door/1", "rtsp", Fraction(1, 90000), 59),
    ],
)
def test_frames(camera: Camera, path: str, scheme: str, base: Fraction, least: int) -> None:
    source = Stream(camera.url(path, scheme, "me:secret@"), **ONCE)
    found = read(source)
    assert numbers(found) == [i % 30 for i in range(least)]
    times = [frame.pts for _, frames in found for frame in frames]
    assert times == sorted(set(times))
    assert {frame.time_base for _, frames in found for frame in frames} == {base}
    if path != "live.mjpg":
        assert times[1] - times[0] == Fraction(1, 25) / base
    for segment, frames in found:
        assert [frame.index for frame in frames] == list(range(len(frames)))
        assert {frame.asset_id for frame in frames} == {segment.id}
        assert segment.id.startswith(f"127.0.0.1-{camera.port}/{path}/20")
        assert segment.size_bytes > 0
        assert not segment.is_still
        assert "secret" not in repr(segment)
    assert bool(source.problem) == (path != "clip.mp4")  # only a recording has an end
    assert "secret" not in source.problem


def test_segments(camera: Camera) -> None:
    first, again = (read(Stream(camera.url("clip.mp4"), segment_s=1, **ONCE)) for _ in range(2))
    assert [len(frames) for _, frames in first] == [25, 25, 10]
    ids = [segment.id for segment, _ in first]
    assert ids == sorted(set(ids))
    digests = [segment.fingerprint() for segment, _ in first]
    assert len(set(digests)) == 3
    assert digests == [segment.fingerprint() for segment, _ in again]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stride": 20}, [0, 20, 10]),
        ({"fps": 5}, [0, 5, 10, 15, 20, 25, 0, 5, 10, 15, 20, 25]),
        ({"fps": 5, "stride": 4}, [0, 20, 10]),
        ({"max_frames": 3}, [0, 1, 2]),
    ],
)
def test_selection(camera: Camera, options: dict[str, Any], expected: list[int]) -> None:
    source = Stream(camera.url("live.ts"), **ONCE | options)
    assert numbers(read(source)) == expected


@pytest.mark.parametrize(
    ("path", "scheme", "message"),
    [
        ("401", "http", "Server returned 401"),
        ("404", "http", "Server returned 404"),
        ("401", "rtsp", "Server returned 401"),
        ("404", "rtsp", "Server returned 404"),
        ("silent", "http", "no answer in 0.5 s"),
        ("silent", "rtsp", "no answer in 0.5 s"),
        ("trickle.ts", "http", "no answer in 0.5 s"),
    ],
)
def test_what_cannot_be_opened(camera: Camera, path: str, scheme: str, message: str) -> None:
    source = Stream(camera.url(path, scheme, "me:secret@"), retries=0, timeout_s=0.5)
    with pytest.raises(ConfigError, match=message) as caught:
        read(source)
    assert "cannot read" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_refusal_is_final(camera: Camera) -> None:
    with pytest.raises(ConfigError):
        read(Stream(camera.url("404"), retries=9))
    assert len(camera.requests) == 1


def test_a_camera_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"cannot read '/dev/video987': No such file"):
        read(Stream("987"))


def test_a_server_that_stops_sending_does_not_hang(camera: Camera) -> None:
    source = Stream(camera.url("stuck.ts"), retries=0, timeout_s=0.5, on_slow="block")
    found = numbers(read(source))
    assert found == list(range(len(found)))
    assert 20 < len(found) < 31
    assert source.problem == "no answer in 0.5 s"


@pytest.mark.parametrize(("path", "scheme"), [("live.ts", "http"), ("x", "rtsp")])
def test_a_server_that_is_killed_and_restarted(path: str, scheme: str) -> None:
    first = Camera(200, rate=100)
    source = Stream(
        first.url(path, scheme), retries=50, max_backoff_s=0.1, timeout_s=5, on_slow="block"
    )
    found: list[list[int]] = []
    for segment in source:
        found.append([])
        for frame in segment.frames():
            found[-1].append(number_of(frame.image))
            if len(found[-1]) == 30:
                first.kill() if len(found) == 1 else source.stop()
        if len(found) == 1:  # its segment ends while the server is away
            second = Camera(200, rate=100, port=first.port)
    second.kill()
    assert len(found) == 2
    for shown in found:  # each connection starts at the first frame, and none is mixed
        assert len(shown) >= 30
        assert shown == [i % 30 for i in range(len(shown))]
    assert not source.problem


def test_a_slow_model_drops_the_oldest_frames(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Capture.start

    def start_requested(capture: Capture) -> None:
        capture._is_requested = True  # until a frame is requested, the model is loaded
        start(capture)

    monkeypatch.setattr(Capture, "start", start_requested)
    source = Stream(camera.url("live.ts"), retries=0, timeout_s=10)
    found = []
    for segment in source:
        source._capture._thread.join()  # all frames have arrived
        found += [number_of(frame.image) for frame in segment.frames()]
    assert found == [i % 30 for i in range(60 - 16, 60)]
    assert "44 of 60 frames of" in source.warnings[0]


@pytest.mark.parametrize("options", [{"on_slow": "block"}, {"on_slow": "drop"}])
def test_a_recording_waits(camera: Camera, options: dict[str, Any]) -> None:
    source = Stream(camera.url("clip.mp4"), retries=0, **options)
    found = []
    for segment in source:
        for frame in segment.frames():
            found.append(number_of(frame.image))
            threading.Event().wait(0.002)
            assert len(source._capture._queue) <= 16
    assert found == [i % 30 for i in range(60)]
    assert source.warnings == []


def test_a_recording_continues_after_the_last_frame(camera: Camera) -> None:
    source = Stream(camera.url("cut.mp4"), retries=3, max_backoff_s=0.1)
    found = read(source)
    assert numbers(found) == [i % 30 for i in range(60)]
    assert len(found) == 2  # one per connection
    assert not source.problem


def test_damage(camera: Camera) -> None:
    source = iter(Stream(camera.url("damaged.ts"), **ONCE))
    segment = next(source)
    found: list[int] = []

    def read_all() -> None:
        found.extend(number_of(frame.image) for frame in segment.frames())

    with pytest.raises(PartialError, match=r"^damaged stream: \d damaged") as caught:
        read_all()
    assert caught.value.asset_id == segment.id
    assert list(source) == []
    intact = [i % 30 for i in range(60)]
    assert 40 < len(found) < 60
    assert found[:25] == intact[:25]
    assert found[-20:] == intact[-20:]


def test_stop_and_close(camera: Camera) -> None:
    camera.rate = 25
    source = Stream(camera.url("live.ts"), **ONCE)
    for segment in source:
        for _ in segment.frames():
            source.stop()
    assert not source.problem
    for _ in source:  # nobody reads it
        source.close()
    assert not source.problem


@pytest.mark.parametrize(
    "options",
    [
        {"segment_s": 0.5}, {"on_slow": "wait"}, {"timeout_s": 0}, {"retries": -1},
        {"retries": 1.5}, {"max_backoff_s": 0}, {"duration_s": 0}, {"max_frames": 0},
        {"name": "../x"}, {"name": ""}, {"name": "a b"}, {"stride": 0}, {"fps": 0},
        {"max_pixels": 0}, {"exif": 1},
    ],
)  # fmt: skip
def test_wrong_values(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(options))}: expected"):
        Stream("rtsp://host/x", **options)


@pytest.mark.parametrize("input", ["x.mp4", "s3://bucket/x.mp4", "rtsp:///x", "http://h:99999/x"])
def test_not_a_stream(input: str) -> None:
    with pytest.raises(ConfigError, match=r"^input: "):
        Stream(input)


def test_a_frame_that_is_too_large(camera: Camera) -> None:
    with pytest.raises(ConfigError, match=r"64.48"):
        read(Stream(camera.url("live.ts"), max_pixels=100, retries=9))
    assert len(camera.requests) == 1


@pytest.fixture
def playlists(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory that is served to those who know the password, and its address."""
    wanted = f"Basic {b64encode(b'me:secret').decode()}"

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") == wanted:
                super().do_GET()
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://me:%s@127.0.0.1:{server.server_address[1]}/x.m3u8"
        server.shutdown()


def write_playlist(folder: Path, part: str) -> None:
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.4,"
    (folder / "x.m3u8").write_text(f"{head}\n{part}\n#EXT-X-ENDLIST\n")


def test_a_playlist_with_a_password(playlists: tuple[Path, str]) -> None:
    folder, url = playlists
    (folder / "part.ts").write_bytes(clip(60, ".ts"))
    write_playlist(folder, "part.ts")
    assert numbers(read(Stream(url % "secret", **ONCE))) == [i % 30 for i in range(60)]
    with pytest.raises(ConfigError, match="401"):
        read(Stream(url % "wrong", **ONCE))
    write_playlist(folder, f"file://{folder}/part.ts")  # the server cannot name files of ours
    with pytest.raises(ConfigError, match="cannot read"):
        read(Stream(url % "secret", **ONCE))


class Script:
    """Connections that were made up: each a list of times in seconds, then it is lost."""

    def __init__(self, *connections: list[float], is_recording: bool = False) -> None:
        self.connections, self.n, self.is_recording = list(connections), 0, is_recording

    def __call__(self, number: int, after: int | None) -> Any:
        times = self.connections[self.n] if self.n < len(self.connections) else []
        self.n += 1

        class Connection:
            def frames(_) -> Iterator[Arrived]:
                for i, time_s in enumerate(times):
                    image = np.full((4, 4, 3), i % 256, np.uint8)
                    decoded = Decoded(image, round(time_s * 1000), Fraction(1, 1000))
                    yield Arrived(
                        decoded, Fraction(time_s), 0.0, i * 1.0, b"x", 0, self.is_recording, number
                    )
                raise LostError("gone")

        return Connection()


def scripted(script: Script, **options: Any) -> Stream:
    source = Stream("rtsp://host/x", on_slow="block", **options)
    source._connection = script  # type: ignore[method-assign, assignment]
    return source


def test_clocks_that_jump_or_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([0, 1, 2, 3, 100, 101, 5, 6, *[6] * 10])
    source = scripted(script, segment_s=3, retries=0)
    found = [[frame.time_s for frame in frames] for _, frames in read(source)]
    assert found == [[0, 1, 2], [3], [100, 101], [5, 6, *[6] * 5], [6] * 5]
    ids = [segment.id for segment, _ in read(scripted(Script([0, 9, 18]), retries=0))]
    assert len(ids) == len(set(ids))  # although all arrive at the same time


def test_pauses_double_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Capture, "_wait", lambda _, seconds: pauses.append(seconds))
    script = Script([0], [], [], [0], *[[]] * 9)
    source = scripted(script, retries=4, max_backoff_s=5)
    assert len(read(source)) == 2
    assert pauses == [1, 2, 4, 1, 2, 4, 5]  # a frame ends a row of attempts
    assert source.problem == "gone"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == ("warning: 'rtsp://host/x': gone; connecting again in 1 s (attempt 1 of 4)")
    assert len(said) == len(pauses)


def test_memory_does_not_grow() -> None:
    source = scripted(Script(list(range(3000))), segment_s=1, retries=0)
    used, n = [], 0
    tracemalloc.start()
    try:
        for segment in source:
            n += len(list(segment.frames()))
            if n in (1000, 1800, 2600):
                used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert n == 3000
    # Python's table of interned strings may grow once; of a segment, 25 bytes would be too much
    assert min(used[1] - used[0], used[2] - used[1]) < 20_000


def test_an_unexpected_error_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    source = scripted(Script([0]))
    source._connection = lambda number, after: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="unexpected ZeroDivisionError"):
        read(source)


def test_paths_are_no_files(tmp_path: Path) -> None:
    ((segment, _),) = read(scripted(Script([0]), retries=0))
    assert segment.status() == (None, None)
    assert not segment.path.exists()
