"""The exact versions in pyproject.toml: complete, and those of this environment."""

import sys
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
UV = PYPROJECT["tool"]["uv"]
PINS = [Requirement(line) for line in UV["constraint-dependencies"]]
BUILD_PINS = [Requirement(line) for line in UV["build-constraint-dependencies"]]
IN_TREE = {"detectron2", "hydra-gpu-launcher"}  # their versions are those in packaging/


def installed(name):
    found = distributions(name=name)
    # setuptools puts its own copies of others onto the path when it is imported
    return next((item for item in found if "_vendor" not in str(item.locate_file(""))), None)


def applies(requirement, extras=()):
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def test_every_pin_is_exact():
    assert [pin for pin in PINS + BUILD_PINS if not str(pin.specifier).startswith("==")] == []


def test_installed_versions_are_the_pinned_ones():
    pairs = [(pin, installed(pin.name)) for pin in PINS if applies(pin)]
    wrong = [
        f"{found.version} is installed, not {pin}"
        for pin, found in pairs
        if found and not pin.specifier.contains(found.version, prereleases=True)
    ]
    assert wrong == [], "this is not the pinned environment: run `uv sync`"


def test_everything_that_the_project_pulls_in_is_pinned():
    named = PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
    todo = [Requirement(line) for line in named]
    seen = set()
    while todo:
        requirement = todo.pop()
        found = installed(requirement.name)
        if found is None or (found.name, *requirement.extras) in seen:
            continue
        seen.add((found.name, *requirement.extras))
        below = [Requirement(line) for line in found.requires or []]
        todo += [item for item in below if applies(item, requirement.extras)]
    pinned = {canonicalize_name(pin.name) for pin in PINS if applies(pin)}
    assert {canonicalize_name(name) for name, *_ in seen} - pinned == IN_TREE
