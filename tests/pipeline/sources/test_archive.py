"""Images in archives: names, order, what is skipped, damage, and hostile archives."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from packing import pack

from pipeline.errors import ConfigError, DecodeError
from pipeline.protocols import ContainedAsset, ReadableAsset, VersionedAsset
from pipeline.sources import Several
from pipeline.sources.archive import Archive
from pipeline.sources.archives import gzip_blocks
from pipeline.sources.auto import auto
from pipeline.sources.decode.workers import DecodeWorkers

KINDS = ("zip", "tar", "tar.gz", "tgz")


def png(value: int = 0, size: tuple[int, int] = (2, 3)) -> bytes:
    return bytes(cv2.imencode(".png", np.full((*size, 3), value, np.uint8))[1])


def make(path: Path, *names: str) -> Path:
    return pack(path, [(name, png(i)) for i, name in enumerate(names)])


def ids(source: Any) -> list[str]:
    return [asset.id for asset in source]


def skipped(source: Any) -> dict[str, str]:
    return {entry.path: entry.reason for entry in source.skipped()}


def shade(asset: Any) -> int:
    (frame,) = asset.frames()
    return int(frame.image[0, 0, 0])


def error(asset: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        list(asset.frames())
    assert caught.value.asset_id == asset.id
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_in_place(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / f"x.{kind}", "a/10.png", "a/9.png", "b.PNG")
    source = auto(str(path))
    assert type(source) is Archive
    source.check()
    assets = {asset.id: asset for asset in source}
    natural = ["a/9.png", "a/10.png", "b.PNG"]
    assert list(assets) == (natural if kind == "zip" else ["a/10.png", "a/9.png", "b.PNG"])
    assert len(source) == 3
    asset = assets["a/9.png"]
    assert all(isinstance(asset, p) for p in (ContainedAsset, ReadableAsset, VersionedAsset))
    assert asset.path == path / "a/9.png"
    assert shade(asset) == 1
    mtime_ns = path.stat().st_mtime_ns
    assert (asset.size_bytes, asset.mtime_ns) == asset.status() == (len(png(1)), mtime_ns)
    assert asset.fingerprint() == sha256(png(1)).hexdigest()
    unread = next(iter(source))
    assert unread.fingerprint() == sha256(png(1 if kind == "zip" else 0)).hexdigest()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_workers_read_members_too(tmp_path: Path, kind: str) -> None:
    members = [("a.png", png(7)), ("b.png", png(8)[:50]), ("c.png", b"")]
    source = Archive(str(pack(tmp_path / f"x.{kind}", members)))
    here = {asset.id: asset for asset in source}
    with DecodeWorkers(1, memory_mb=512, timeout_s=30) as reader:
        for asset in source:
            asset.reader = reader
            if asset.id == "a.png":
                assert shade(asset) == 7
            else:
                assert error(asset) == error(here[asset.id])
            assert asset.fingerprint() == here[asset.id].fingerprint()
            assert asset.mtime_ns == asset.place.mtime_ns


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_are_made_safe(tmp_path: Path, kind: str) -> None:
    names = ["../../up.png", "/etc/root.png", "./a//./b.png", "ü.png", "n\nl.png"]
    source = Archive(str(make(tmp_path / f"x.{kind}", *names)))
    assert set(ids(source)) == {"__/__/up.png", "etc/root.png", "a/b.png", "ü.png", "n\nl.png"}
    assert not source.skipped()


def test_names_of_other_systems(tmp_path: Path) -> None:
    source = Archive(str(make(tmp_path / "x.zip", "photos\\a.png")))
    assert ids(source) == ["photos/a.png"]
    odd = os.fsdecode(b"caf\xe9.png")
    source = Archive(str(make(tmp_path / "x.tar", odd)))
    assert ids(source) == [odd]


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_member_of_a_name_counts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with pytest.warns(UserWarning, match="Duplicate name"):
            make(path, "a.png", "b.png", "a.png", "./b.png")
    else:
        make(path, "a.png", "b.png", "a.png", "./b.png")
    source = Archive(str(path))
    assert {asset.id: shade(asset) for asset in source} == {"a.png": 2, "b.png": 3}
    reason = "replaced by a later member of the same name"
    assert skipped(source) == {"a.png": reason, "b.png": reason}


@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_for_directories_apply(tmp_path: Path, kind: str) -> None:
    names = [
        *("a.png", ".b.png", "__MACOSX/._a.png", "__MACOSX/x/._b.png", "Thumbs.db", "c.png~"),
        *("d.mp4", "e.txt", "f", "g.psd", ".git/h.png"),
        *("out/.lock", "out/run.json", "out/overlay/a.png", "out/b.txt"),
    ]
    source = Archive(str(make(tmp_path / f"x.{kind}", *names)))
    assert ids(source) == ["a.png"]
    assert skipped(source) == {
        ".b.png": "hidden",
        "__MACOSX": "system file",
        "Thumbs.db": "system file",
        "c.png~": "temporary file",
        "d.mp4": "video in an archive, which is not read: unpack it",
        "e.txt": "not an image (.txt)",
        "f": "not an image (no extension)",
        "g.psd": "unsupported image format (.psd)",
        ".git": "hidden",
        "out": "results of a run",
    }


def test_links_and_devices_in_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("null.png", tarfile.CHRTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
            ("dir.png", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    source = Archive(str(tmp_path / "x.tar"))
    assert ids(source) == []
    assert skipped(source) == {
        "link.png": "link",
        "hard.png": "link",
        "null.png": "not a regular file",
        "pipe.png": "not a regular file",
    }


def test_links_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, mode in (("a.png", stat.S_IFLNK), ("b.png", stat.S_IFIFO), ("d/", 0)):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (mode | 0o644) << 16
            archive.writestr(info, b"/etc/passwd" if mode else b"")
    source = Archive(str(tmp_path / "x.zip"))
    assert ids(source) == []
    assert skipped(source) == {"a.png": "link", "b.png": "not a regular file"}


def test_long_names_in_a_tar(tmp_path: Path) -> None:
    name = "/".join(["directory" * 5] * 5) + "/ü.png"
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=form) as archive:
            info = tarfile.TarInfo(name)
            info.size = len(png(5))
            archive.addfile(info, io.BytesIO(png(5)))
        (asset,) = Archive(str(path))
        assert asset.id == name
        assert shade(asset) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_anywhere(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(1)
    members = [
        (f"{i}.png", cv2.imencode(".png", noise.integers(0, 255, (40, 40, 3)))[1].tobytes())
        for i in range(8)
    ]
    whole = pack(tmp_path / f"whole.{kind}", members).read_bytes()
    path = tmp_path / f"x.{kind}"
    for size in range(600, len(whole), len(whole) // 23):
        path.write_bytes(whole[:size])
        source = Archive(str(path))
        assets = list(source)
        is_intact = [not failed(asset) for asset in assets]
        assert is_intact[:-1] == [True] * len(is_intact[:-1])  # only the last one is cut
        if kind != "tar" or size < len(whole.rstrip(b"\0")):  # cut in the padding: nothing is lost
            assert [entry.lost for entry in source.skipped()] == [True]
        expected = size * len(members) // len(whole)
        assert sum(is_intact) >= expected - (8 if "gz" in kind else 2)


def failed(asset: Any) -> bool:
    try:
        list(asset.frames())
        return False
    except DecodeError as exc:
        if "truncated" not in str(exc):
            raise
        return True


@pytest.mark.parametrize("kind", KINDS)
def test_any_changed_byte_is_an_error_at_most(tmp_path: Path, kind: str) -> None:
    whole = make(tmp_path / f"whole.{kind}", "a.png", "b.png", "c/d.png").read_bytes()
    rng, path = random.Random(3), tmp_path / f"x.{kind}"
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        source = Archive(str(path))
        try:
            assets = list(source)
        except ConfigError:
            continue
        for asset in assets:
            assert not asset.id.startswith("/")
            with suppress(DecodeError):
                list(asset.frames())


def test_encrypted_and_exotic_members_fail(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("b.png", png(2), zipfile.ZIP_LZMA)
        archive.writestr("c.png", png(3), zipfile.ZIP_BZIP2)
        archive.writestr("d.png", png(4))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the first member is encrypted, it says
    path.write_bytes(data)
    a, b, c, d = Archive(str(path))
    assert "encrypted in the archive" in error(a)
    assert "compression method 14 of" in error(b).replace("is not", "of the zip is not")
    assert "compression method 12" in error(c)
    assert shade(d) == 4


def test_bombs_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("declared.png", bytes(66 << 20))
        archive.writestr("lying.png", bytes(66 << 20))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(data)
    declared, lying = Archive(str(tmp_path / "x.zip"), max_pixels=1000)
    assert "too large for an image of at most 0.001 megapixels" in error(declared)
    assert "its checksum differs" in error(lying)
    pack(tmp_path / "x.tar.gz", [("big.png", bytes(66 << 20)), ("a.png", png(3))])
    big, small = Archive(str(tmp_path / "x.tar.gz"), max_pixels=1000)
    assert "too large" in error(big)
    assert shade(small) == 3


def test_members_that_share_data(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", "a.png", "b.png")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 42 : at + 46] = bytes(4)  # the second member is where the first one is
    path.write_bytes(data)
    source = Archive(str(path))
    assert ids(source) == ["a.png"]
    assert skipped(source) == {"b.png": "overlaps another member"}


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(png(1))
        archive.addfile(info, io.BytesIO(png(1)))
        info = tarfile.TarInfo("long")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
    source = Archive(str(tmp_path / "x.tar"))
    assert ids(source) == ["a.png"]
    (entry,) = source.skipped()
    assert entry.lost
    assert "a header of 1099511627776 bytes" in entry.reason


def test_a_tar_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.archives.tars._FREE_BYTES", 1 << 20)
    members = [("a.png", png(1)), ("zeros.bin", bytes(8 << 20)), ("b.png", png(2))]
    source = Archive(str(pack(tmp_path / "x.tar.gz", members)))
    assert ids(source) == ["a.png"]
    assert "unpacks to far more than its size" in source.skipped()[-1].reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_archive_is_noticed(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / f"x.{kind}", "a.png", "b.png")
    source = Archive(str(path))
    first = next(iter(source))
    make(path, "b.png")
    os.utime(path, ns=(1, 1))
    if "gz" in kind:  # from the cache: what was listed
        assert shade(first) == 0
        first.blocks._cached.clear()
    assert error(first) == "the archive changed after it was listed; run again"
    (again,) = source
    assert again.id == "b.png"
    assert shade(again) == 0


def test_random_access_to_a_compressed_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_blocks, "_MIN_BLOCK", 1 << 14)
    noise = np.random.default_rng(0)
    members = [(f"{i}.png", noise.bytes(int(noise.integers(1, 30_000)))) for i in range(100)]
    path = pack(tmp_path / "x.tar.gz", members)
    data = path.read_bytes()
    # two streams and zeros, as gzip allows
    middle = len(gzip.decompress(data)) // 2
    plain = gzip.decompress(data)
    path.write_bytes(gzip.compress(plain[:middle]) + gzip.compress(plain[middle:]) + bytes(100))
    assets = list(Archive(str(path)))
    random.Random(0).shuffle(assets)
    with ThreadPoolExecutor(4) as pool:
        digests = dict(pool.map(lambda asset: (asset.id, asset.fingerprint()), assets))
    assert digests == {name: sha256(content).hexdigest() for name, content in members}


@pytest.mark.parametrize("kind", KINDS)
def test_not_an_archive(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    for data in (b"", b"\xff\xd8 a photo", b"\x1f\x8bnot gzip" if "gz" in kind else b"PK??"):
        path.write_bytes(data)
        source = Archive(str(path))
        if data.startswith(b"\x1f\x8b"):
            assert ids(source) == []
            assert [entry.lost for entry in source.skipped()] == [True]
            continue
        with pytest.raises(ConfigError, match="is not a zip, tar or"):
            source.check()
    path.unlink()
    with pytest.raises(ConfigError, match=r"x.*: no such file"):
        Archive(str(path)).check()
    path.mkdir()
    with pytest.raises(ConfigError, match="it is a folder"):
        Archive(str(path)).check()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_archive(tmp_path: Path, kind: str) -> None:
    source = Archive(str(make(tmp_path / f"x.{kind}")))
    source.check()
    assert (ids(source), len(source), source.skipped()) == ([], 0, [])


def test_several_archives(tmp_path: Path) -> None:
    sources = [
        Archive(str(make(tmp_path / "x.zip", "a.png", "b.png"))),
        Archive(str(make(tmp_path / "y.tar", "a.png"))),
        Archive(str(tmp_path / "x.zip")),
    ]
    assert ids(Several(sources[:2])) == ["x.zip/a.png", "x.zip/b.png", "y.tar/a.png"]


def test_killed_processes_leave_no_files(tmp_path: Path) -> None:
    script = (
        "import os, signal; from pipeline.sources.scratch import Scratch; s = Scratch();"
        "s.write(s.new(), b'x'); {}"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for end, left in (("os.kill(os.getpid(), signal.SIGKILL)", 1), ("pass", 0)):
        command = [sys.executable, "-c", script.format(end)]
        subprocess.run(command, env=environment, cwd=Path(__file__).parents[3])
        assert len(list(tmp_path.iterdir())) == left
