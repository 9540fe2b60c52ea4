"""Frames of videos: which ones, at what time, the right way up, and what damage costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from videos import MS, NTSC, cut, number_of, packets, write_video

from pipeline.errors import ConfigError, DecodeError, PartialError, PoisonError
from pipeline.sources.decode import video
from pipeline.sources.decode.frames import read_frames
from pipeline.sources.decode.options import Decoded, FrameOptions
from pipeline.sources.decode.timestamps import Timestamps
from pipeline.sources.decode.workers import DecodeWorkers

VFR = [0, 33, 50, 133, 134, 200, 317, 400, 401, 500, 640, 641]
N = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "ntsc.mp4", audio=True)
    write_video(folder / "vfr.mkv", pts=VFR, time_base=MS)
    write_video(folder / "late.mp4", index_first=False)
    for angle in (90, 180, -90):
        write_video(folder / f"turned{angle}.mp4", n=2, rotation=angle)
    write_video(folder / "odd.mkv", n=2, size=(63, 47), codec="ffv1", pix_fmt="bgr0")
    write_video(folder / "one.mp4", n=1)
    write_video(folder / "deep.mkv", n=3, pix_fmt="yuv420p10le")
    write_video(folder / "x.ts", 30)
    write_video(folder / "x.mpg", rate=Fraction(25), codec="mpeg2video", bf=0)
    write_video(folder / "x.avi", codec="mpeg4", bf=0)
    return folder


def decoded(path: Path, **options: Any) -> list[Decoded]:
    return list(read_frames(path, FrameOptions(**options), lambda _: None))


def numbers(path: Path, **options: Any) -> list[int]:
    return [number_of(each.image) for each in decoded(path, **options)]


def kept(frames: Iterator[Decoded]) -> tuple[list[int], DecodeError]:
    """Return the numbers of the frames before an error, and the error."""
    found = []
    with pytest.raises(DecodeError) as caught:  # noqa: PT012
        for each in frames:
            found.append(number_of(each.image))
    return found, caught.value


@pytest.mark.parametrize("name", ["ntsc.mp4", "vfr.mkv", "late.mp4", "x.ts", "x.mpg", "x.avi"])
def test_every_frame_in_order(files: Path, name: str) -> None:
    shown = numbers(files / name)
    assert shown == list(range(30 if name == "x.ts" else N))


def test_timestamps_are_exact(files: Path) -> None:
    ntsc, vfr = decoded(files / "ntsc.mp4"), decoded(files / "vfr.mkv")
    assert [each.pts * each.time_base for each in ntsc] == [i / NTSC for i in range(N)]
    assert [(each.pts, each.time_base) for each in vfr] == [(pts, MS) for pts in VFR]


def test_timestamps_in_the_order_of_decoding(files: Path, tmp_path: Path) -> None:
    """Programs that copy an AVI to another container write both times alike."""
    path = tmp_path / "copied.mkv"
    with av.open(str(files / "ntsc.mp4")) as source, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream, packet.time_base, packet.duration = stream, MS, 40
                packet.pts = packet.dts = 40 * i
                copy.mux(packet)
    shown = decoded(path)
    assert [number_of(each.image) for each in shown] == list(range(N))
    times = [each.pts for each in shown]
    assert times == [0, 80, 120, *range(120, 480, 40)]  # those of ffprobe
    with av.open(str(path)) as container:
        assert [frame.pts for frame in container.decode(video=0)] != times  # it has B frames


def test_a_time_that_jumps_back() -> None:
    """Then a new recording begins; the decoding time jumps too, so both are right."""
    timestamps = Timestamps()
    assert [timestamps.of(pts, pts) for pts in (None, 7, 8, 0, 1)] == [None, 7, 8, 0, 1]
    assert [timestamps.of(*each) for each in ((None, 2), (9, None))] == [2, 9]


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_frames_are_upright(files: Path, angle: int) -> None:
    path = files / f"turned{angle}.mp4"
    for number, each in enumerate(decoded(path)):
        assert each.image.shape == ((64, 48, 3) if angle % 180 else (48, 64, 3))
        top = each.image[: each.image.shape[0] // 4 - 2].reshape(-1, 3).mean(axis=0)
        assert top == pytest.approx([0, 0, 255], abs=12)
        assert number_of(each.image) == number
        assert each.image.flags.c_contiguous
        assert each.image.flags.writeable
    (stored, _) = decoded(path, exif=False)
    assert stored.image.shape == (48, 64, 3)
    np.testing.assert_array_equal(np.rot90(stored.image, angle // 90), decoded(path)[0].image)


@pytest.mark.parametrize(("name", "shape"), [("odd.mkv", (47, 63, 3)), ("one.mp4", (48, 64, 3))])
def test_odd_ones(files: Path, name: str, shape: tuple[int, ...]) -> None:
    frames = decoded(files / name)
    assert {each.image.shape for each in frames} == {shape}
    assert len(frames) == (1 if name == "one.mp4" else 2)


def test_10_bits_become_8(files: Path) -> None:
    assert numbers(files / "deep.mkv") == [0, 1, 2]


@pytest.mark.parametrize("matrix", [1, 6], ids=["bt709", "bt601"])
def test_pixels_are_those_of_opencv(tmp_path: Path, matrix: int) -> None:
    image = np.full((48, 64, 3), (40, 200, 80), np.uint8)
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = matrix
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        name = "ITU709" if matrix == 1 else "ITU601"
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=name)))
        container.mux(stream.encode(None))
    (only,) = decoded(path)
    np.testing.assert_array_equal(only.image, cv2.VideoCapture(str(path)).read()[1])
    np.testing.assert_allclose(only.image.astype(int), image, atol=5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stride": 5}, [0, 5, 10]),
        ({"fps": 10}, [0, 3, 6, 9]),
        ({"fps": 1000}, list(range(N))),
        ({"fps": 15, "stride": 2}, [0, 4, 8]),
        ({"start_s": 0.2}, [6, 7, 8, 9, 10, 11]),
        ({"end_s": 0.2}, [0, 1, 2, 3, 4, 5]),
        ({"start_s": 0.1, "end_s": 0.3, "stride": 2}, [3, 5, 7]),
        ({"start_s": 9}, []),
        ({"keyframes": True}, [0, 5, 10]),
        ({"keyframes": True, "stride": 2}, [0, 10]),
    ],
)
def test_selection(files: Path, options: dict[str, Any], expected: list[int]) -> None:
    assert numbers(files / "ntsc.mp4", **options) == expected


@pytest.mark.parametrize("name", ["x.ts", "x.mpg", "x.avi", "late.mp4"])
def test_the_start_is_exact_in_every_container(files: Path, name: str) -> None:
    """FFmpeg's search in a transport stream misses the frames up to the next keyframe."""
    rate = 25 if name == "x.mpg" else NTSC
    shown = numbers(files / name, start_s=0.25)
    assert shown[0] == -(-rate // 4)
    assert shown == list(range(shown[0], 30 if name == "x.ts" else N))


def test_selection_by_time_in_a_variable_rate(files: Path) -> None:
    seconds = [float(each.pts * each.time_base) for each in decoded(files / "vfr.mkv", fps=10)]
    assert seconds == [0, 0.133, 0.2, 0.317, 0.4, 0.5, 0.64]


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6])
def test_a_missing_end_keeps_the_rest(files: Path, tmp_path: Path, share: float) -> None:
    path = cut(files / "ntsc.mp4", share, tmp_path / "cut.mp4")
    shown, error = kept(read_frames(path, FrameOptions(), lambda _: None))
    assert isinstance(error, PartialError)
    assert shown == sorted(set(shown))  # a B frame before the damage may be missing
    assert 0 < len(shown) < N
    assert f"decoded frames: {len(shown)}" in str(error)


def test_a_file_cut_between_two_frames(files: Path, tmp_path: Path) -> None:
    """FFmpeg reports no error; the index says that there should be more."""
    path = tmp_path / "cut.mp4"
    write_video(path, bf=0)
    position, size = max(packets(path)[:-3])
    path.write_bytes(path.read_bytes()[: position + size])
    shown, error = kept(read_frames(path, FrameOptions(), lambda _: None))
    assert shown == list(range(N - 3))
    assert "the end of the file is missing after 0.3" in str(error)


def test_a_matroska_file_that_is_cut(files: Path, tmp_path: Path) -> None:
    path = cut(files / "vfr.mkv", 0.5, tmp_path / "cut.mkv")
    _, error = kept(read_frames(path, FrameOptions(), lambda _: None))
    assert "it should last 0.6" in str(error)


def test_damage_in_the_middle_costs_frames_up_to_the_next_keyframe(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", bf=0)
    data, (position, size) = bytearray(path.read_bytes()), packets(path)[7]
    data[position : position + size] = bytes(size)
    path.write_bytes(data)
    shown, error = kept(read_frames(path, FrameOptions(), lambda _: None))
    assert shown == [0, 1, 2, 3, 4, 5, 6, 10, 11]
    assert isinstance(error, PartialError)
    assert "after 0.233567 s" in str(error)
    assert numbers(path, start_s=0.33) == [10, 11]  # what is not selected is not missed
    assert numbers(path, end_s=0.2) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\0" * 5000, "not a video"),
        (b"\xff\xd8\xff\xe0 no video" * 100, "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n", "not a"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "not a video"),
    ],
)
def test_what_is_not_a_video(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    write_video(tmp_path / "other.mp4", n=1)
    with pytest.raises(DecodeError, match=message) as caught:
        decoded(path)
    assert type(caught.value) is DecodeError


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("aac", rate=8000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        tone.rate, tone.pts = 8000, 0
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    with pytest.raises(DecodeError, match="no video stream in it"):
        decoded(path)


def test_large_frames_are_refused(files: Path) -> None:
    with pytest.raises(DecodeError, match=r"64x48 .* over the limit of 0.001 \(raise source"):
        decoded(files / "ntsc.mp4", max_pixels=1000)


def test_a_file_that_changes_is_not_partly_done(files: Path, tmp_path: Path) -> None:
    path = cut(files / "ntsc.mp4", 0.8, tmp_path / "x.mp4")  # as if still being copied
    frames = read_frames(path, FrameOptions(), lambda _: None)
    next(frames)
    path.write_bytes((files / "ntsc.mp4").read_bytes())
    with pytest.raises(DecodeError, match="changed while it was read") as caught:
        list(frames)
    assert type(caught.value) is DecodeError


def test_odd_names(files: Path, tmp_path: Path) -> None:
    for name in (b"-x\xff.mp4", b"http:__x.mp4", b"a%03d'.mp4"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes((files / "one.mp4").read_bytes())
        assert numbers(path) == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride: expected a whole number of at least 1, got 0"),
        ({"fps": 0}, "fps: expected null or a number above 0, got 0"),
        ({"fps": float("inf")}, "fps: expected null"),
        ({"start_s": -1}, "start_s: expected a number of at least 0, got -1"),
        ({"start_s": 2, "end_s": 2}, "end_s: expected more than start_s, got 2"),
        ({"keyframes": 1}, "keyframes: expected true or false"),
        ({"hardware": "gpu"}, "hardware: expected auto or none, got 'gpu'"),
        ({"exif": None}, "exif: expected true or false"),
        ({"max_pixels": 0}, "max_pixels: expected a whole number"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrameOptions(**options)


def test_without_pyav(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "has_pyav", lambda: False)
    with pytest.raises(DecodeError, match=r"need PyAV.* pip install 'd2run\[video\]'"):
        decoded(files / "one.mp4")


def test_without_a_gpu_the_cpu_decodes(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg raises instead of falling back."""
    opened, tried = av.open, []

    def refusing(*args: Any, **options: Any) -> Any:
        tried.append("hwaccel" in options)
        return opened(*args, **options)

    monkeypatch.setattr(video, "_has_gpu", lambda: True)
    monkeypatch.setattr(av, "open", refusing)
    assert numbers(files / "ntsc.mp4") == list(range(N))
    assert tried == [True, False]


@pytest.fixture(scope="module")
def workers() -> Iterator[DecodeWorkers]:
    with DecodeWorkers(1, memory_mb=1024, timeout_s=60) as workers:
        yield workers


@pytest.mark.parametrize("name", ["vfr.mkv", "turned90.mp4"])
def test_a_worker_sends_the_same_frames(files: Path, name: str, workers: DecodeWorkers) -> None:
    versions: list[Any] = []
    here = list(read_frames(files / name, FrameOptions(stride=2), versions.append))
    there = list(workers.frames(files / name, FrameOptions(stride=2), versions.append))
    assert [each[1:] for each in there] == [each[1:] for each in here]
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert versions[0] == versions[1]


def test_a_worker_sends_what_can_be_decoded(
    files: Path, tmp_path: Path, workers: DecodeWorkers
) -> None:
    path = cut(files / "ntsc.mp4", 0.8, tmp_path / "cut.mp4")
    here = kept(read_frames(path, FrameOptions(), lambda _: None))
    there = kept(workers.frames(path, FrameOptions(), lambda _: None))
    assert (here[0], type(here[1]), str(here[1])) == (there[0], type(there[1]), str(there[1]))
    assert len(list(workers.frames(files / "one.mp4", FrameOptions(), lambda _: None))) == 1


def kill_worker(workers: DecodeWorkers) -> None:
    (worker,) = [one for one in workers._workers if one.is_alive()]
    worker.kill()
    worker.connection.settimeout(None)
    while worker.connection.recv(1 << 20):  # what it had sent
        pass


def test_a_worker_that_is_killed_is_replaced_where_it_was(
    files: Path, workers: DecodeWorkers
) -> None:
    shown = []
    for each in workers.frames(files / "ntsc.mp4", FrameOptions(), lambda _: None):
        shown.append(number_of(each.image))
        if len(shown) == 5:
            kill_worker(workers)
    assert shown == list(range(N))


def test_a_video_that_kills_every_worker(files: Path, workers: DecodeWorkers) -> None:
    frames = workers.frames(files / "ntsc.mp4", FrameOptions(), lambda _: None)
    with pytest.raises(PoisonError, match="signal 9") as caught:  # noqa: PT012
        for _ in frames:
            kill_worker(workers)
    assert caught.value.version is not None
    assert caught.value.attempts == 3


def test_a_worker_whose_frames_are_not_wanted_is_replaced(
    files: Path, workers: DecodeWorkers
) -> None:
    frames = workers.frames(files / "ntsc.mp4", FrameOptions(), lambda _: None)
    next(frames)
    frames.close()
    assert len(list(workers.frames(files / "one.mp4", FrameOptions(), lambda _: None))) == 1
