"""One spelling per path, and the shortest names that distinguish inputs."""

from __future__ import annotations

from itertools import permutations

import pytest

from pipeline.sources.paths import Origin, distinct_tails


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/a/x"], ["x"]),
        (["/a/x", "/b/y"], ["x", "y"]),
        (["/a/day", "/b/day"], ["a/day", "b/day"]),
        (["/a/day", "/b/day", "/c/night"], ["a/day", "b/day", "night"]),
        (["/p/a/day", "/p/b/day", "/q/a"], ["a/day", "b/day", "q/a"]),  # none in another
        (["/x", "/x/x"], ["x", "x/x"]),
        (["/a", "/a/b"], ["a", "b"]),
        (["/", "/a"], ["_", "a"]),
        (["-", "/a/-"], ["-", "a/-"]),
    ],
)
def test_distinct_tails(paths: list[str], expected: list[str]) -> None:
    for order in permutations(range(len(paths))):
        tails = distinct_tails([paths[i] for i in order])
        assert [tails[path] for path in paths] == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Origin("/a"), Origin("/a"), True),
        (Origin("/a"), Origin("/b"), False),
        (Origin("/a", "*.png"), Origin("/a"), False),
        (Origin("/a", "*.png"), Origin("/a", "*.png"), True),
        (Origin("/l.txt", cwd="/x"), Origin("/l.txt"), True),
        (Origin("/l.txt", cwd="/x"), Origin("/l.txt", cwd="/y"), False),
    ],
)
def test_origins(one: Origin, other: Origin, same: bool) -> None:
    assert one.matches(other) == other.matches(one) == same
    assert Origin(**one.as_json()) == one


def test_origins_in_words() -> None:
    assert str(Origin("/a", "**/*.png")) == "/a/**/*.png"
    assert str(Origin("-", cwd="/x")) == "- (with paths relative to /x)"
