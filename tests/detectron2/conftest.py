"""Each architecture with random weights once, and what DefaultPredictor finds with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from random_model import ARCHITECTURES, PHOTOS, RandomModel, photo, reference


@pytest.fixture(scope="session", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Iterator[RandomModel]:
    # more regions show nothing more, and take these two long
    opts = {
        "mask_rcnn_c4": ("MODEL.RPN.POST_NMS_TOPK_TEST", 40),
        "keypoint_rcnn": ("TEST.DETECTIONS_PER_IMAGE", 10),
    }.get(request.param, ())
    # larger random weights make equal scores, whose order hangs on the last digit
    model = RandomModel(ARCHITECTURES[request.param], opts, spread=3, name=request.param)
    yield model
    model.forget()


@pytest.fixture(scope="session")
def expected(model: RandomModel) -> list[dict[str, Any]]:
    return reference(model, [photo(name) for name in PHOTOS])
