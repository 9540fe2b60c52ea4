"""Videos with predictions: their times, sound and shape, and segments that are used again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import MS, NTSC, number_of, picture, write_video

from pipeline.errors import ConfigError, OutputError, SinkError
from pipeline.failures import sink_failed
from pipeline.protocols import Durable, SelectiveSink, Sink, SuspendableSink
from pipeline.records import Frame, Predictions, Result
from pipeline.sinks.mp4 import recorder
from pipeline.sinks.video import Video
from pipeline.sources.auto import auto
from pipeline.system.children import python_command
from pipeline.testing import make_predictions

NAMES = ("a", "b")
JOIN = "pipeline.sinks.mp4.join"
VFR = [0, 33, 50, 133, 134, 200, 317, 400, 401, 500, 640, 641]
LARGE = (640, 480)  # frames that are not enlarged


def blank(frame: Frame) -> Result:
    return Result(frame, Predictions.empty(frame.size, NAMES))


def frames_of(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Return the seconds and the pixels of each frame."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format="bgr24"))
            for frame in container.decode(video=0)
        ]


def record(sink: Video, path: Path, **options: Any) -> Path:
    """Write the video of a file; return its path."""
    (asset,) = auto(str(path), **options)
    sink.begin(asset)
    for frame in asset.frames():
        sink.write(blank(frame))
    sink.flush(asset)
    sink.sync()
    return sink.directory / f"{path.name}.mp4"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Video]:
    with Video(tmp_path / "run/video", segment_frames=4) as sink:
        yield sink


def test_protocols(sink: Video) -> None:
    for protocol in (Sink, Durable, SelectiveSink, SuspendableSink):
        assert isinstance(sink, protocol)
    assert sink.outputs == ("video/",)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ntsc.mp4", {"audio": True, "rate": NTSC}),
        ("vfr.mkv", {"pts": VFR, "time_base": MS}),
        ("one.mp4", {"n": 1}),
        ("x.avi", {"codec": "mpeg4", "bf": 0}),
    ],
)
def test_the_times_of_the_source(tmp_path: Path, sink: Video, name: str, options: Any) -> None:
    source = write_video(tmp_path / name, **options)
    path = record(sink, source)
    expected = frames_of(source)
    shown = frames_of(path)
    assert [seconds for seconds, _ in shown] == [seconds for seconds, _ in expected]
    numbers = [number_of(image) for _, image in shown]
    assert numbers == list(range(len(expected)))
    with av.open(str(path)) as container:
        video, sound = (container.streams.best(kind) for kind in ("video", "audio"))
        assert (video.codec_context.name, video.codec_context.format.name) == ("h264", "yuv420p")
        assert video.codec_context.colorspace == video.codec_context.color_primaries == 1
        assert (sound is not None) == ("audio" in options)
        assert "creation_time" not in container.metadata
        if name == "ntsc.mp4":
            assert video.duration * video.time_base == 12 / NTSC
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert not (sink.directory / ".segments").exists() or not any(
        (sink.directory / ".segments").iterdir()
    )


def test_a_video_that_starts_after_its_sound(tmp_path: Path, sink: Video) -> None:
    source = write_video(tmp_path / "x.ts", audio=True, pts=range(1, 13), time_base=1 / NTSC)
    with av.open(str(source)) as container:
        late = container.streams.video[0].start_time - container.streams.audio[0].start_time
    shown, expected = frames_of(record(sink, source)), frames_of(source)
    assert shown[0][0] == late * Fraction(1, 90_000) > 0
    assert {b[0] - a[0] for a, b in zip(shown, expected, strict=True)} == {
        expected[0][0] - shown[0][0]
    }


def test_sound_is_copied(tmp_path: Path, sink: Video) -> None:
    def packets(path: Path) -> list[tuple[Any, ...]]:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            return [
                (packet.pts * packet.time_base, bytes(packet))
                for packet in container.demux(stream)
                if packet.size
            ]

    source = write_video(tmp_path / "x.mp4", 40, audio=True)
    assert packets(record(sink, source)) == packets(source)
    part = packets(record(sink, source, start_s=0.5, end_s=0.9))
    whole = packets(source)
    assert {data for _, data in part} < {data for _, data in whole}
    with av.open(str(sink.directory / "x.mp4.mp4")) as container:
        assert float(container.duration / av.time_base) == pytest.approx(0.4, abs=0.15)
    with Video(tmp_path / "run/silent", audio=False) as silent:
        path = record(silent, source)
    with av.open(str(path)) as container:
        assert not container.streams.audio


def test_sound_that_mp4_cannot_hold(
    tmp_path: Path, sink: Video, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream("wavpack", rate=8000, layout="mono")
        frame = av.VideoFrame.from_ndarray(picture(0, (64, 48)), format="bgr24")
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16p", "mono")
        tone.rate, tone.pts = 8000, 0
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    with av.open(str(record(sink, path))) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert "x.mkv: video without its sound: MP4 cannot hold wavpack" in capsys.readouterr().err


@pytest.mark.parametrize("angle", [90, 180])
def test_upright(tmp_path: Path, sink: Video, angle: int) -> None:
    source = write_video(tmp_path / "x.mp4", size=LARGE, n=2, rotation=angle)
    (_, image), *_ = frames_of(record(sink, source))
    assert image.shape == ((640, 480, 3) if angle == 90 else (480, 640, 3))
    assert image[:100].reshape(-1, 3).mean(axis=0) == pytest.approx([0, 0, 255], abs=12)


@pytest.mark.parametrize(("size", "shape"), [((641, 481), (482, 642)), ((63, 47), (376, 504))])
def test_odd_sizes(
    tmp_path: Path, sink: Video, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    source = write_video(tmp_path / "x.mkv", n=2, size=size, codec="ffv1", pix_fmt="bgr0")
    (_, image), _ = frames_of(record(sink, source))
    assert image.shape[:2] == shape


def test_pixels_that_are_not_square(tmp_path: Path, sink: Video) -> None:
    for angle, expected in ((0, Fraction(4, 3)), (90, Fraction(3, 4))):
        path = tmp_path / f"{angle}.mp4"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            if angle:
                stream.set_display_rotation(angle)
            frame = av.VideoFrame.from_ndarray(picture(0, (64, 48)), format="bgr24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with av.open(str(record(sink, path))) as container:
            assert container.streams.video[0].sample_aspect_ratio == expected


def test_predictions_are_drawn_from_a_score(tmp_path: Path) -> None:
    source = write_video(tmp_path / "x.mp4", n=2, size=LARGE)
    (asset,) = auto(str(source))
    drawn = []
    for boxes in (True, False):
        with Video(tmp_path / f"run{boxes}/video", boxes=boxes, masks=False, labels=False) as sink:
            sink.begin(asset)
            for frame in asset.frames():
                sink.write(Result(frame, make_predictions(5, size=frame.size, seed=3)))
            sink.flush(asset)
        drawn.append(frames_of(sink.directory / "x.mp4.mp4")[1][1])
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 60


def test_stills_and_pages_get_none(
    tmp_path: Path, sink: Video, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    pages = [Image.fromarray(picture(i, (64, 48))) for i in (0, 8)]
    pages[0].save(tmp_path / "x.png")
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "x.gif", save_all=True, append_images=pages[1:], duration=40)
    assert not record(sink, tmp_path / "x.png").exists()
    assert not record(sink, tmp_path / "x.tif", pages="all").exists()
    warning = "warning: sink=video writes no video of images; use sink=overlay\n"
    assert capsys.readouterr().err == warning
    shown = frames_of(record(sink, tmp_path / "x.gif", pages="all"))
    assert [seconds for seconds, _ in shown] == [0, Fraction(1, 25)]


def test_times_that_stand_still(tmp_path: Path, sink: Video) -> None:
    (asset,) = auto(str(write_video(tmp_path / "x.mp4", n=1)))
    sink.begin(asset)
    for pts in (0, 5, 5, 3, 9):
        image = picture(pts, LARGE)
        sink.write(blank(Frame(image, "x.mp4", pts=pts, time_base=Fraction(1, 25))))
    sink.flush(asset)
    seconds = [seconds for seconds, _ in frames_of(sink.directory / "x.mp4.mp4")]
    assert seconds == [Fraction(pts, 25) for pts in (0, 5, 6, 7, 9)]


def test_a_stream_that_changes_its_size(tmp_path: Path, sink: Video) -> None:
    (asset,) = auto(str(write_video(tmp_path / "x.mp4", n=1)))
    sink.begin(asset)
    for pts, size in enumerate((LARGE, (800, 600), (500, 500))):
        frame = Frame(picture(8 * pts, size), "x.mp4", pts=pts, time_base=Fraction(1, 25))
        sink.write(blank(frame))
    sink.flush(asset)
    shown = frames_of(sink.directory / "x.mp4.mp4")
    assert [image.shape[:2] for _, image in shown] == [(480, 640)] * 3
    assert [number_of(image) for _, image in shown] == [0, 8, 16]


class Counter:
    """Counts the frames that are encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pts: list[int] = []
        encode = recorder.Encoder.encode

        def counted(encoder: Any, image: Any, pts: int) -> Any:
            self.pts.append(pts)
            return encode(encoder, image, pts)

        monkeypatch.setattr(recorder.Encoder, "encode", counted)


def begun(sink: Video, source: Path, n: int, brighter: Sequence[int] = ()) -> Any:
    """Write the first frames of a video."""
    (asset,) = auto(str(source))
    sink.begin(asset)
    for frame in list(asset.frames())[:n]:
        if frame.index in brighter:
            frame.image[...] = 255 - frame.image
        sink.write(blank(frame))
    return asset


@pytest.mark.parametrize("end", ["kill", "suspend"])
def test_segments_of_a_stopped_run_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    source = write_video(tmp_path / "x.mp4", n=11, audio=True)
    with Video(tmp_path / "whole/video", segment_frames=4) as whole:
        expected = record(whole, source).read_bytes()
    with Video(tmp_path / "run/video", segment_frames=4) as sink:
        asset = begun(sink, source, 9)
        if end == "suspend":
            sink.suspend(asset)
        else:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")
    folder = tmp_path / ("run" if end == "suspend" else "killed")
    counted = Counter(monkeypatch)
    with Video(folder / "video", segment_frames=4) as sink:
        assert record(sink, source).read_bytes() == expected
    assert [pts // 1001 for pts in counted.pts] == [8, 9, 10]
    assert [path.name for path in (folder / "video").iterdir()] == ["x.mp4.mp4"]


@pytest.mark.parametrize(
    ("change", "encoded"),
    [
        ("frame 5", [5, 6, 7, 8, 9, 10]),
        ("frame 4", [4, 5, 6, 7, 8, 9, 10]),
        ("crf", list(range(11))),
        ("damage 1", [4, 5, 6, 7, 8, 9, 10]),
        ("shorter", []),
    ],
)
def test_segments_of_other_frames_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, encoded: list[int]
) -> None:
    source = write_video(tmp_path / "x.mp4", n=11)
    sink = Video(tmp_path / "run/video", segment_frames=4)
    with sink:
        asset = begun(sink, source, 11 if change == "shorter" else 9)
        sink.suspend(asset)
    (segments,) = (tmp_path / "run/video/.segments").iterdir()
    if change == "damage 1":
        path = segments / "000001"
        path.write_bytes(path.read_bytes()[:-3])
    counted = Counter(monkeypatch)
    crf = 30 if change == "crf" else 23
    n = 6 if change == "shorter" else 11
    changed = [int(change[-1])] if change.startswith("frame") else []
    with Video(tmp_path / "run/video", segment_frames=4, crf=crf) as sink:
        asset = begun(sink, source, n, changed)
        sink.flush(asset)
    assert [pts // 1001 for pts in counted.pts] == encoded
    shown = frames_of(tmp_path / "run/video/x.mp4.mp4")
    assert [round(seconds * NTSC) for seconds, _ in shown] == list(range(n))
    for number, (_, image) in enumerate(shown):
        if number not in changed:
            assert number_of(image) == number


def test_discard_removes_everything(tmp_path: Path, sink: Video) -> None:
    source = write_video(tmp_path / "x.mp4", n=5)
    path = record(sink, source)
    asset = begun(sink, source, 5)
    sink.discard(asset)
    assert not path.exists()
    assert list((tmp_path / "run").rglob("*")) == [tmp_path / "run/video"]


def test_a_video_without_frames(tmp_path: Path, sink: Video) -> None:
    source = write_video(tmp_path / "x.mp4", n=2)
    path = record(sink, source)
    asset = begun(sink, source, 0)  # a stage dropped all
    sink.flush(asset)
    assert not path.exists()


def test_a_source_that_is_gone_or_broken_costs_its_sound(tmp_path: Path, sink: Video) -> None:
    source = write_video(tmp_path / "x.mp4", n=2, audio=True)
    for content in (None, b"", b"no video" * 100, source.read_bytes()[:3000]):
        asset = begun(sink, source, 2) if content is None else asset  # noqa: F821
        if content is None:
            recorded = source.read_bytes()
            source.unlink()
        else:
            source.write_bytes(recorded)
            asset = begun(sink, source, 2)
            source.write_bytes(content)
        sink.flush(asset)
        assert len(frames_of(sink.directory / "x.mp4.mp4")) == 2


def test_a_crash_while_joining_fails_the_asset(
    tmp_path: Path, sink: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = begun(sink, write_video(tmp_path / "x.mp4", n=2), 2)
    crash = ["bash", "-c", "kill -SEGV $$"]
    monkeypatch.setattr("pipeline.sinks.video.python_command", lambda _: crash)
    with pytest.raises(SinkError, match=r"cannot be joined .*SIGSEGV.*video.audio=false"):
        sink.flush(asset)
    sink.discard(asset)
    assert list((tmp_path / "run").rglob("*")) == [tmp_path / "run/video"]


def test_a_full_disk_while_joining_ends_the_run(
    tmp_path: Path, sink: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = begun(sink, write_video(tmp_path / "x.mp4", n=12), 12)
    limited = ["bash", "-c", 'ulimit -f 4 && exec "$@"', "bash", *python_command(JOIN)]
    monkeypatch.setattr("pipeline.sinks.video.python_command", lambda _: limited)
    with pytest.raises(OSError, match=r"File too large|No space left") as caught:
        sink.flush(asset)
    assert isinstance(sink_failed(caught.value, asset, "video"), OutputError)
    sink.discard(asset)
    assert list((tmp_path / "run").rglob("*")) == [tmp_path / "run/video"]


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    source = write_video(tmp_path / "x.mp4", n=30, size=LARGE, audio=True)
    digests = set()
    for i in range(2):
        with Video(tmp_path / f"run{i}/video", segment_frames=8) as sink:
            digests.add(sha256(record(sink, source).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 2}, "min_score: expected a number from 0 to 1"),
        ({"crf": 52}, "crf: expected a whole number from 0 to 51"),
        ({"preset": "best"}, "preset: expected ultrafast, .* or slower, got 'best'"),
        ({"segment_frames": 0}, "segment_frames: expected a whole number of at least 1"),
        ({"audio": "yes"}, "audio: expected true or false"),
        ({"masks": 1}, "masks: expected true or false"),
        ({"color": "red"}, "color: expected class, instance or track"),
        ({"opacity": 7}, "opacity: expected a number from 0 to 1"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Video(tmp_path, **options)


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.system.media.has_pyav", lambda: False)
    with pytest.raises(ConfigError, match=r"sink=video needs PyAV.* pip install 'd2run\[video\]'"):
        Video(tmp_path)
