import numpy as np
import pytest
import torch
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_predictor

from pipeline.errors import ConfigError, DeviceError
from pipeline.store import ModelStore, get_runnable, save_model

pytestmark = pytest.mark.detectron2

BATCHABLE = {"__call__": {"batchable": True}}


@pytest.fixture(scope="module", params=["BGR", "RGB"])
def predictor(request):
    return tiny_predictor(INPUT__FORMAT=request.param)


@pytest.fixture(scope="module")
def make(predictor, tmp_path_factory):
    store = ModelStore(tmp_path_factory.mktemp("store"))

    made = {}  # none of them is changed

    def make(kind, signatures=None):
        if (key := (kind, str(signatures))) not in made:
            made[key] = save(kind, signatures)
        return made[key]

    def save(kind, signatures):
        model, config = (
            (predictor, None) if kind == "predictor" else (predictor.model, predictor.cfg)
        )
        saved = save_model(
            kind, model, config, signatures=signatures, class_names=CLASS_NAMES, store=store
        )
        return get_runnable(saved.tag, store=store)("cpu")

    return make


def chw(image):
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def in_format(predictor, image):
    return image if predictor.input_format == "BGR" else image[:, :, ::-1]


@pytest.mark.parametrize(
    "form",
    [
        lambda image: image,
        chw,
        lambda image: chw(image).float(),
        lambda image: torch.from_numpy(image),
        lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)),
        lambda image: image.astype(np.float32),
    ],
    ids=["array", "tensor", "float tensor", "HWC tensor", "CHW array", "float array"],
)
def test_predictor_accepts_every_form_of_image(make, predictor, form):
    image = picture()
    assert_same(make("predictor")(form(image)), predictor(image))


def test_module_reads_arrays_as_bgr_and_passes_tensors(make, predictor):
    image = picture()
    tensor = chw(in_format(predictor, image)).float()
    height, width = image.shape[:2]
    with torch.no_grad():
        want = predictor.model([{"image": tensor, "height": height, "width": width}])
    runnable = make("module")
    for given in (image, tensor, {"image": tensor, "height": height, "width": width}):
        got = runnable(given)
        assert len(got) == 1
        assert_same(got[0], want[0])
    assert len(runnable(image, image)) == 2


@pytest.mark.parametrize("kind", ["predictor", "module"])
def test_batches(make, kind):
    images = [picture(seed=i) for i in range(3)]
    one, many = make(kind), make(kind, BATCHABLE)
    want = [one(image) if kind == "predictor" else one(image)[0] for image in images]
    for given in (images, tuple(images), np.stack(images)):
        got = many(given)
        assert len(got) == 3
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)
    mixed = many([images[0], picture(50, 90), images[1]])
    assert_same(mixed[2], want[1])


@pytest.mark.parametrize("dim", [3, [3, 0]])
def test_batch_dim(make, predictor, dim):
    images = [picture(seed=i) for i in range(2)]
    many = make("predictor", {"__call__": {"batchable": True, "batch_dim": dim}})
    got = many(np.stack(images, axis=3))
    assert_same(got[1], predictor(images[1]))


def test_any_method(make, predictor):
    runnable = make("module", {"inference": {}, "preprocess_image": {}})
    image = picture()
    tensor = chw(in_format(predictor, image)).float()
    with torch.no_grad():
        want = predictor.model.inference([{"image": tensor}], do_postprocess=True)
        assert_same(runnable.inference(tensor)[0], want[0])
        raw = runnable.inference(tensor, do_postprocess=False)[0]
        prepared = predictor.model.preprocess_image([{"image": tensor}]).tensor
    assert raw.pred_masks.shape[1] == 1
    assert torch.equal(runnable.preprocess_image(tensor).tensor, prepared)
    with pytest.raises(TypeError):
        runnable(image)  # not a signature


def test_no_gradients_and_no_global_state(make):
    default = torch.get_default_dtype(), torch.get_default_device()
    result = make("predictor")(picture())["instances"]
    assert result.scores.is_inference()
    assert torch.is_grad_enabled()
    assert (torch.get_default_dtype(), torch.get_default_device()) == default


@pytest.mark.parametrize(
    ("signatures", "arguments", "message"),
    [
        (None, (), "expected an image"),
        (None, ([picture()],), "accepts one image per call"),
        (None, (np.zeros((2, 8, 8, 3), np.uint8),), "accepts one image per call"),
        (BATCHABLE, (picture(),), "is batchable"),
        (None, (np.zeros((8, 8), np.uint8),), r"got the shape \(8, 8\)"),
        (None, (np.zeros((8, 8, 4), np.uint8),), r"got the shape \(8, 8, 4\)"),
    ],
)
def test_not_an_image(make, signatures, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make("predictor", signatures)(*arguments)


def test_device(make):
    with pytest.raises(DeviceError):
        type(make("predictor"))("cuda:99")
    assert type(make("predictor"))().device_id in ("cpu", "cuda:0")
