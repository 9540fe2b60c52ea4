from __future__ import annotations

import numpy as np
import pytest

import pipeline.testing
from pipeline.masks import InstanceMasks
from pipeline.testing import make_frame, make_predictions, make_result


def test_exports_what_it_says():
    assert set(pipeline.testing.__all__) <= set(vars(pipeline.testing))
    assert pipeline.testing.FakeRunnable.__module__ == "pipeline.runnables.fake"


def test_frame():
    frame = make_frame(10, 20, asset_id="b/c.png", index=3, time_s=0.5)
    assert (frame.size, frame.asset_id, frame.index, frame.time_s) == ((10, 20), "b/c.png", 3, 0.5)
    np.testing.assert_array_equal(frame.image, make_frame(10, 20).image)
    assert (frame.image != make_frame(10, 20, seed=1).image).any()


@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        pytest.param({}, 3, id="default"),
        pytest.param({"n": 0}, 0, id="none"),
        pytest.param({"n": 0, "masks": True, "keypoints": 2}, 0, id="none of anything"),
        pytest.param({"n": 50}, 50, id="many"),
        pytest.param({"scores": [0.5, 0.4]}, 2, id="as many as scores"),
        pytest.param({"classes": [0, 0, 0, 0]}, 4, id="as many as classes"),
        pytest.param({"boxes": [[0, 0, 1, 1]]}, 1, id="as many as boxes"),
        pytest.param({"boxes": [], "masks": True}, 0, id="no boxes"),
        pytest.param({"size": (1, 1), "masks": True, "keypoints": 1}, 3, id="smallest frame"),
        pytest.param({"class_names": ("a",)}, 3, id="one class"),
    ],
)
def test_predictions(arguments, n):
    p = make_predictions(**arguments)
    height, width = p.image_size
    assert len(p) == n
    assert (p.boxes[:, :2] >= 0).all()
    assert (p.boxes[:, 2:] <= [width, height]).all()
    assert (p.boxes[:, 2:] > p.boxes[:, :2]).all()
    assert (p.masks is not None) == bool(arguments.get("masks"))
    again = make_predictions(**arguments)
    np.testing.assert_array_equal(p.boxes, again.boxes)


def test_defaults_that_tests_may_rely_on():
    p = make_predictions(5)
    np.testing.assert_allclose(p.scores, [0.9, 0.7, 0.5, 0.3, 0.1], rtol=1e-6)
    assert p.classes.tolist() == [0, 1, 2, 0, 1]
    assert p.class_names == ("cat", "dog", "bird")


def test_masks_fill_their_boxes():
    p = make_predictions(4, masks=True)
    np.testing.assert_array_equal(p.area_px, p.replace(masks=None).area_px)


def test_masks_of_boxes_off_the_pixels_and_off_the_frame():
    p = make_predictions(boxes=[[-3, -3, 2.4, 3.6], [60, 40, 99, 99]], masks=True)
    assert p.masks.area_px.tolist() == [2 * 4, 4 * 8]


def test_masks_of_ones_own():
    masks = InstanceMasks.from_dense(np.ones((2, 48, 64), bool))
    assert make_predictions(2, masks=masks).masks is masks


def test_keypoints_lie_in_their_boxes():
    p = make_predictions(3, keypoints=17)
    assert p.keypoints.shape == (3, 17, 3)
    xy = p.keypoints[..., :2]
    assert ((xy >= p.boxes[:, None, :2]) & (xy <= p.boxes[:, None, 2:])).all()


def test_result():
    result = make_result(
        size=(10, 20), asset_id="v.mp4", index=2, time_s=0.1, track_ids=[1, 2, 3], seed=4
    )
    assert result.frame.size == result.predictions.image_size == (10, 20)
    assert (result.frame.asset_id, result.frame.index) == ("v.mp4", 2)
    assert result.predictions.track_ids.tolist() == [1, 2, 3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"Predictions.boxes: expected shape \(2, 4\)"):
        make_result(boxes=[[0, 0, 1, 1]], scores=[0.5, 0.4], classes=[0, 0])
