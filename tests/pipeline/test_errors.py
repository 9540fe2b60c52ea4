from __future__ import annotations

import inspect
import re

import pytest

from pipeline import errors
from pipeline.errors import (
    AssetError,
    ConfigError,
    DecodeError,
    JobError,
    ModelNotFoundError,
    PipelineError,
    StageError,
    did_you_mean,
    printable,
)


def classes():
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: c for name, c in found if c.__module__ == errors.__name__}


def drawn_tree():
    """Name -> parent's name, as the module's docstring draws it."""
    parents, path = {}, []
    for line in re.search(r"```\n(.*?)```", errors.__doc__, re.DOTALL)[1].splitlines():
        branch, name = re.match(r"([│├└─ ]*)(\w+)", line).groups()
        depth = len(branch) // 4
        path = [*path[:depth], name]
        parents[name] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_is_as_drawn():
    assert drawn_tree() == {name: c.__base__.__name__ for name, c in classes().items()}


def test_every_class_says_when_it_is_raised():
    assert all(c.__doc__ for c in classes().values())


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("PipelineError", 1),
        ("ConfigError", 2),
        ("DeviceError", 2),
        ("OutputLockedError", 11),
        ("StoreError", 1),
        ("ModelNotFoundError", 1),
        ("OutputError", 1),
        ("RootGoneError", 1),
        ("AssetError", 1),
        ("JobError", 1),
    ],
)
def test_exit_status(name, status):
    assert classes()[name].exit_status == status


def test_job_error_carries_its_status():
    error = JobError("3 of 9 inputs failed", exit_status=3)
    assert (error.exit_status, str(error)) == (3, "3 of 9 inputs failed")


def test_config_error_collects_problems():
    error = ConfigError("one is wrong", "two is wrong")
    assert error.problems == ("one is wrong", "two is wrong")
    assert str(error) == "one is wrong; two is wrong"


def test_model_not_found():
    error = ModelNotFoundError("crack_fnder", ["crack_finder", "shapes"], "/models")
    assert (error.tag, error.known) == ("crack_fnder", ("crack_finder", "shapes"))
    assert str(error) == "no model 'crack_fnder' in /models; did you mean 'crack_finder'?"


@pytest.mark.parametrize(
    ("error", "asset_id", "step"),
    [
        pytest.param(DecodeError("no image"), "", "decode", id="where it must have been"),
        pytest.param(StageError("x", asset_id="a.jpg", step="nms"), "a.jpg", "nms", id="told"),
        pytest.param(StageError("x"), "", "", id="not known yet"),
    ],
)
def test_asset_errors_know_where(error, asset_id, step):
    assert isinstance(error, AssetError)
    assert isinstance(error, PipelineError)
    assert (error.asset_id, error.step) == (asset_id, step)


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        pytest.param("persn", ["dog", "person"], "; did you mean 'person'?", id="one near"),
        pytest.param("bat", ["bath", "cat"], "; did you mean 'bath' or 'cat'?", id="two near"),
        pytest.param("xyz", ["dog", "cat"], "; known: dog, cat", id="none near"),
        pytest.param("xyz", [], "", id="nothing known"),
        pytest.param("xyz", iter(["dog"]), "; known: dog", id="an iterator"),
        pytest.param(
            "xyz", [f"a{i}" for i in range(21)],
            "; known: " + ", ".join(f"a{i}" for i in range(20)) + ", ...", id="too many to list",
        ),
    ],
)  # fmt: skip
def test_did_you_mean(word, known, expected):
    assert did_you_mean(word, known) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ünï ö.jpg", "ünï ö.jpg", id="text stays"),
        pytest.param("a\nb\tc", "a\\nb\\tc", id="on one line"),
        pytest.param("\x1b[31mred", "\\x1b[31mred", id="no terminal codes"),
        pytest.param(b"\xff.jpg".decode(errors="surrogateescape"), "\\udcff.jpg", id="no text"),
        pytest.param("x" * 5000, "x" * 4000, id="not endless"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
    assert printable(text).encode()  # can be written anywhere
