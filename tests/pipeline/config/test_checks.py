"""An output that is the input, or holds a user's own files, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.checks import refuse_foreign
from pipeline.errors import ConfigError


@pytest.mark.parametrize("name", ["overlay", "sem_seg", "panoptic"])
def test_the_input_is_where_results_go(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "sub").mkdir(parents=True)
    (tmp_path / "run.json").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for given in (name, f"{name}/sub", f"link/{name}", f"{name}/*.jpg"):
        with pytest.raises(ConfigError, match="lies where results go"):
            refuse_foreign(tmp_path, str(tmp_path / given))
    refuse_foreign(tmp_path, str(tmp_path / "photos"))


def test_the_output_is_a_link_to_the_input(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="output is the input"):
        refuse_foreign(tmp_path / "link", str(tmp_path))


@pytest.mark.parametrize("name", ["overlay", "panoptic", "coco.json", "panoptic.json"])
def test_what_no_run_wrote(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name / "mine.jpg" if "." not in name else tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    refuse_foreign(tmp_path, None)
    mine.touch()
    with pytest.raises(ConfigError, match=f"holds a (folder )?{name} that no run"):
        refuse_foreign(tmp_path, None)
    (tmp_path / "ledger.sqlite").touch()
    refuse_foreign(tmp_path, None)


def test_a_user_that_does_not_exist(tmp_path: Path) -> None:
    refuse_foreign(tmp_path, "~nobody-of-this-name/photos")
