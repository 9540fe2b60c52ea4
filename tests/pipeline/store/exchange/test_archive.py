import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import tarfile
import zipfile

import pytest

from pipeline.errors import ModelCorruptError, StoreError
from pipeline.store.exchange import archive as module
from pipeline.store.exchange import members
from pipeline.store.exchange.archive import FORMATS, format_of, pack, unpack

FILES = {
    "config.yaml": b"VERSION: 2\n",
    "model.yaml": b"name: a\n" * 200,
    "sub/deep/custom_objects.pkl": b"",
    "weights.safetensors": os.urandom(600_000),
}
COMPRESSIONS = {
    "tar": bytes,
    "tar.bz2": bz2.compress,
    "tar.gz": gzip.compress,
    "tar.xz": lzma.compress,
    "tar.xz -9": lambda data: lzma.compress(data, preset=9),
}


def write(folder, files, mode):
    for name, data in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
    return folder


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model", FILES.items(), 0o600)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def state(top, but):
    return {
        path: (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in top.rglob("*")
        if but not in (path, *path.parents)
    }


def tar(*members, format=tarfile.GNU_FORMAT, end=bytes(1024)):
    """Return a tar; a member is (name, content, header fields)."""
    blocks = []
    for name, data, fields in members:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        blocks += [info.tobuf(format), data, bytes(-len(data) % 512)]
    return b"".join((*blocks, end))


def tarred(name, data=b"x", **fields):
    return tar((name, data, fields))


def resealed(block):
    """Recompute the checksum of a changed header."""
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block[:512]) + block[156:]


def zipped(*members, method=zipfile.ZIP_DEFLATED, **fields):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            for field, value in fields.items():
                setattr(info, field, value)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(archive, "NameToInfo", {})  # avoids a warning about duplicate names
                archive.writestr(info, data)
    return file.getvalue()


def changed(data, old, new):
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


def central(data, offset, value):
    """Change a field of the only member in a zip's directory."""
    start = data.index(b"PK\1\2") + offset
    return data[:start] + value + data[start + len(value) :]


def ended(data, offset, value):
    """Change a field in the end record of a zip."""
    start = data.index(b"PK\5\6") + offset
    return data[:start] + value + data[start + len(value) :]


def million_zip():
    data = zipped(("a", b""))
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    size = 1_000_000 * (end - start)
    record = data[end : end + 8] + b"\xff\xff\xff\xff" + struct.pack("<IIH", size, start, 0)
    return data[:start] + data[start:end] * 1_000_000 + record


def million_tar():
    head = tar(*((f"f{i}", b"", {}) for i in range(1001)), end=b"")
    return gzip.compress(head) + gzip.compress(head[-512:] * 10_000) * 100


def pax(headers, name="a", data=b"x"):
    return tar((name, data, {"pax_headers": headers}), format=tarfile.PAX_FORMAT)


def raw_pax(data):
    return tar(("pax", data, {"type": tarfile.XHDTYPE}), ("a", b"x", {}))


def sized(field):
    block = tar(("a", b"", {}))
    return resealed(block[:124] + field + block[136:])


LINK = {"type": tarfile.SYMTYPE, "linkname": "../outside"}
ZIP_LINK = {"external_attr": (stat.S_IFLNK | 0o777) << 16}
ZEROS = bytes(3 << 20)

# each function gets a path outside the directory
REFUSED = {
    "dotdot tar": lambda out: tarred("../outside/evil"),
    "dotdot within tar": lambda out: tarred("sub/../../outside/evil"),
    "dotdot zip": lambda out: zipped(("../outside/evil", b"x")),
    "dotdot folder": lambda out: tarred("..", b"", type=tarfile.DIRTYPE),
    "dot inside": lambda out: tarred("a/./b"),
    "dot twice": lambda out: tarred("././b"),
    "root as a file": lambda out: tarred("."),
    "absolute tar": lambda out: tarred(f"{out}/evil"),
    "absolute zip": lambda out: zipped((f"{out}/evil", b"x")),
    "absolute folder": lambda out: tarred("/", b"", type=tarfile.DIRTYPE),
    "absolute behind a dot": lambda out: tarred(f"./{out}/evil"),
    "empty name tar": lambda out: tarred(""),
    "empty name zip": lambda out: changed(zipped(("a", b"")), b"a", b"\0"),
    "drive letter": lambda out: zipped(("C:\\x", b"x")),
    "backslash": lambda out: zipped(("..\\outside\\evil", b"x")),
    "home": lambda out: tarred("~/x"),
    "blank": lambda out: tarred("model.yaml "),
    "newline": lambda out: tarred("model.yaml\n"),
    "symlink tar": lambda out: tar(("l", b"", LINK), ("l/evil", b"x", {})),
    "symlink zip": lambda out: zipped(("l", b"../outside"), **ZIP_LINK),
    "hardlink": lambda out: tarred("h", b"", type=tarfile.LNKTYPE, linkname="../outside/kept"),
    "character device": lambda out: tarred("d", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": lambda out: tarred("d", b"", type=tarfile.BLKTYPE),
    "FIFO tar": lambda out: tarred("f", b"", type=tarfile.FIFOTYPE),
    "FIFO zip": lambda out: zipped(("f", b""), external_attr=stat.S_IFIFO << 16),
    "unknown type": lambda out: tarred("f", b"", type=b"Z"),
    "contiguous": lambda out: tarred("f", type=tarfile.CONTTYPE),
    "setuid tar": lambda out: tarred("a", mode=0o4755),
    "setgid zip": lambda out: zipped(("a", b"x"), external_attr=(stat.S_IFREG | 0o2755) << 16),
    "sticky folder": lambda out: tarred("a", b"", mode=0o1777, type=tarfile.DIRTYPE),
    "sparse GNU": lambda out: tarred("a", b"", type=tarfile.GNUTYPE_SPARSE),
    "sparse PAX 0.1": lambda out: pax({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**10)}),
    "sparse PAX 1.0": lambda out: pax(
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**10)}
    ),
    "million members zip": lambda out: million_zip(),
    "million members tar": lambda out: million_tar(),
    "1001 members": lambda out: tar(*((f"f{i}", b"", {}) for i in range(1001))),
    "bomb zip": lambda out: zipped(("a", ZEROS)),
    "bomb tar": lambda out: gzip.compress(tarred("a", ZEROS)),
    "bomb bz2": lambda out: bz2.compress(tarred("a", ZEROS)),
    "bomb behind the end": lambda out: lzma.compress(tarred("a") + ZEROS),
    "bomb of many members": lambda out: (
        gzip.compress(tarred("a", ZEROS)[:512]) + gzip.compress(ZEROS[: 1 << 18]) * 12
    ),
    "bomb with a false size": lambda out: central(
        zipped(("a", ZEROS)), 24, struct.pack("<I", 1000)
    ),
    "method without bounds": lambda out: zipped(("a", b"x"), method=zipfile.ZIP_BZIP2),
    "unknown method": lambda out: central(zipped(("a", b"x")), 10, struct.pack("<H", 99)),
    "encrypted": lambda out: central(zipped(("a", b"x")), 8, struct.pack("<H", 1)),
    "encrypted names": lambda out: central(zipped(("a", b"x")), 8, struct.pack("<H", 0x2000)),
    "twice tar": lambda out: tar(("a", b"x", {}), ("a", b"y", {})),
    "twice by a dot": lambda out: tar(("a", b"x", {}), ("./a", b"y", {})),
    "twice zip": lambda out: zipped(("a", b"x"), ("a", b"y")),
    "case tar": lambda out: tar(("model.yaml", b"x", {}), ("Model.YAML", b"y", {})),
    "case zip": lambda out: zipped(("a/x", b"x"), ("A/y", b"y")),
    "long PAX name": lambda out: pax({"path": "a" * 101}),
    "PAX name out": lambda out: pax({"path": "../outside/evil"}),
    "PAX size": lambda out: pax({"size": "-512"}),
    "huge PAX header": lambda out: raw_pax(b"%d a=%s\n" % (1 << 19, b"x" * (1 << 19))),
    "PAX headers in a row": lambda out: tar(*[("p", b"", {"type": b"x"})] * 3, ("a", b"", {})),
    "global PAX header": lambda out: tarred("g", b"11 path=ab\n", type=tarfile.XGLTYPE),
    "long GNU name": lambda out: tarred("a" * 101),
    "GNU name out": lambda out: tarred("l", b"../outside/evil\0", type=tarfile.GNUTYPE_LONGNAME),
    "NUL tar": lambda out: resealed(changed(tarred("model.yaml_" + "e" * 9), b"l_", b"l\0")),
    "NUL zip": lambda out: changed(zipped(("model_../x", b"x")), b"model_", b"model\0"),
    "negative offset": lambda out: ended(zipped(("a", b"x")), 16, struct.pack("<I", 1 << 20)),
    "negative directory": lambda out: ended(zipped(("a", b"x")), 12, struct.pack("<I", 1 << 19)),
    "negative size": lambda out: sized(b"\xff" * 10 + b"\xfe\0"),
    "negative octal size": lambda out: sized(b"-0000001000\0"),
    "huge size": lambda out: sized(b"\x80" + b"\xff" * 11),
    "file as a folder tar": lambda out: tar(("a", b"x", {}), ("a/b", b"x", {})),
    "folder as a file zip": lambda out: zipped(("a/b", b"x"), ("a", b"x")),
    "confusable zip": lambda out: zipped(("m\u043edel.yaml", b"x")),
    "confusable tar": lambda out: tarred("m\u043edel.yaml"),
    "too long": lambda out: zipped(("a" * 101, b"x")),
    "too deep": lambda out: tarred("/".join("abcdefghi")),
    "wrong checksum": lambda out: tarred("a")[:511] + b"\1" + tarred("a")[512:],
    "names differ": lambda out: zipped(("a", b"x")).replace(b"a", b"b", 1),
    "not UTF-8": lambda out: central(
        changed(zipped(("aa", b"x")), b"aa", b"\xff\xfe"), 8, struct.pack("<H", 0x800)
    ),
    "more behind its end": lambda out: tarred("a") + tarred("b"),
    "gzip checksum": lambda out: gzip.compress(tarred("a"))[:-8] + bytes(8),
    "no end": lambda out: tar(("a", b"x", {}), end=b""),
    "huge dictionary": lambda out: lzma.compress(
        tarred("a"), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 28}]
    ),
    "folder with a content": lambda out: tar(
        ("a", tarred("b", b"x" * 512)[:1024], {"type": tarfile.DIRTYPE})
    ),
    "text": lambda out: b"no archive at all\n" * 100,
    "empty": lambda out: b"",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name, tmp_path, folder, monkeypatch):
    outside, archive = tmp_path / "outside", tmp_path / "archive"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    archive.write_bytes(REFUSED[name](outside))
    monkeypatch.chdir(outside)
    monkeypatch.setattr(members, "FREE_BYTES", 1 << 20)
    before = state(tmp_path, but=folder)
    with pytest.raises(StoreError, match=r"' (is (refused|damaged|text|empty)|into)") as caught:
        unpack(archive, folder)
    assert str(caught.value).isprintable()
    assert state(tmp_path, but=folder) == before
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in folder.rglob("*")}
    assert kinds <= {stat.S_IFREG, stat.S_IFDIR}
    assert sum(map(len, content(folder).values())) <= max(1 << 20, 100 * archive.stat().st_size)


def test_million_members_take_no_memory(tmp_path, folder):
    import tracemalloc

    (tmp_path / "a.zip").write_bytes(million_zip())
    tracemalloc.start()
    with pytest.raises(StoreError, match="its member list"):
        unpack(tmp_path / "a.zip", folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(format, model, folder, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "new" / "second"
    pack(model, first, format)
    twin = write(tmp_path / "twin", reversed(FILES.items()), 0o755)
    monkeypatch.setattr("time.time", lambda: 1e9)
    pack(twin, second, format)
    monkeypatch.undo()
    assert first.read_bytes() == second.read_bytes()
    unpack(first, folder)
    assert content(folder) == FILES
    mask = os.umask(0)
    os.umask(mask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o644 & ~mask}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_any_tar(form, compression, model, folder, tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        archive.add(model, ".")
    (tmp_path / "archive").write_bytes(COMPRESSIONS[compression](file.getvalue()))
    unpack(tmp_path / "archive", folder)
    assert content(folder) == FILES


@pytest.mark.parametrize("format", ["xztar", "gztar", "bztar", "tar", "zip"])
def test_reads_archives_of_shutil(format, model, folder, tmp_path):
    model.chmod(0o2755)  # in a directory shared by a group
    unpack(tmp_path / shutil.make_archive(tmp_path / "made", format, model), folder)
    assert content(folder) == FILES


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.98])  # of a tar, the last 10 kB are padding
@pytest.mark.parametrize("format", FORMATS)
def test_truncated(format, share, model, folder, tmp_path):
    archive = tmp_path / "archive"
    pack(model, archive, format)
    os.truncate(archive, int(archive.stat().st_size * share))
    with pytest.raises(StoreError) as caught:
        unpack(archive, folder)
    assert not share or isinstance(caught.value, ModelCorruptError)


@pytest.mark.parametrize("format", FORMATS)
def test_random_damage(format, tmp_path):
    data = tar(("m.yaml", b"a" * 700, {}), ("d", b"", {"type": b"5"}), ("d/w", b"b" * 900, {}))
    if format == "zip":
        data = zipped(("m.yaml", b"a" * 700), ("d/w", b"b" * 900))
    else:
        data = COMPRESSIONS[format](data)
    rng = random.Random(0)
    for turn in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "archive").write_bytes(damaged)
        folder = tmp_path / str(turn)
        folder.mkdir()
        try:
            unpack(tmp_path / "archive", folder)
        except StoreError:
            continue
        assert len(content(folder)) <= 2


@pytest.mark.parametrize("kind", ["folder", "missing", "fifo"])
def test_no_file(kind, tmp_path, folder):
    path = tmp_path / "archive"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(StoreError, match="is not a file"):
        unpack(path, folder)


def test_folder_must_be_empty(tmp_path, model):
    pack(model, tmp_path / "archive", "zip")
    with pytest.raises(StoreError, match="is not empty"):
        unpack(tmp_path / "archive", model)
    with pytest.raises(StoreError, match="No such file"):
        unpack(tmp_path / "archive", tmp_path / "nowhere")


def test_full_disk(tmp_path, model, folder, monkeypatch):
    pack(model, tmp_path / "archive", "tar.gz")
    real = os.open
    monkeypatch.setattr(module.os, "open", lambda *args: real("/dev/full", os.O_WRONLY))
    with pytest.raises(StoreError, match="No space left on device; check"):
        unpack(tmp_path / "archive", folder)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr("pipeline.system.files.os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device; check"):
        pack(model, tmp_path / "other" / "archive", "tar.gz")
    assert not list((tmp_path / "other").iterdir())


def test_pack_refuses_what_unpack_would(tmp_path, model, monkeypatch):
    target = tmp_path / "archive"
    with pytest.raises(StoreError, match=r"unknown archive format 'tar\.gx'; did you mean"):
        pack(model, target, "tar.gx")
    (model / "zeros").write_bytes(ZEROS)
    monkeypatch.setattr(members, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(members, "MAX_RATIO", 2)
    with pytest.raises(StoreError, match="use zip"):
        pack(model, target, "tar.xz")
    pack(model, target, "zip")
    target.unlink()
    (model / "link").symlink_to("zeros")
    with pytest.raises(StoreError, match="'link' is not a plain file"):
        pack(model, target, "zip")
    (model / "link").unlink()
    (model / "a b").touch()
    with pytest.raises(StoreError, match="'a b' is not a plain path"):
        pack(model, target, "zip")
    assert not target.exists()


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("a.tar.xz", "tar.xz"),
        ("a.txz", "tar.xz"),
        ("b/a-1.2.bentomodel", "tar.xz"),
        ("s3://b/a.TAR.GZ", "tar.gz"),
        ("a.tgz", "tar.gz"),
        ("a.zip", "zip"),
        ("a.tar", "tar"),
        ("a.tar.bz2", "tar.bz2"),
        ("a.tbz", "tar.bz2"),
        ("a.xz", "tar.xz"),
        ("a.gz", "tar.gz"),
        ("a-1.2", None),
        ("tar", None),
        ("", None),
    ],
)
def test_format_of(path, format):
    assert format_of(path) == format
