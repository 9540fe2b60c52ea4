"""Several inputs as one: ids, order, files that two of them hold."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
from batches import job_of

from pipeline.errors import ConfigError
from pipeline.sources import Several
from pipeline.sources.auto import auto

PNG = cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))[1].tobytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "mon/a.png", "mon/sub/b.png", "tue/a.png", "tue/notes.odt", "old/tue/a.png", "a.png",
        "b.png", "[x,y].png", "mon/mon/c.png",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + name.encode())
    (tmp_path / "l1.txt").write_text("tue/a.png\nmon/a.png\n")
    (tmp_path / "l2.txt").write_text(f"{tmp_path}/tue/a.png\nb.png\n")
    (tmp_path / "to_mon").symlink_to("mon")
    (tmp_path / "link.png").symlink_to("a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def several(*inputs: str) -> Several:
    return Several([auto(each) for each in inputs])


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a.png", "b.png"], ["a.png", "b.png"]),
        (["b.png", "a.png"], ["b.png", "a.png"]),
        (["a.png", "tue/a.png"], ["{here}/a.png", "tue/a.png"]),
        (["mon", "tue"], ["mon/a.png", "mon/mon/c.png", "mon/sub/b.png", "tue/a.png"]),
        (["tue", "old/tue"], ["{here}/tue/a.png", "old/tue/a.png"]),
        (["tue", "a.png"], ["tue/a.png", "a.png"]),
        (["mon/*.png", "tue/*.png"], ["mon/a.png", "tue/a.png"]),
        (["mon/a*", "mon/sub/*"], ["mon/a.png", "sub/b.png"]),
        (["*.png", "mon"], None),
        (["mon", "mon/sub"], ["mon/a.png", "mon/mon/c.png", "mon/sub/b.png"]),
        (["mon/sub", "mon"], ["sub/b.png", "mon/a.png", "mon/mon/c.png"]),
        (["mon", "mon/mon"], None),
        (["mon/a.png", "to_mon/a.png"], ["a.png"]),
        (["to_mon", "mon"], ["mon/a.png", "mon/mon/c.png", "mon/sub/b.png"]),
        (["a.png", "./a.png"], ["a.png"]),
        (["a.png", "link.png"], ["a.png", "link.png"]),
        (["l1.txt", "l2.txt"], ["l1.txt/tue/a.png", "l1.txt/mon/a.png", "l2.txt/b.png"]),
        (["l1.txt", "mon/sub"], ["l1.txt/tue/a.png", "l1.txt/mon/a.png", "sub/b.png"]),
    ],
)
def test_ids(here: Path, inputs: list[str], expected: list[str] | None) -> None:
    source = several(*inputs)
    source.check()
    ids = [asset.id for asset in source]
    if expected is not None:
        assert ids == [name.format(here=here.name) for name in expected]
    assert len(ids) == len(set(ids)) == len(source)
    files = [asset.path.parent.resolve() / asset.path.name for asset in source]
    assert len(set(files)) == len(files)
    for asset in source:  # an id leads to its file
        assert f"/{asset.path.read_bytes()[len(PNG) :].decode()}".endswith(
            ("/" + asset.id.rsplit("/", 1)[-1], "/a.png")
        )
    assert [asset.id for asset in source] == ids  # may be iterated again


def test_ids_do_not_depend_on_order_or_content(here: Path) -> None:
    ids = [
        {asset.path.resolve(): asset.id for asset in several(*inputs)}
        for inputs in permutations(["mon", "old/tue", "a.png", "b.png"])
    ]
    assert all(each == ids[0] for each in ids)
    (here / "mon/tue").mkdir()
    (here / "mon/tue/a.png").write_bytes(PNG)
    more = {asset.path.resolve(): asset.id for asset in several("mon", "old/tue", "a.png", "b.png")}
    assert ids[0].items() < more.items()


def test_what_is_skipped(here: Path) -> None:
    source = several("tue", "l1.txt", "l2.txt")
    assert [(entry.path, entry.reason) for entry in source.skipped()] == [
        ("tue/notes.odt", "not an image (.odt)"),
        ("l1.txt/tue/a.png", "listed twice"),
        (f"l2.txt/{str(here).lstrip('/')}/tue/a.png", "listed twice"),
    ]


def test_every_input_must_be_there(here: Path) -> None:
    with pytest.raises(ConfigError) as told:
        several("gone", "mon", "gone/*.png").check()
    assert len(told.value.problems) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[a.png,b.png]", ["a.png", "b.png"]),
        ("[ a.png , b.png ]", ["a.png", "b.png"]),
        ("[a.png]", ["a.png"]),
        ("[mon/*.png, 'tue']", ["mon/a.png", "tue/a.png"]),
        ("[[x,y].png]", ["[x,y].png"]),
        ("['[x,y].png',a.png]", ["[x,y].png", "a.png"]),
        ("[x,y].png", ["[x,y].png"]),
        ("[ab].png", ["a.png", "b.png"]),
        ("[tue,mon/sub,l2.txt]", None),
    ],
)
def test_the_command_line(here: Path, given: str, expected: list[str] | None) -> None:
    source = job_of(f"input={given}", "output=out").source
    assert source is not None
    ids = [asset.id for asset in source]
    assert ids == (expected or ["tue/a.png", "sub/b.png", "l2.txt/b.png"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[]", "expected a file, directory, glob or list, got"),
        ("[a.png,]", None),
        ("[a.png,,b.png]", "input is missing"),
        ("[gone.png]", "no file or directory '.*/gone.png'"),
        ("[gone,also_gone]", "no file or directory '.*/gone'; .*'.*/also_gone'"),
        ("[a.png,data.json]", "cannot read .*data.json.: no such file"),
        ("[a.png,[b.png]]", None),
        ("[a.png,out]", "output is the input"),
        ("[a.png,out/sem_seg]", "where results are written"),
    ],
)
def test_lists_that_mean_nothing(here: Path, given: str, message: str | None) -> None:
    (here / "out/sem_seg").mkdir(parents=True)
    if message is None:
        assert job_of(f"input={given}", "output=out").source is not None
        return
    with pytest.raises(ConfigError, match=message):
        job_of(f"input={given}", "output=out")


def test_a_name_that_is_a_list(here: Path) -> None:
    for name in ("[a.png,b.png]", "[a.png]", "[a,b]"):
        (here / name).write_bytes(PNG)
        source = job_of(f"input={name}", "output=out").source
        assert source is not None
        assert [asset.id for asset in source] == [name]


def test_a_list_in_yaml(here: Path) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from pipeline.config.build import build_job

    with initialize_config_dir(str(Path(__file__).parents[3] / "conf"), version_base="1.3"):
        cfg = compose("config", ["model=mask_rcnn", "runnable=fake", "output=out"])
    (here / "2024").mkdir()
    (here / "2024/x.png").write_bytes(PNG)
    for given, expected in (
        ("[a.png, 2024]", ["a.png", "2024/x.png"]),
        ("2024", ["x.png"]),
        ("[2024]", ["x.png"]),
        ("{a: b}", None),
        ("[[a.png], b.png]", None),
        ("[null]", None),
    ):
        loaded = OmegaConf.merge(cfg, OmegaConf.create(f"input: {given}"))
        if expected is None:
            with pytest.raises(ConfigError, match="input: expected a string or a list of strings"):
                build_job(loaded)  # type: ignore[arg-type]
            continue
        source = build_job(loaded).source  # type: ignore[arg-type]
        assert source is not None
        assert [asset.id for asset in source] == expected
