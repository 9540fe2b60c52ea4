"""Each architecture with random weights, loaded once, and DefaultPredictor's results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from random_model import ARCHITECTURES, PHOTOS, RandomModel, photo, reference


@pytest.fixture(scope="session", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Iterator[RandomModel]:
    # more regions test nothing else, and take long with these two
    opts = {
        "mask_rcnn_c4": ("MODEL.RPN.POST_NMS_TOPK_TEST", 40),
        "keypoint_rcnn": ("TEST.DETECTIONS_PER_IMAGE", 10),
    }.get(request.param, ())
    # larger random weights cause equal scores, whose order depends on the last digit
    model = RandomModel(ARCHITECTURES[request.param], opts, spread=3, name=request.param)
    yield model
    model.forget()


@pytest.fixture(scope="session")
def expected(model: RandomModel) -> list[dict[str, Any]]:
    return reference(model, [photo(name) for name in PHOTOS])
