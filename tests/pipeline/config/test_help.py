"""``--help``: every key of every option has a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.help import help_text, key_sentences, option_sentences, usage
from pipeline.config.loader import Loader
from pipeline.config.schema import GROUPS, types
from pipeline.errors import ConfigError

CONF = Path(__file__).resolve().parents[3] / "conf"
OPTIONS = sorted(
    path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml")
)
TEXT = """\
# python run.py x=y
# more about the file
a: 1  # first
b:
  # above, and
  c: "# no comment"  # behind
  d: null
e: {f: 1, g: '#'}  # mapping
h: 3#4  # a number sign
"""


@pytest.fixture(scope="module")
def loader() -> Loader:
    return Loader(CONF)


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        elif not name.startswith("_") and name != "defaults":
            yield f"{prefix}{name}"


def test_comments_of_a_file() -> None:
    assert key_sentences(TEXT) == {
        "a": "first", "b.c": "above, and behind", "e": "mapping", "h": "a number sign",
    }  # fmt: skip
    assert usage(TEXT) == ["python run.py x=y", "more about the file"]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_key_of_an_option_has_a_sentence(loader: Loader, option: str) -> None:
    group, name = option.split("/")
    keys = set(leaves(yaml.safe_load((CONF / f"{option}.yaml").read_text())))
    known = option_sentences(loader, group, [name])
    assert keys - known.keys() == set()
    assert all(len(known[key]) > 3 for key in keys)


def test_every_top_level_key_has_a_sentence(loader: Loader) -> None:
    known = key_sentences((CONF / "config.yaml").read_text())
    model = option_sentences(loader, "model", [])
    for key in types():
        if key.startswith("model."):
            assert model[key.removeprefix("model.")]
        elif key not in GROUPS and key != "decode":
            assert known[key]


def test_the_whole_help_fits_on_a_terminal(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_text(loader, "config", [])
    assert "  runner.on_error=skip" in text
    assert "  seed=0 " in text
    assert "  stage.min_score.threshold=0.5" in text
    commands = ("python run.py", "variants", "R_50")
    wide = [line for line in text.splitlines() if len(line) > 80]
    assert [line for line in wide if not line.strip().startswith(commands)] == []


def test_help_of_group_options(loader: Loader) -> None:
    text = help_text(loader, "config", ["runner=watch", "stage=[nms,top_k]"])
    assert text.startswith("stage=[nms,top_k]\n  python run.py input=dir/ ")
    assert "\n\nrunner=watch\n  python run.py runner=watch " in text
    assert "runner.settle_s=5" in text
    assert "stage.nms.iou_threshold=0.5" in text
    for other in ("stage.min_score", "decode.jpeg", "runner.on_error", "sink."):
        assert other not in text


def test_help_of_an_option_that_does_not_exist(loader: Loader) -> None:
    with pytest.raises(ConfigError, match="did you mean 'watch'"):
        help_text(loader, "config", ["runner=wach"])
