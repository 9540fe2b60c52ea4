"""Files, folders and globs: what is found, under which ids, in which order, and what is not."""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.protocols import Source
from pipeline.sources import Images, images, kinds
from pipeline.sources.scan import natural_key, not_an_image, scan

PNG = cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))[1].tobytes()


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PNG)
    return root


def ids(source: Images) -> list[str]:
    return [asset.id for asset in source]


def reasons(source: Images) -> dict[str, str]:
    return {entry.path: entry.reason for entry in source.skipped()}


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ordered",
    [
        pytest.param(["img1.jpg", "img2.jpg", "img10.jpg", "img100.jpg"], id="numbers"),
        pytest.param(["1.jpg", "1a.jpg", "2.jpg", "10.jpg", "a.jpg"], id="leading-numbers"),
        pytest.param(["x001.jpg", "x01.jpg", "x1.jpg", "x2.jpg"], id="zero-padding"),
        pytest.param(["A.jpg", "a.jpg", "B.jpg", "b.jpg"], id="case"),
        pytest.param(["a/1.jpg", "a-b.jpg", "a.jpg"], id="folder"),
        pytest.param(["1/x2.jpg", "2/x1.jpg", "10/x0.jpg"], id="numbered-folders"),
        pytest.param(["v1.2.9.jpg", "v1.2.10.jpg", "v1.10.1.jpg"], id="versions"),
        pytest.param(["é.jpg", "日本2.jpg", "日本10.jpg"], id="letters"),
        pytest.param(["x²1.jpg", "x²٣.jpg"], id="digits-that-int-does-not-read"),
        pytest.param(["x" + "1" * 240 + ".jpg", "x" + "2" * 240 + ".jpg"], id="many-digits"),
    ],
)
def test_natural_order(ordered: list[str]) -> None:
    for seed in range(5):
        shuffled = random.Random(seed).sample(ordered, len(ordered))
        assert sorted(shuffled, key=natural_key) == ordered


def test_a_folder_stays_together() -> None:
    names = ["a1/x", "a01/x", "a1/y", "a01/y", "A1/x", "a-1/x"]
    folders = [name.split("/")[0] for name in sorted(names, key=natural_key)]
    assert all(folders.index(f) + folders.count(f) - 1 >= i for i, f in enumerate(folders))


def test_order_does_not_hang_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, *(f"{folder}/{n}.jpg" for folder in "cab" for n in (10, 2, 1)))
    first = ids(Images(str(tmp_path)))
    assert first == [f"{folder}/{n}.jpg" for folder in "abc" for n in (1, 2, 10)]
    listing = os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            with listing(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert ids(Images(str(tmp_path))) == first


# --- what `input` may be --------------------------------------------------------------------------

ALL = ["1.jpg", "2.png", "10.jpg", "a/1.jpg", "a/b/1.JPG", "a/b/2.jpeg"]
NAMES = [*ALL, "note.txt", "c/"]


@pytest.mark.parametrize(
    ("input", "expected"),
    [
        pytest.param("", ALL, id="folder"),
        pytest.param("a", ["1.jpg", "b/1.JPG", "b/2.jpeg"], id="sub-folder"),
        pytest.param("a/", ["1.jpg", "b/1.JPG", "b/2.jpeg"], id="slash"),
        pytest.param("a/../a/./b", ["1.JPG", "2.jpeg"], id="dots"),
        pytest.param("c", [], id="folder-without-images"),
        pytest.param("a/1.jpg", ["1.jpg"], id="file"),
        pytest.param("note.txt", ["note.txt"], id="file-of-any-extension"),
        pytest.param("*.jpg", ["1.jpg", "10.jpg"], id="glob"),
        pytest.param("?.*", ["1.jpg", "2.png"], id="question-mark"),
        pytest.param("[12].*", ["1.jpg", "2.png"], id="set"),
        pytest.param("[!1]*", ["2.png"], id="negated-set"),
        pytest.param("**/*.jpg", ["1.jpg", "10.jpg", "a/1.jpg"], id="any-depth"),
        pytest.param("**", ALL, id="all"),
        pytest.param("a/**/1.*", ["1.jpg", "b/1.JPG"], id="below-a-folder"),
        pytest.param("*/b/*", ["a/b/1.JPG", "a/b/2.jpeg"], id="magic-folder"),
        pytest.param("a/../*.png", ["2.png"], id="dots-before-the-wildcard"),
        pytest.param("*.webp", [], id="glob-of-nothing"),
        pytest.param("*.txt", [], id="glob-of-others"),
    ],
)  # fmt: skip
def test_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, input: str, expected: list[str]
) -> None:
    tree(tmp_path, *NAMES)
    source = Images(f"{tmp_path}/{input}")
    assert isinstance(source, Source)
    assert ids(source) == expected
    assert ids(source) == expected  # may be iterated again
    assert all(asset.path.is_file() for asset in source)
    assert all(not id.startswith("/") and ".." not in id.split("/") for id in ids(source))
    monkeypatch.chdir(tmp_path)
    assert ids(Images(input or ".")) == expected


def test_a_new_file_is_found_when_iterated_again(tmp_path: Path) -> None:
    source = Images(str(tree(tmp_path, "1.jpg", "x.txt")))
    assert len(source.skipped()) == 1
    tree(tmp_path, "2.jpg", "y.txt")
    assert ids(source) == ["1.jpg", "2.jpg"]
    assert len(source.skipped()) == 2


def test_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Images(str(tree(tmp_path, "1.jpg", "x.txt")))
    looks = []
    monkeypatch.setattr(images, "scan", lambda *_, **__: looks.append(1) or scan(tmp_path))
    monkeypatch.setattr(kinds, "ImageAsset", lambda *_, **__: pytest.fail("built an asset"))
    assert len(source) == 1
    tree(tmp_path, "2.jpg")
    assert len(source) == 1  # of the last look
    monkeypatch.undo()
    assert len(list(source)) == len(source) == 2
    assert looks == [1]


def test_listing_looks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Images(str(tree(tmp_path, "1.jpg")))
    looks = []
    monkeypatch.setattr(images, "scan", lambda *_, **__: looks.append(1) or scan(tmp_path))
    list(source)  # which asks for the length, too
    source.skipped()
    assert looks == [1]


def test_each_iterator_keeps_its_own_look(tmp_path: Path) -> None:
    source = Images(str(tree(tmp_path, "1.jpg", "2.jpg")))
    first = iter(source)
    (tmp_path / "2.jpg").unlink()
    assert ids(source) == ["1.jpg"]
    assert [asset.id for asset in first] == ["1.jpg", "2.jpg"]


def test_not_recursive(tmp_path: Path) -> None:
    source = Images(str(tree(tmp_path, *NAMES)), recursive=False)
    assert ids(source) == ["1.jpg", "2.png", "10.jpg"]
    assert reasons(source)["a"] == "directory that is not searched"


@pytest.mark.parametrize("name", ["[x].jpg", "*.jpg", "a?.png", "[1]/x.jpg"])
def test_what_exists_under_this_name_is_no_glob(tmp_path: Path, name: str) -> None:
    tree(tmp_path, name, "x.jpg", "1/x.jpg")
    assert ids(Images(f"{tmp_path}/{name}")) == [Path(name).name]


def test_a_glob_in_a_folder_with_odd_letters(tmp_path: Path) -> None:
    tree(tmp_path, "set[1]/x.jpg", "set1/y.jpg")
    assert ids(Images(f"{tmp_path}/set[1]/*.jpg")) == ["x.jpg"]


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree(tmp_path, "in/1.jpg")))
    assert ids(Images("~/in")) == ["1.jpg"]
    monkeypatch.chdir(tree(tmp_path / "cwd", "~/2.jpg"))
    assert ids(Images("~/")) == ["2.jpg"]  # that very name exists
    with pytest.raises(ConfigError, match="~nobody-of-this-name"):
        Images("~nobody-of-this-name/x").check()


def test_assets_carry_the_options(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg")
    (asset,) = Images(str(tmp_path), exif=False, max_pixels=7)
    assert (asset.exif, asset.max_pixels, asset.is_still) == (False, 7, True)


@pytest.mark.parametrize(
    ("input", "message"),
    [
        pytest.param("gone", r"^input: no file or directory '/.*/gone'$", id="missing"),
        pytest.param("dangling", r"^input: no file or directory '/.*/dangling'$", id="dangling"),
        pytest.param("gone/*.jpg", r"^input: no directory '/.*/gone', which", id="glob-in-nothing"),
        pytest.param("1.jpg/*.jpg", r"^input: no directory '/.*/1.jpg', w", id="glob-in-a-file"),
        pytest.param("*/../x.jpg", r"'\.\.' cannot follow a wildcard", id="dots-after-a-wildcard"),
        pytest.param("a" * 300, r"^input: cannot access '/.*a': file name too long$", id="long"),
        pytest.param("a\0b", "no file or directory", id="nul"),
    ],
)
def test_input_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, input: str, message: str
) -> None:
    tree(tmp_path, "1.jpg")
    (tmp_path / "dangling").symlink_to("nothing")
    monkeypatch.chdir(tmp_path)
    source = Images(input)  # a constructor only stores
    for look in (source.check, source.skipped, lambda: list(source)):
        with pytest.raises(ConfigError, match=message):
            look()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"input": ""}, "input is missing", id="empty"),
        pytest.param({"input": None}, "input is missing", id="none"),
        pytest.param({"input": 7}, "input is missing", id="number"),
        pytest.param(
            {"input": "x", "max_pixels": 0},
            "max_pixels: expected a whole number of at least 1",
            id="zero",
        ),
        pytest.param({"input": "x", "max_pixels": True}, "got True", id="bool"),
        pytest.param({"input": "x", "max_pixels": 1.5}, "got 1.5", id="float"),
    ],
)
def test_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Images(**options)


# --- what is skipped ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".x.jpg", "hidden"),
        (".git/x.jpg", "hidden"),
        (".#x.jpg", "hidden"),
        (".DS_Store", "hidden"),
        (".stfolder/x.jpg", "hidden"),
        ("x.jpg.part", "temporary file"),
        ("x.JPG.TMP", "temporary file"),
        ("x.jpg.crdownload", "temporary file"),
        ("x.jpg~", "temporary file"),
        ("~$x.jpg", "temporary file"),
        ("#x.jpg#", "temporary file"),
        ("Thumbs.db", "system file"),
        ("@eaDir/x.jpg", "system file"),
        ("x.txt", "not an image (.txt)"),
        ("x", "not an image (no extension)"),
        ("jpg", "not an image (no extension)"),
        ("x.MP4", "video"),
        ("x.psd", "unsupported image format (.psd)"),
        ("x.svg", "unsupported image format (.svg)"),
    ],
)
def test_left_out(tmp_path: Path, name: str, reason: str) -> None:
    source = Images(str(tree(tmp_path, "1.jpg", name, f"sub/{name}")))
    assert ids(source) == ["1.jpg"]
    entry = name.split("/")[0]
    assert reasons(source) == {entry: reason, f"sub/{entry}": reason}


def test_a_glob_mentions_only_what_it_asks_for(tmp_path: Path) -> None:
    tree(tmp_path, "a.jpg", "a.txt", "b.txt", "a/x.txt", ".a.jpg", ".git/a.jpg")
    assert reasons(Images(f"{tmp_path}/a*")) == {
        "a": "directory that is not searched",
        "a.txt": "not an image (.txt)",
    }


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "Png", "webp", "avif", "tif", "bmp", "jp2"])
def test_images_by_extension(suffix: str) -> None:
    assert not_an_image(f"x.{suffix}") is None


def test_special_files(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg", "folder.jpg/2.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/null")
    (tmp_path / "dangling.jpg").symlink_to("gone")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    source = Images(str(tmp_path))
    assert ids(source) == ["1.jpg", "folder.jpg/2.jpg"]
    assert reasons(source) == {
        "dangling.jpg": "dangling link",
        "device.jpg": "not a regular file",
        "fifo.jpg": "not a regular file",
        "itself.jpg": "dangling link",
    }


# --- links ----------------------------------------------------------------------------------------


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    tree(tmp_path, "in/1.jpg", "out/2.jpg")
    (tmp_path / "in/link.jpg").symlink_to("../out/2.jpg")
    (tmp_path / "in/same.jpg").symlink_to("1.jpg")
    assert ids(Images(f"{tmp_path}/in")) == ["1.jpg", "link.jpg", "same.jpg"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    tree(tmp_path, "in/1.jpg", "out/2.jpg", "out/deep/3.jpg")
    for name in ("x10", "x2"):
        (tmp_path / f"in/{name}").symlink_to("../out")
    (tmp_path / "in/a").symlink_to("../out/deep")
    source = Images(f"{tmp_path}/in")
    assert ids(source) == ["1.jpg", "a/3.jpg", "x2/2.jpg"]
    taken = "link to a directory that is already included"
    assert reasons(source) == {"x2/deep": taken, "x10": taken}


def test_a_real_folder_goes_before_a_link_to_it(tmp_path: Path) -> None:
    tree(tmp_path, "b/1.jpg")
    (tmp_path / "a").symlink_to("b")
    assert ids(Images(str(tmp_path))) == ["b/1.jpg"]


@pytest.mark.parametrize("input", ["", "/**", "/**/*.jpg"], ids=["folder", "all", "glob"])
def test_loops_end(tmp_path: Path, input: str) -> None:
    tree(tmp_path, "in/1.jpg", "in/a/2.jpg", "in/b/3.jpg", "outside.jpg")
    for link, target in [
        ("in/self", "."),
        ("in/up", ".."),
        ("in/a/loop", "../b"),
        ("in/b/loop", "../a"),
        ("in/root", "/"),
    ]:
        (tmp_path / link).symlink_to(target)
    assert ids(Images(f"{tmp_path}/in{input}")) == ["1.jpg", "a/2.jpg", "b/3.jpg"]


# --- faults ---------------------------------------------------------------------------------------


@pytest.fixture
def no_listing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    listing = os.scandir

    def forbid(path: Path, code: int) -> None:
        def fails(asked: str) -> Any:
            if Path(asked) == path:
                raise OSError(code, os.strerror(code), asked)
            return listing(asked)

        monkeypatch.setattr(os, "scandir", fails)

    return forbid


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param(errno.EACCES, "no permission", id="mode-000"),
        pytest.param(errno.EIO, "input/output error", id="disk"),
        pytest.param(errno.ENOENT, "no such file", id="vanished"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path: Path, no_listing: Any, code: int, reason: str
) -> None:
    tree(tmp_path, "1.jpg", "a/secret/2.jpg", "b/3.jpg")
    no_listing(tmp_path / "a/secret", code)
    source = Images(str(tmp_path))
    assert ids(source) == ["1.jpg", "b/3.jpg"]
    assert reasons(source) == {"a/secret": reason}
    assert reasons(Images(f"{tmp_path}/**/*.jpg")) == {"a/secret": reason}


def test_the_folder_itself_cannot_be_listed(tmp_path: Path, no_listing: Any) -> None:
    no_listing(tmp_path, errno.EACCES)
    with pytest.raises(ConfigError, match=f"cannot list '{re.escape(str(tmp_path))}': no permis"):
        ids(Images(str(tmp_path)))


# --- names ----------------------------------------------------------------------------------------

AWKWARD = [
    pytest.param(b"caf\xe9.png", id="not-utf-8"),
    pytest.param(b"a\nb.png", id="newline"),
    pytest.param(b"a'b\"c.png", id="quotes"),
    pytest.param(b"-rf.png", id="dash"),
    pytest.param(b" a .png", id="spaces"),
    pytest.param(b"%s%d.png", id="percent"),
    pytest.param(b"{}{0}${x}.png", id="braces"),
    pytest.param(b"a,b=(c);d&e.png", id="shell"),
    pytest.param(b"a\\b.png", id="backslash"),
    pytest.param("\U0001f600é.png".encode(), id="emoji"),
    pytest.param(b"\xef\xbb\xbf.png", id="bom"),
    pytest.param(b"a" * 251 + b".png", id="255-bytes"),
    pytest.param(b"..a..png", id="dots"),
]


@pytest.mark.parametrize("raw", AWKWARD)
@pytest.mark.parametrize("input", ["", "/sub", "/**/*.png", "/sub/{}"])
def test_awkward_names(tmp_path: Path, raw: bytes, input: str) -> None:
    name = os.fsdecode(raw)
    tree(tmp_path, f"sub/{name}")
    source = Images(str(tmp_path) + input.replace("{}", name))
    if name.startswith(".") and "{}" not in input:
        assert ids(source) == []
        return
    (asset,) = source
    assert asset.id.endswith(name)
    assert os.fsencode(asset.path).endswith(raw)
    assert next(asset.frames()).size == (2, 3)
    assert len(asset.fingerprint()) == 64
