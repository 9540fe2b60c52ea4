"""One import or the other: the tests of this directory run against d2run and against BentoML."""

import logging

import pytest
import torch
from bentoml_server import with_store
from tiny_model import picture, tiny_cfg


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """The config of a tiny Mask R-CNN, with a file of its weights and the class names of COCO."""
    from detectron2.modeling import build_model

    cfg = tiny_cfg(
        MODEL__ROI_HEADS__NUM_CLASSES=80,
        DATASETS__TEST=("coco_2017_val",),
        TEST__DETECTIONS_PER_IMAGE=10,
    )
    cfg.MODEL.WEIGHTS = str(tmp_path_factory.mktemp("weights") / "model_final.pth")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        module = build_model(cfg)
    with torch.no_grad():  # so that the scores differ
        module.roi_heads.box_predictor.cls_score.weight.mul_(10)
    torch.save({"model": module.state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


@pytest.fixture(scope="module")
def predictor(cfg):
    from detectron2.engine import DefaultPredictor

    return DefaultPredictor(cfg)


@pytest.fixture(scope="module")
def module(predictor):
    return predictor.model


@pytest.fixture(scope="module")
def image():
    return picture()


@pytest.fixture(scope="module")
def pixels(predictor, image):
    """The image as the input of a module, resized as the predictor does."""
    resized = predictor.aug.get_transform(image).apply_image(image)
    return torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))


@pytest.fixture(scope="module")
def expected(predictor, image):
    """What Detectron2 itself answers to ``predictor(image)``."""
    return predictor(image)


@pytest.fixture(scope="module")
def expected_of_module(module, pixels):
    """What Detectron2 itself answers to ``module([{"image": pixels}])``."""
    with torch.inference_mode():
        return module([{"image": pixels}])


@pytest.fixture(
    scope="module", params=["d2run", pytest.param("bentoml", marks=pytest.mark.nightly)]
)
def here(request, tmp_path_factory):
    """What a user has here: ``detectron``, ``models``, and which ``kind`` they are."""
    yield from with_store(request.param, tmp_path_factory.mktemp("home"))


@pytest.fixture
def theirs(here, tmp_path):
    """The same for BentoML, beside d2run."""
    if here.kind == "bentoml":
        yield here
    else:
        yield from with_store("bentoml", tmp_path)


@pytest.fixture(scope="module")
def detectron(here):
    """The module that a user imports: ``pipeline.store`` or ``bentoml.detectron``."""
    return here.detectron


@pytest.fixture(autouse=True)
def no_debug_logging(caplog):
    caplog.set_level(logging.WARNING)
