"""Lists of images: how they are written, what their entries are called, what is wrong with them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError, DecodeError
from pipeline.protocols import Source
from pipeline.sources import Manifest
from pipeline.system.files import output_name

PNG = cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))[1].tobytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; the lists lie in another."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def ids(source: Manifest) -> list[str]:
    return [asset.id for asset in source]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        pytest.param("x.txt", b"b.jpg\na.jpg\n", ["b.jpg", "a.jpg"], id="order-kept"),
        pytest.param("x.txt", b"a.jpg", ["a.jpg"], id="no-newline-at-the-end"),
        pytest.param("x.txt", b"a.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"], id="windows"),
        pytest.param("x.txt", b"\n  \na.jpg\n\n", ["a.jpg"], id="empty-lines"),
        pytest.param("x.txt", b"# mine\na.jpg\n./#1.jpg\n", ["a.jpg", "#1.jpg"], id="comments"),
        pytest.param("x.txt", b"\xef\xbb\xbfa.jpg\n", ["a.jpg"], id="byte-order-mark"),
        pytest.param("x.txt", b"caf\xe9.jpg\n", [os.fsdecode(b"caf\xe9.jpg")], id="not-utf-8"),
        pytest.param("x.txt", "日\u2028\x85.jpg\n".encode(), ["日\u2028\x85.jpg"], id="unicode"),
        pytest.param("x.txt", b" a b .jpg \n", [" a b .jpg "], id="spaces"),
        pytest.param("x.txt", b"", [], id="empty"),
        pytest.param("x.lst", b"a.jpg\n", ["a.jpg"], id="any-extension"),
        pytest.param("x.csv", b"path\nb.jpg\na.jpg\n", ["b.jpg", "a.jpg"], id="csv"),
        pytest.param("X.CSV", b"id, path\r\n1,a.jpg\r\n", ["a.jpg"], id="csv-column"),
        pytest.param("x.csv", b'\xef\xbb\xbfpath,n\n"a,""b"".jpg",1\n', ['a,"b".jpg'], id="quoted"),
        pytest.param("x.csv", b'path\n"a\nb.jpg"\n', ["a\nb.jpg"], id="csv-newline"),
        pytest.param("x.csv", b"path\n#1.jpg\n", ["#1.jpg"], id="csv-has-no-comments"),
        pytest.param("x.csv", b"path,n\na.jpg,1\n\n,\n", ["a.jpg"], id="csv-empty-lines"),
        pytest.param("-", b"b.jpg\na.jpg\n", ["b.jpg", "a.jpg"], id="stdin"),
        pytest.param("-", b"#1.jpg\n", ["#1.jpg"], id="stdin-has-no-comments"),
        pytest.param("-", b"a\nb.jpg\0c.jpg\0", ["a\nb.jpg", "c.jpg"], id="stdin-nul"),
        pytest.param("-", b"", [], id="stdin-empty"),
    ],
)  # fmt: skip
def test_lists(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, expected: list[str]
) -> None:
    stdin(monkeypatch, data)
    (here.parent / "lists" / name).write_bytes(data)
    source = Manifest("-" if name == "-" else f"../lists/{name}")
    assert isinstance(source, Source)
    source.check()
    assert ids(source) == expected
    assert ids(source) == expected  # may be iterated again, standard input too
    assert source.skipped() == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("./a//b/./c.jpg", "a/b/c.jpg"),
        ("sub/../b.jpg", "b.jpg"),
        ("..a.jpg", "..a.jpg"),
        ("/srv/x.jpg", "srv/x.jpg"),
        ("//srv/x.jpg", "srv/x.jpg"),
        ("/tmp/../../x.jpg", "x.jpg"),
        ("../x.jpg", "{parent}/x.jpg"),
        ("sub/../../x.jpg", "{parent}/x.jpg"),
        ("link/../x.jpg", "data/x.jpg"),
        ("link/../../x.jpg", "x.jpg"),
        ("link/x.jpg", "link/x.jpg"),  # a name of its own
        ("data/deep/../link/../x.jpg", "data/link/__/x.jpg"),  # data/link is not there
        ("gone/../b.jpg", "gone/__/b.jpg"),  # as the system sees it, no path of b.jpg
        ("loop/../b.jpg", "loop/__/b.jpg"),
        ("a.jpg/../b.jpg", "a.jpg/__/b.jpg"),
        ("gone/../../b.jpg", "gone/__/__/b.jpg"),
        ("no\0thing.jpg", "no\\0thing.jpg"),
        ("no\0thing/../x.jpg", "no\\0thing/__/x.jpg"),
        ("cafe\u0301.jpg", "cafe\u0301.jpg"),  # not made one with caf\u00e9.jpg
        ("..", "{parent}"),
        (".", "."),
        ("/", "."),
    ],
)
def test_ids(here: Path, entry: str, expected: str) -> None:
    for folder in ("data/deep", "sub"):
        (here / folder).mkdir(parents=True)
    (here / "link").symlink_to("data/deep")
    (here / "loop").symlink_to("loop")
    (here / "a.jpg").touch()
    (here / "x.txt").write_text(entry)
    assert ids(Manifest("x.txt")) == [expected.format(parent=str(here.parent).lstrip("/"))]


def test_where_relative_entries_lie(here: Path) -> None:
    lists = here.parent / "lists"
    for path in (here / "both.png", lists / "both.png", lists / "beside.png"):
        path.write_bytes(PNG)
    (lists / "x.txt").write_text("both.png\nbeside.png\ngone.png\n")
    paths = [asset.path for asset in Manifest("../lists/x.txt")]
    assert paths == [here / "both.png", here / "../lists/beside.png", here / "gone.png"]
    assert paths[1].is_file()


def test_what_is_not_there_fails_when_it_is_decoded(here: Path) -> None:
    (here / "good.png").write_bytes(PNG)
    (here / "folder").mkdir()
    (here / "x.txt").write_text("gone.png\nfolder\ngood.png\nhttp://host/x.jpg\n")
    gone, folder, good, url = Manifest("x.txt", exif=False, max_pixels=9)
    assert (good.exif, good.max_pixels) == (False, 9)
    assert next(good.frames()).size == (2, 3)
    for asset, message in [
        (gone, "no such file"),
        (folder, "is a directory"),
        (url, "no such file"),
    ]:
        with pytest.raises(DecodeError, match=message) as caught:
            next(asset.frames())
        assert caught.value.asset_id == asset.id


def test_a_path_listed_twice_is_one_asset(here: Path) -> None:
    (here / "x.txt").write_text(f"a.jpg\n./a.jpg\nb.jpg\n{here}/a.jpg\n")
    source = Manifest("x.txt")
    assert [(entry.path, entry.reason) for entry in source.skipped()] == [
        ("a.jpg", "listed twice"),
        ("a.jpg", "listed twice"),
    ]
    assert ids(source) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("order", [1, -1])
def test_two_files_never_share_an_id(here: Path, order: int) -> None:
    (here / "x.txt").write_text("\n".join(["data/x.jpg", "/data/x.jpg"][::order]))
    assets = list(Manifest("x.txt"))
    assert [asset.id for asset in assets] == ["data/x.jpg", "_/data/x.jpg"]
    assert assets[0].path != assets[1].path


def test_a_list_that_grew(here: Path) -> None:
    (here / "x.txt").write_text("a.jpg\n")
    source = Manifest("x.txt")
    assert ids(source) == ["a.jpg"]
    (here / "x.txt").write_text("a.jpg\nb.jpg\n")
    assert ids(source) == ["a.jpg", "b.jpg"]


def test_length(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "x.txt").write_text("a.jpg\nb.jpg\na.jpg\n")
    source = Manifest("x.txt")
    assert len(source) == 2
    (here / "x.txt").write_text("a.jpg\n")
    assert len(source) == 2  # of the last reading
    readings = []
    entries = source._table
    monkeypatch.setattr(source, "_table", lambda: readings.append(1) or entries())
    assert [asset.id for asset in list(source)] == ["a.jpg"]
    assert (len(source), source.skipped(), readings) == (1, [], [1])


def test_one_file_under_two_names_is_one_asset(here: Path) -> None:
    lists = here.parent / "lists"
    (lists / "beside.png").write_bytes(PNG)
    names = ["beside.png", "../lists/beside.png", f"{lists}/beside.png", "./beside.png"]
    (lists / "x.txt").write_text("\n".join(names))
    source = Manifest("../lists/x.txt")
    assert ids(source) == ["beside.png"]
    assert [entry.path for entry in source.skipped()] == ["beside.png"] * 3


def test_paths_follow_links_as_they_are_written(here: Path) -> None:
    (here / "data/deep").mkdir(parents=True)
    (here / "link").symlink_to("data/deep")
    (here / "x.txt").write_text("link/../x.jpg\n")
    (asset,) = Manifest("x.txt")
    assert (asset.id, asset.path) == ("data/x.jpg", here / "link/../x.jpg")


SAME, OTHER = "the same asset", "another asset"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("first", "second", "which"),
    [
        ("a.png", "./a.png", SAME),
        ("a.png", "sub//../a.png", SAME),
        ("a.png", "{here}/a.png", SAME),
        ("a.png", "/{here}/./a.png", SAME),
        ("a.png", "../here/a.png", SAME),
        ("data/a.png", "link/../a.png", SAME),
        ("{here}/data/a.png", "link/../a.png", SAME),
        ("a.png", "link/../a.png", OTHER),  # data/a.png
        ("a.png", "{here}/link/../a.png", OTHER),
        ("a.png", "gone/../a.png", OTHER),  # not there
        ("a.png", "a.png/../a.png", OTHER),
        ("a.png", "A.png", OTHER),
        ("caf\u00e9.png", "cafe\u0301.png", OTHER),
        ("data/deep/a.png", "link/a.png", OTHER),  # two names of one file
        ("a.png", "other.png", OTHER),
        ("a.png", "hard.png", OTHER),
        ("a.png", "a.png\0", OTHER),
    ],
)
def test_identity(here: Path, first: str, second: str, which: str, order: int) -> None:
    for path in ("a.png", "data/a.png", "data/deep/a.png", "caf\u00e9.png"):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_bytes(PNG + path.encode())
    (here / "sub").mkdir()
    (here / "link").symlink_to("data/deep")
    (here / "other.png").symlink_to("a.png")
    (here / "hard.png").hardlink_to(here / "a.png")
    listed = [entry.format(here=here) for entry in (first, second)][::order]
    (here / "x.txt").write_text("\n".join(listed))
    source = Manifest("x.txt")
    assets = {asset.id: asset for asset in source}
    assert len(assets) == (1 if which == SAME else 2)
    assert [entry.reason for entry in source.skipped()] == ["listed twice"] * (which == SAME)
    for asset_id, asset in assets.items():  # each id leads to its own file
        content = (
            asset.path.read_bytes() if "\0" not in str(asset.path) and asset.path.exists() else b""
        )
        assert not content or content.endswith(b"a.png") or asset_id.startswith("caf")
        if content:
            named = here / asset_id if (here / asset_id).exists() else Path("/", asset_id)
            assert named.read_bytes() == content
    assert len({output_name(asset_id, ".jpg") for asset_id in assets}) == len(assets)
    assert not any("\0" in asset_id or ".." in asset_id.split("/") for asset_id in assets)


@pytest.mark.parametrize("name", ["x.txt", "x.csv", "-"])
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a\0b.png", "null"),
        ("/\0", "null"),
        ("x" * 300 + ".png", "too long"),
        ("d/" * 3000 + "x.png", "too long"),
        ("loop/x.png", "symbolic links"),
        ("good.png/x.png", "not a directory"),
        ("gone.png", "no such file"),
        (".", "is a directory"),
    ],
)
def test_what_the_system_refuses_fails_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, entry: str, message: str
) -> None:
    (here / "good.png").write_bytes(PNG)
    (here / "loop").symlink_to("loop")
    listed = [entry, "good.png"]
    if name == "-":
        if "\0" in entry:
            pytest.skip("NUL ends an entry of standard input")
        stdin(monkeypatch, "\n".join(listed).encode())
    else:
        (here / name).write_text("\n".join((["path"] if name == "x.csv" else []) + listed))
    bad, good = Manifest(name)
    assert next(good.frames()).size == (2, 3)
    for look in (lambda: next(bad.frames()), bad.fingerprint):
        with pytest.raises(DecodeError, match=message):
            look()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        pytest.param("x.txt", None, r"cannot read the list '/.*/x\.txt': no such file$", id="gone"),
        pytest.param("x.csv", b"", "has no column 'path'; it is empty$", id="csv-empty"),
        pytest.param("x.csv", b"id,file\n", "no column 'path'; known: id, file$", id="csv-column"),
        pytest.param("x.csv", b"id,Path\n", "did you mean 'Path'?", id="csv-case"),
        pytest.param("x.csv", b"path;id\na;1\n", "did you mean 'path;id'?", id="csv-semicolon"),
        pytest.param("x.csv", b"path,n\na,1\n,2\n", "at line 3: the path is empty", id="csv-hole"),
        pytest.param("x.csv", b'path\n"a"b\n', "cannot be read at line 2: ", id="csv-quotes"),
        pytest.param("x.txt", "a.jpg".encode("utf-16"), "is UTF-16: save it as UTF-8", id="utf-16"),
    ],
)
def test_a_list_that_cannot_be_read(
    here: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is not None:
        (here / name).write_bytes(data)
    source = Manifest(name)  # a constructor only stores
    for look in (source.check, source.skipped, lambda: list(source)):
        with pytest.raises(ConfigError, match=message):
            look()


def test_file_names_in_another_encoding(here: Path) -> None:
    """Where the system's encoding is ASCII, a name is still the same bytes."""
    (here / "\u65e5.png").write_bytes(PNG)
    (here / "x.txt").write_text("\u65e5.png\n", encoding="utf-8")
    code = (
        "import os, sys; sys.path.append(sys.argv[1]); from pipeline.sources import Manifest\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "[asset] = Manifest('x.txt'); next(asset.frames()); print(os.fsencode(asset.id))"
    )
    root = str(Path(__file__).parents[3])
    env = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run([sys.executable, "-c", code, root], env=env, capture_output=True)
    assert told.stdout.strip().decode() == str("\u65e5.png".encode()), told.stderr


def test_no_rights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(ConfigError, match="no permission"):
        Manifest("x.txt").check()


def test_a_folder_is_no_list(here: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        Manifest(".").check()


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="standard input is closed"):
        Manifest("-").check()


def test_arguments() -> None:
    with pytest.raises(ConfigError, match="input is missing"):
        Manifest("")
    with pytest.raises(ConfigError, match="max_pixels"):
        Manifest("x.txt", max_pixels=-1)
