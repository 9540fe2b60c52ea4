"""An output that is the input, or that the input is in, is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batches import job_of

from pipeline.config.checks import check_parts
from pipeline.errors import ConfigError
from pipeline.sources.paths import refuse_input_in

OUTPUTS = ("overlay/", "sem_seg/", "coco.json")


@pytest.mark.parametrize("name", ["overlay", "sem_seg"])
def test_the_input_is_where_results_go(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "sub").mkdir(parents=True)
    (tmp_path / "run.json").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for given in (name, f"{name}/sub", f"link/{name}", f"{name}/*.jpg"):
        with pytest.raises(ConfigError, match="where results are written and removed"):
            refuse_input_in(tmp_path, str(tmp_path / given), OUTPUTS)
    refuse_input_in(tmp_path, str(tmp_path / "photos"), OUTPUTS)


def test_the_output_is_a_link_to_the_input(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="output is the input"):
        refuse_input_in(tmp_path / "link", str(tmp_path))


def test_a_user_that_does_not_exist(tmp_path: Path) -> None:
    refuse_input_in(tmp_path, "~nobody-of-this-name/photos")


@pytest.mark.parametrize("outputs", [("../x",), ("/tmp/x",), ("",), ("a//b",), "notes"])
def test_outputs_outside_the_output(tmp_path: Path, outputs: Any) -> None:
    job = job_of(f"input={tmp_path}", f"output={tmp_path}/out")
    job.aggregates["coco"].outputs = outputs
    with pytest.raises(ConfigError, match=r"sink\.coco: expected outputs to be a tuple of names"):
        check_parts(job)


def test_a_sink_without_outputs(tmp_path: Path) -> None:
    class Old:
        def build(self, journal: Path, categories: Any) -> None: ...

    job = job_of(f"input={tmp_path}", f"output={tmp_path}/out")
    old: Any = {"old": Old()}
    with pytest.raises(ConfigError, match=r"sink\.old: Old is not a sink: it has no .*outputs"):
        check_parts(replace(job, sinks=old | job.sinks))
