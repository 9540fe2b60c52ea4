from __future__ import annotations

import pytest

from runners.plan import name_clashes


@pytest.mark.parametrize(
    ("ids", "clashes"),
    [
        pytest.param(["a/x.jpg", "b/x.jpg", "x.jpg", "x.png"], [], id="none"),
        pytest.param(["a.jpg", "A.JPG"], ["a.jpg, A.JPG"], id="case"),
        pytest.param(["x.png", "x.png.jpg/y.png"], ["x.png, x.png.jpg/y.png"], id="folder"),
    ],
)
def test_name_clashes(ids: list[str], clashes: list[str]) -> None:
    assert list(name_clashes(ids)) == clashes
