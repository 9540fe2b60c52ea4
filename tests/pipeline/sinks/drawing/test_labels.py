"""The labels of instances: their text and their places."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.sinks.drawing import labels
from pipeline.sinks.drawing.colors import instance_colors
from pipeline.sinks.drawing.labels import instance_labels, label_text
from pipeline.sinks.drawing.placement import place_labels
from pipeline.testing import make_predictions


def overlap(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The area that each of ``a`` shares with each of ``b``."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clip(0).prod(axis=2)  # type: ignore[no-any-return]


@pytest.mark.parametrize("n", [1, 60, 400])
def test_labels_of_a_crowd_leave_the_objects_visible(n: int) -> None:
    rng = np.random.default_rng(n)
    low, sides = rng.uniform(0, [600, 440], (n, 2)), rng.uniform(6, 40, (n, 2))
    objects = np.hstack([low, low + sides]).astype(np.float32)
    places = place_labels(objects.tolist(), [(80, 17)] * n, objects, (480, 640))
    placed = np.array([place for place in places if place is not None])
    assert n == 1 or 10 < len(placed) < n
    assert n > 60 or places[0] is not None, "the first label is the most important"
    assert (placed[:, :2] >= 0).all()
    assert (placed[:, 2:] <= [640, 480]).all()
    assert overlap(placed, placed).sum() == len(placed) * 80 * 17, "labels overlap"
    hidden = overlap(objects, placed).sum(axis=1) / sides.prod(axis=1)
    assert hidden.max() <= 0.301


def test_a_label_never_covers_its_own_small_object() -> None:
    small = np.array([[2, 2, 12, 12]], np.float32)
    (place,) = place_labels(small.tolist(), [(80, 20)], small, (300, 500))
    assert place is not None
    assert overlap(np.array([place]), small).sum() == 0
    assert place_labels(small.tolist(), [(80, 20)], small, (20, 80)) == [None], "no room beside it"


def test_labels_with_low_scores_are_left_out_first() -> None:
    boxes = np.array([[100, 100, 180, 180]] * 40, np.float32)
    p = make_predictions(boxes=boxes, scores=np.linspace(0.1, 0.9, 40), size=(300, 500))
    texts = [label.text for label in instance_labels(p, boxes, instance_colors(p, "class"))]
    assert texts[0].endswith("0.90")
    assert texts[-1].endswith("0.10")
    places = place_labels(boxes.tolist(), [(80, 17)] * 40, boxes, (300, 500))
    n_placed = sum(place is not None for place in places)
    assert 4 <= n_placed <= 12
    assert None not in places[:n_placed]


@pytest.mark.parametrize(
    ("name", "score", "track", "unicode", "expected"),
    [
        pytest.param("person", 0.934, None, True, "person 0.93", id="plain"),
        pytest.param("person", 0.5, 3, True, "#3 person 0.50", id="track"),
        pytest.param("person", 0.5, -1, True, "person 0.50", id="unconfirmed track"),
        pytest.param("person", 1.0, None, True, "person 0.99+", id="1"),
        pytest.param("person", 0.995, None, True, "person 0.99+", id="rounds to 1.00"),
        pytest.param("person", 0.9949, None, True, "person 0.99", id="rounds to 0.99"),
        pytest.param("sky", None, None, True, "sky", id="no score"),
        pytest.param("a\nb", 0.5, None, True, "a b 0.50", id="newline"),
        pytest.param("x" * 40, 0.5, None, True, "x" * 30 + ".. 0.50", id="long"),
        pytest.param("Fußgänger", 0.5, None, True, "Fußgänger 0.50", id="OpenCV 5"),
        pytest.param("vélo", 0.5, None, False, "velo 0.50", id="OpenCV 4 accent"),
        pytest.param("猫", 0.5, None, False, "class 7 0.50", id="OpenCV 4 other script"),
    ],
)
def test_label_text(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    score: float | None,
    track: int | None,
    unicode: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(labels, "_CV2_DRAWS_UNICODE", unicode)
    assert label_text(name, 7, score, track) == expected


@pytest.mark.parametrize(
    ("template", "score", "track", "expected"),
    [
        ("{score} {name}", 0.5, None, "0.50 a {score}"),
        ("{name} ({class_id})", None, 3, "a {score} (7)"),
        ("{track}", 0.5, -1, ""),
        ("object {track} {score}", None, 3, "object #3"),
    ],
)
def test_templates(template: str, score: float | None, track: int | None, expected: str) -> None:
    assert label_text("a {score}", 7, score, track, template) == expected


def test_empty_labels_are_not_drawn() -> None:
    p = make_predictions(2, track_ids=np.array([4, -1]))
    assert [label.text for label in instance_labels(p, p.boxes, [(0, 0, 0)] * 2, "{track}")] == [
        "#4"
    ]


ODD_NAMES = [
    "👩\u200d🚀" * 40, "日本語", "العربية", "नमस्ते", "a" * 300, "Z" + "\u0301" * 300, "\ud800",
    "\udcff" * 40, "a\0b", "\u202eabc", "\u200d", "\U0010ffff", "\ufffe", "%s%n",
]  # fmt: skip


def test_names_of_any_script_are_drawn() -> None:
    """Runs in a separate process: half of a surrogate pair makes OpenCV end it."""
    code = f"""
import numpy as np
from pipeline.sinks.drawing import Painter
from pipeline.testing import make_predictions
for name in {ODD_NAMES!a}:
    predictions = make_predictions(2, class_names=(name,))
    image = np.zeros((*predictions.image_size, 3), np.uint8)
    assert Painter().draw(image, predictions).any(), ascii(name)
"""
    root = Path(labels.__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
