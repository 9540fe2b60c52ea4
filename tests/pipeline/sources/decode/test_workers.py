"""Decoding in worker processes: the same images, and a failing decoder affects only itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from processes import children, state, wait_for

from pipeline.config.schema import DecodeConfig
from pipeline.errors import DecodeError, PipelineError, PoisonError
from pipeline.sources import ImageAsset
from pipeline.sources.decode.image import MAX_PIXELS
from pipeline.sources.decode.reading import Reading, read_image, read_version
from pipeline.sources.decode.workers import DecodeWorkers

ROOT = Path(__file__).resolve().parents[4]
FAILING = [sys.executable, str(ROOT / "tests/support/failing_decoder.py")]
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.fixture(scope="module")
def shared() -> Iterator[DecodeWorkers]:
    with DecodeWorkers(2, memory_mb=512, timeout_s=60) as workers:
        yield workers


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return partial(DecodeWorkers, command=FAILING, memory_mb=64, timeout_s=60)


def written(path: Path, content: str) -> Path:
    path.write_bytes(os.fsencode(content))
    return path


def read(reader: Any, path: Path, *, exif: bool = True, max_pixels: int = 10_000) -> Reading:
    return reader(path, exif=exif, max_pixels=max_pixels)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PICTURE).save(path, exif=exif)


def opencv(values: np.ndarray) -> Callable[[Path], object]:
    return lambda path: cv2.imwrite(str(path), values)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("x.jpg", opencv(PICTURE), id="jpg"),
        pytest.param("x.png", opencv(PICTURE), id="png"),
        pytest.param("x.png", opencv(PICTURE.astype(np.uint16) * 257), id="16-bit"),
        pytest.param("x.tif", opencv(PICTURE[..., 0]), id="grey"),
        pytest.param("x.jpg", turned, id="exif"),
        pytest.param("\udcff\n\x1b[0m\u00e9.jpg", turned, id="name"),
    ],
)
@pytest.mark.parametrize("exif", [True, False])
def test_the_same_as_in_this_process(
    shared: DecodeWorkers, tmp_path: Path, name: str, write: Any, exif: bool
) -> None:
    write(path := tmp_path / f"first{Path(name).suffix}")  # OpenCV takes no names like that
    path = path.rename(tmp_path / name)
    here, there = (read(reader, path, exif=exif) for reader in (read_image, shared))
    np.testing.assert_array_equal(here.image, there.image)
    assert (here.size_bytes, here.mtime_ns, here.sha256) == (
        there.size_bytes,
        there.mtime_ns,
        there.sha256,
    )
    assert there.image.flags.writeable
    assert there.image.flags.c_contiguous


def test_errors_are_the_same_as_in_this_process(shared: DecodeWorkers, tmp_path: Path) -> None:
    half = written(tmp_path / "half.png", "")
    half.write_bytes(cv2.imencode(".png", PICTURE)[1].tobytes()[:900])
    names = ("gone", "a\0b", "\ud800", "a" * 300, "a/" * 100_000)
    for path in (half, tmp_path, Path("/dev/null"), *(tmp_path / name for name in names)):
        errors = []
        for reader in (read_image, shared):
            with pytest.raises(DecodeError) as caught:
                read(reader, path)
            errors.append((type(caught.value), str(caught.value), caught.value.version))
        assert errors[0] == errors[1]
        assert caught.value.attempts == 1


def test_options_reach_the_worker(shared: DecodeWorkers, tmp_path: Path) -> None:
    opencv(PICTURE)(path := tmp_path / "x.png")
    assert read(shared, path, max_pixels=48 * 64).image.shape == PICTURE.shape
    with pytest.raises(DecodeError, match="over the limit"):
        read(shared, path, max_pixels=48 * 64 - 1)


def test_a_path_relative_to_where_this_process_is_now(
    shared: DecodeWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opencv(PICTURE)(tmp_path / "only-here.png")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read(shared, Path("only-here.png")).image, PICTURE)


def test_a_workers_limits_and_what_it_has_loaded() -> None:
    before = children()
    with DecodeWorkers(1, memory_mb=512, timeout_s=60):
        (pid,) = children() - before
        maps = Path(f"/proc/{pid}/maps").read_text()
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        session = os.getsid(pid)
    assert "PIL" in maps
    assert "torch" not in maps
    values = {line[:26].strip(): line[26:].split()[:2] for line in limits}  # soft and hard
    assert values["Max core file size"] == ["0", "0"]
    assert values["Max open files"] == ["64", "64"]
    soft, hard = map(int, values["Max address space"])
    assert soft == hard
    assert 0 <= soft - size < 520 << 20
    assert session == pid  # a terminal's Ctrl-C does not reach it


def test_threads_share_the_workers(failing: Any, tmp_path: Path) -> None:
    pictures = {}
    for i in range(40):
        path = tmp_path / f"{i}.png"
        opencv(np.full((30 + i, 40, 3), i, np.uint8))(path)
        pictures[path] = i
    bad = [written(tmp_path / f"bad{i}", f"fault:{fault}") for i, fault in
           enumerate(["segfault", "exit", "hog"])]  # fmt: skip
    before = children()
    most = 0

    def one(path: Path) -> int:
        nonlocal most
        try:
            image = read(workers, path).image
        except PoisonError:
            return -1
        most = max(most, len(children() - before))
        assert image.shape == (30 + pictures[path], 40, 3)
        return int(image.min())

    paths = list(pictures)
    with failing(2, tries=1) as workers, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, [*paths[:20], *bad, *paths[20:]]))
    assert found == [*range(20), -1, -1, -1, *range(20, 40)]
    assert most <= 3  # two, and one that another thread is just replacing


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("segfault", "its decoder was killed by signal 11"),
        ("exit", "its decoder ended with status 3"),
        ("hog", "needed more than 64 MB (raise decode.memory_mb)"),
    ],
)
def test_a_file_that_its_worker_does_not_survive(
    failing: Any, tmp_path: Path, fault: str, reason: str
) -> None:
    poison = ImageAsset("a/poison", written(tmp_path / "poison", f"fault:{fault}"))
    opencv(PICTURE)(sound := tmp_path / "x.png")
    with failing(1, tries=2) as workers:
        poison.reader = workers
        with pytest.raises(PoisonError) as caught:
            list(poison.frames())
        np.testing.assert_array_equal(read(workers, sound).image, PICTURE)
    error = caught.value
    assert (str(error), error.attempts, error.asset_id) == (reason, 2, "a/poison")
    assert error.step == "decode"
    # read before it was decoded, so that it is known which file is poison
    version = (poison.size_bytes, poison.mtime_ns, poison.fingerprint())
    assert version == error.version == read_version(poison.path)


@pytest.mark.parametrize("fault", ["hang", "wait"])
def test_a_file_that_hangs(failing: Any, tmp_path: Path, fault: str) -> None:
    path = written(tmp_path / "x", f"fault:{fault}")
    reason = r"^took longer than 0\.2 s \(raise decode.timeout_s\)$"
    with (
        failing(1, tries=2, timeout_s=0.2) as workers,
        pytest.raises(PoisonError, match=reason) as caught,
    ):
        read(workers, path)
    assert caught.value.attempts == 2


def test_a_picture_that_needs_more_memory(tmp_path: Path) -> None:
    cv2.imwrite(str(path := tmp_path / "x.png"), np.zeros((5000, 5000), np.uint8))
    with (
        DecodeWorkers(1, memory_mb=64, timeout_s=60, tries=1) as workers,
        pytest.raises(PoisonError, match=r"^needed more than 64 MB"),
    ):
        read(workers, path, max_pixels=25_000_000)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("x.webp", partial(Image.Image.save, lossless=True, method=0), id="webp"),
        pytest.param("x.jp2", Image.Image.save, id="jpeg2000"),
        pytest.param("x.jpg", partial(Image.Image.save, progressive=True), id="progressive"),
        pytest.param("x.tif", Image.Image.save, id="tiff"),
    ],
)
def test_the_largest_pictures_that_are_read_fit_the_memory_that_there_is_by_default(
    tmp_path: Path, name: str, write: Any
) -> None:
    decode = DecodeConfig()
    write(Image.new("RGB", (8000, 8000)), path := tmp_path / name)
    with DecodeWorkers(1, memory_mb=decode.memory_mb, timeout_s=decode.timeout_s) as workers:
        assert read(workers, path, max_pixels=MAX_PIXELS).image.nbytes == 3 * MAX_PIXELS


@pytest.mark.parametrize("fault", ["segfault", "hog"])
def test_a_fault_that_does_not_come_again(failing: Any, tmp_path: Path, fault: str) -> None:
    opencv(PICTURE)(later := tmp_path / "later.png")
    path = written(tmp_path / "x", f"fault:{fault} {tmp_path}/later.png")
    hidden = later.rename(tmp_path / "hidden")
    with failing(1, tries=10) as workers, ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read, workers, path)
        wait_for((tmp_path / "later.png.tried").exists)
        hidden.rename(later)
        np.testing.assert_array_equal(reading.result().image, PICTURE)


def test_a_worker_is_kept_after_an_error_and_beyond_the_thread_that_started_it(
    failing: Any, tmp_path: Path
) -> None:
    before = children()
    written(path := tmp_path / "x", "no image")
    with failing(1) as workers:
        (first,) = children() - before
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: state(first)[0] == "Z")
        later = set()
        for _ in range(3):
            with ThreadPoolExecutor(1) as thread, pytest.raises(DecodeError, match="not an image"):
                thread.submit(read, workers, path).result()
            later |= children() - before
    assert len(later - {first}) == 1


def test_a_worker_that_was_ended_by_somebody_else_costs_no_try(
    failing: Any, tmp_path: Path
) -> None:
    opencv(PICTURE)(path := tmp_path / "x.png")
    before = children()
    with failing(1, tries=1) as workers:
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: state(pid)[0] == "Z")
        np.testing.assert_array_equal(read(workers, path).image, PICTURE)


def test_signals_that_are_meant_for_this_process(failing: Any, tmp_path: Path) -> None:
    opencv(PICTURE)(path := tmp_path / "x.png")
    before = children()
    with failing(1) as workers:
        (pid,) = children() - before
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        read(workers, path)
        assert children() - before == {pid}


def test_a_worker_that_closes_its_end_and_lives_on(failing: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "x", "fault:close")
    with (
        failing(1, tries=1) as workers,
        pytest.raises(PoisonError, match=r"^its decoder closed its connection$"),
    ):
        read(workers, path)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([sys.executable, "-c", "raise SystemExit(7)"], "it ended with status 7"),
        (["no-such-interpreter"], "no such file"),
    ],
)
def test_workers_that_do_not_start(command: list[str], says: str) -> None:
    workers = DecodeWorkers(1, memory_mb=64, timeout_s=60, command=command)
    with pytest.raises(PipelineError, match=rf"^cannot start a process to decode in: {says} \("):
        workers.__enter__()


def test_a_worker_that_cannot_be_replaced_is_not_the_files_fault(
    failing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with failing(1, tries=2) as workers:
        monkeypatch.setattr(subprocess, "Popen", fails)
        with pytest.raises(DecodeError, match=r"^no process to decode it in: resource t") as e:
            read(workers, written(tmp_path / "x", "fault:segfault"))
    assert (type(e.value), e.value.attempts) == (DecodeError, 2)
