from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.system import descriptors
from pipeline.system.descriptors import check_held, check_named, held, open_file, remove, status_of
from pipeline.system.files import replaced, write_whole
from pipeline.system.output_folder import OutputFolder


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An output that is held, and is a link itself: that is the user's choice."""
    (tmp_path / "real").mkdir()
    root = tmp_path / "out"
    root.symlink_to("real")
    descriptor = os.open(root, os.O_RDONLY)
    with held(root, descriptor):
        yield root
    os.close(descriptor)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("another's")
    return tmp_path / "outside"


def in_the_way(path: Path, kind: str, outside: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "hard link":
        os.link(outside / "file", path)
    else:
        path.symlink_to(outside / kind)


@pytest.mark.parametrize("kind", ["file", "nothing", "", "hard link", "pipe", "a directory"])
def test_what_is_opened_to_write_is_a_file_of_the_output(
    root: Path, outside: Path, kind: str
) -> None:
    in_the_way(root / "x", kind, outside)
    words = {"hard link": "hard link", "pipe": "regular", "a directory": "regular"}
    with pytest.raises(OutputError, match=words.get(kind, "symbolic link")):
        open_file(root / "x", os.O_RDWR | os.O_CREAT)
    assert os.listdir(outside) == ["file"]  # noqa: PTH208
    assert (outside / "file").read_text() == "another's"


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda path: write_whole(path, "x"), id="write"),
        pytest.param(lambda path: open_file(path, os.O_RDONLY), id="read"),
        pytest.param(remove, id="remove"),
        pytest.param(status_of, id="look"),
        pytest.param(lambda path: descriptors.names_in(path.parent), id="list"),
        pytest.param(lambda path: descriptors.rename(path, path), id="rename"),
    ],
)
def test_a_directory_that_is_a_link_is_not_entered(root: Path, outside: Path, act: object) -> None:
    (root / "link").symlink_to(outside)
    with pytest.raises(OutputError, match=r"out/link' is a symbolic link"):
        act(root / "link" / "file")  # type: ignore[operator]
    assert (outside / "file").read_text() == "another's"


@pytest.mark.parametrize("kind", ["file", "nothing", "", "hard link", "pipe"])
@pytest.mark.parametrize("planted", ["the name", "the temporary name"])
def test_what_is_renamed_into_place_takes_the_place_of_anything(
    root: Path, outside: Path, kind: str, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = descriptors.create_file

    def plant_first(path: Path, directory: int, name: str) -> int:
        if planted == "the temporary name":  # it contains the process id, so it cannot be predicted
            in_the_way(root / name, kind, outside)
        return create(path, directory, name)

    monkeypatch.setattr("pipeline.system.files.create_file", plant_first)
    if planted == "the name":
        in_the_way(root / "x", kind, outside)
    write_whole(root / "x", "mine")
    assert os.listdir(root) == ["x"]  # noqa: PTH208
    assert not (root / "x").is_symlink()
    assert (root / "x").read_text() == "mine"
    assert (outside / "file").read_text() == "another's"


def test_files_follow_a_directory_that_is_renamed_and_that_is_noticed(
    root: Path, tmp_path: Path
) -> None:
    check_held(root)
    with replaced(root / "a" / "x") as file:
        (tmp_path / "real").rename(tmp_path / "new")
        file.write(b"1")
    write_whole(root / "y", "2")
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "y"]  # noqa: PTH208
    with pytest.raises(OutputError, match="moved, replaced or deleted"):
        check_held(root)
    (tmp_path / "real").mkdir()
    with pytest.raises(OutputError, match="moved, replaced or deleted"):
        check_held(root)
    (tmp_path / "real").rmdir()
    (tmp_path / "new").rename(tmp_path / "real")
    check_held(root)


def test_a_directory_that_was_deleted_is_not_made_again(root: Path, tmp_path: Path) -> None:
    (tmp_path / "real").rmdir()
    for name in ("x", "a/x"):
        with pytest.raises(OutputError, match="was deleted during the run"):
            write_whole(root / name, "x")
    assert not (tmp_path / "real").exists()


def test_a_file_that_lost_its_name(root: Path) -> None:
    descriptor = open_file(root / "x", os.O_RDWR | os.O_CREAT)
    check_named(root / "x", descriptor)
    write_whole(root / "x", "")
    with pytest.raises(OutputError, match="moved, replaced or deleted"):
        check_named(root / "x", descriptor)
    os.close(descriptor)


def test_a_file_that_goes_before_it_is_committed(root: Path) -> None:
    folder = OutputFolder(root)
    folder.write("a/x", b"1")
    folder.write("a/y", b"1")
    folder.remove("a/y")
    folder.sync()
    (root / "a" / "x").unlink()  # when it is committed it is the user's
    folder.sync()
    folder.write("a/x", b"1")
    (root / "a").rename(root / "b")
    with pytest.raises(OutputError, match="before its input was committed"):
        folder.sync()
