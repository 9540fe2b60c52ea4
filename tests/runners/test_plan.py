from __future__ import annotations

import pytest

from runners.plan import name_collisions


@pytest.mark.parametrize(
    ("ids", "collisions"),
    [
        pytest.param(["a/x.jpg", "b/x.jpg", "x.jpg", "x.png"], [], id="none"),
        pytest.param(["a.jpg", "A.JPG"], ["a.jpg, A.JPG"], id="case"),
        pytest.param(["x.png", "x.png.jpg/y.png"], ["x.png, x.png.jpg/y.png"], id="folder"),
    ],
)
def test_name_collisions(ids: list[str], collisions: list[str]) -> None:
    assert list(name_collisions(ids)) == collisions
