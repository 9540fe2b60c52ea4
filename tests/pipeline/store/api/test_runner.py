import asyncio
import sys
import threading
import time

import numpy as np
import pytest
import torch
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_predictor

from pipeline.errors import ConfigError, DeviceError
from pipeline.store import ModelOptions, ModelStore, export_model, get, import_model, save_model
from pipeline.store.api.running.local_runner import LocalRunner
from pipeline.store.api.running.runnable import StoredRunnable

pytestmark = [
    pytest.mark.detectron2,
]
CROPPED = {"partial_kwargs": {"inference": {"do_postprocess": False}}}
SIGNATURES = {
    "__call__": {},
    "inference": {},
    "forward": {"batchable": True, "batch_dim": 3},
    "preprocess_image": {"batchable": True, "batch_dim": [0, 1]},
}


@pytest.fixture(params=["local", "bentoml"])
def kind(request, monkeypatch):
    if request.param == "local":
        monkeypatch.setitem(sys.modules, "bentoml", None)  # its import fails
    else:  # here, because BentoML's import changes the filters of warnings
        pytest.importorskip("bentoml.legacy", reason="BentoML belongs to the group dev").Runnable  # noqa: B018
    return request.param


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def save(predictor, store):
    """Save the predictor, or its module, with other options; no test changes what it saved."""
    first = save_model(
        "first", predictor, class_names=CLASS_NAMES, signatures=SIGNATURES, store=store
    )

    def save(name, **more):
        return store.save(
            name,
            config_yaml=(first.path / "config.yaml").read_text(),
            weights=predictor.model.state_dict(),
            categories=first.categories,
            **({"signatures": SIGNATURES} | more),
        )

    return save


@pytest.fixture(scope="module")
def stored(save):
    return save("crack", kind="predictor").with_options(device_id="cpu")


@pytest.fixture(scope="module")
def module(save):
    return save("module", kind="module").with_options(device_id="cpu")


@pytest.fixture
def loads(monkeypatch):
    """The number of times that a runnable was loaded."""
    done = []
    init = StoredRunnable.__init__

    def slow(self, *args):
        done.append(threading.current_thread())
        time.sleep(0.05)
        init(self, *args)

    monkeypatch.setattr(StoredRunnable, "__init__", slow)
    return done


def test_results(kind, stored, predictor):
    runner = stored.to_runner()
    image = picture()
    want = predictor(image)
    assert_same(runner.run(image), want)
    assert_same(runner.__call__.run(image), want)
    assert_same(runner.inference.run(image)[0], want)
    assert_same(asyncio.run(runner.async_run(image)), want)
    assert_same(asyncio.run(runner.inference.async_run(image))[0], want)
    assert_same(runner.forward.run(np.stack([picture(seed=1), image], axis=3))[1], want)
    assert_same(stored.to_runnable()()(image), want)
    with pytest.raises(AttributeError, match="predict"):
        runner.predict  # noqa: B018


def test_the_only_method_is_the_default(kind, save, predictor):
    runner = save("only", signatures={"inference": {}}).to_runner()
    image = picture()
    assert_same(runner.run(image)[0], predictor(image))
    assert_same(asyncio.run(runner.async_run(image))[0], predictor(image))
    several = save("several", signatures={"inference": {}, "forward": {}}).to_runner()
    with pytest.raises(AttributeError):
        several.run(image)


def test_keyword_names(kind, stored, module, predictor):
    image = picture()
    want = predictor(image)
    runner = stored.to_runner()
    assert_same(runner.run(original_image=image), want)
    assert_same(runner.inference.run(batched_inputs=image, do_postprocess=True)[0], want)
    raw = runner.inference.run(image, None, False)[0]
    assert raw.pred_masks.shape[1] == 1

    height, width = image.shape[:2]
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    inputs = {"image": tensor, "height": height, "width": width}
    runner = module.to_runner()
    got = runner.run(batched_inputs=[inputs, inputs])
    assert len(got) == 2
    assert_same(got[1], runner.run(image)[0])


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "message"),
    [
        ("__call__", (2,), {}, "too many positional arguments; its arguments are original_image"),
        ("__call__", (), {"score": 2}, "unexpected keyword argument 'score'; its arguments are"),
        ("__call__", (), {"original_image": 2}, "multiple values for argument 'original_image'"),
        ("inference", (None, True, 2), {}, "batched_inputs, detected_instances, do_postprocess"),
        ("inference", (None,), {"detected_instances": None}, "multiple values"),
    ],
)
def test_surplus_arguments(kind, stored, method, args, kwargs, message):
    runner = stored.to_runner()
    with pytest.raises(ConfigError, match=message) as caught:
        getattr(runner, method).run(picture(), *args, **kwargs)
    assert str(caught.value).startswith(f"{method}: ")
    assert "\n" not in str(caught.value)


def test_concurrent_first_calls_load_the_model_once(kind, stored, predictor, loads):
    runner = stored.to_runner()
    assert loads == []
    images = [picture(seed=i % 4) for i in range(20)]

    async def all_at_once():
        return await asyncio.gather(*(runner.async_run(image) for image in images))

    got = asyncio.run(all_at_once())
    assert len(loads) == 1
    for seed in range(4):
        assert_same(got[16 + seed], predictor(images[seed]))
    threads = [threading.Thread(target=runner.run, args=(images[0],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_concurrent_first_calls_from_threads(kind, stored, loads):
    runner = stored.to_runner()
    threads = [threading.Thread(target=runner.run, args=(picture(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_init_local_and_destroy(kind, stored, loads):
    runner = stored.to_runner()
    runner.init_local(quiet=True)
    assert loads == [threading.current_thread()]
    runner.run(picture())
    assert len(loads) == 1
    runner.destroy()
    runner.init_local(quiet=True)
    assert len(loads) == 2


def test_a_model_that_cannot_be_loaded(kind, stored):
    runner = stored.with_options(device_id="cuda:99").to_runner()
    for _ in range(2):
        with pytest.raises(DeviceError, match="cuda:99"):
            runner.run(picture())
        with pytest.raises(DeviceError, match="cuda:99"):
            asyncio.run(runner.async_run(picture()))


def test_methods(kind, stored):
    runner = stored.to_runner(
        max_batch_size=7, max_latency_ms=90, method_configs={"forward": {"max_batch_size": 3}}
    )
    found = {method.name: method for method in runner.runner_methods}
    assert list(found) == list(SIGNATURES)
    assert found["forward"].config.batchable
    assert not found["inference"].config.batchable
    # what forward returns is a list, whatever dimension counted the images
    assert tuple(found["forward"].config.batch_dim) == (3, 0)
    assert tuple(found["preprocess_image"].config.batch_dim) == (0, 1)
    assert (found["forward"].max_batch_size, found["forward"].max_latency_ms) == (3, 90)
    assert (found["inference"].max_batch_size, found["inference"].max_latency_ms) == (7, 90)
    assert not runner.embedded
    assert stored.to_runner(embedded=True).embedded


def test_method_configs_of_no_method(kind, stored):
    with pytest.raises(ConfigError, match=r"no signature 'predict'; it has __call__, inference"):
        stored.to_runner(method_configs={"predict": {"max_batch_size": 3}})


@pytest.mark.parametrize(
    ("model", "given", "name"),
    [
        ("crack", "", "crack"),
        ("crack", "Crack-Finder.2", "crack-finder.2"),
        ("a.b-c_d", "", "a.b-c_d"),
        ("ends_with.-_", "", "ends_with"),
        ("resources", "", "resources_model"),  # a key of BentoML's configuration
    ],
)
def test_names(kind, save, store, model, given, name):
    if model not in {entry.tag.name for entry in store.list()}:
        save(model)
    assert get(model, store=store).to_runner(given).name == name


@pytest.mark.parametrize("name", ["a b", "_a", "a_", "ä", "a/b", "a" * 64, "batching"])
def test_names_that_bentoml_refuses(kind, stored, name):
    with pytest.raises(ConfigError, match=r"^name: expected a runner's name") as caught:
        stored.to_runner(name)
    assert "\n" not in str(caught.value)


def test_without_bentoml(monkeypatch, stored):
    monkeypatch.setitem(sys.modules, "bentoml", None)
    runner = stored.to_runner(scheduling_strategy=int)
    assert type(runner) is LocalRunner
    assert runner.scheduling_strategy is int
    with pytest.raises(ConfigError, match="BentoML is not installed; call init_local"):
        runner.init_client()


def test_with_bentoml(stored):
    legacy = pytest.importorskip("bentoml").legacy
    runnable = stored.to_runnable()
    assert issubclass(runnable, legacy.Runnable)
    assert issubclass(runnable, StoredRunnable)
    assert runnable.SUPPORTED_RESOURCES == ("nvidia.com/gpu", "cpu")
    assert runnable.SUPPORTS_CPU_MULTI_THREADING is True
    assert list(runnable.bentoml_runnable_methods__) == list(SIGNATURES)

    class Strategy(legacy.Strategy):
        @classmethod
        def get_worker_count(cls, *_):
            return 3

        @classmethod
        def get_worker_env(cls, *_):
            return {}

    runner = stored.to_runner(scheduling_strategy=Strategy)
    assert isinstance(runner, legacy.Runner)
    assert runner.scheduled_worker_count == 3
    # as BentoML's server does it, and without loading the model
    runner.init_client(handle_class=lambda _: "client")
    assert runner._runner_handle == "client"


# options


def test_options_by_default(stored, save):
    fresh = get("crack", store=ModelStore(stored.path.parents[1]))
    assert fresh.options == ModelOptions("auto", {})
    assert "options" not in fresh.info
    assert save("plain", options={"device_id": "", "partial_kwargs": {}}).options == fresh.options


def test_with_options_returns_a_copy(kind, stored):
    before = (stored.path / "model.yaml").read_bytes()
    changed = stored.with_options(**CROPPED)
    assert changed.options == ModelOptions("cpu", CROPPED["partial_kwargs"])
    assert changed.info.options == changed.options
    assert stored.options == ModelOptions("cpu", {})
    assert (changed.tag, changed.path) == (stored.tag, stored.path)
    assert changed.info.signatures == stored.info.signatures
    assert (stored.path / "model.yaml").read_bytes() == before
    assert (
        changed.with_options(device_id="auto").options.partial_kwargs == CROPPED["partial_kwargs"]
    )

    raw = changed.to_runner().inference.run(picture())[0]
    assert raw.pred_masks.shape[1] == 1
    found = changed.to_runner().inference.run(picture(), do_postprocess=True)[0]["instances"]
    assert found.pred_masks.shape[1:] == picture().shape[:2]


def test_partial_kwargs_of_any_type(stored, predictor):
    boxes = predictor(picture())["instances"]
    given = stored.with_options(partial_kwargs={"inference": {"detected_instances": [boxes]}})
    assert given.options.partial_kwargs["inference"]["detected_instances"][0] is boxes
    wrong = stored.with_options(partial_kwargs={"inference": {"threshold": 0.5}}).to_runnable()()
    with pytest.raises(ConfigError, match="unexpected keyword argument 'threshold'"):
        wrong.inference(picture())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "no option 'device'; its options are device_id, partial_kwargs"),
        ({"device_id": 0}, "device_id: expected auto, cpu, cuda or cuda:N, got 0"),
        ({"partial_kwargs": [1]}, "partial_kwargs: expected keyword arguments by method"),
        ({"partial_kwargs": {"inference": 1}}, "partial_kwargs: expected keyword arguments by"),
        ({"partial_kwargs": {"predict": {}}}, "has no signature 'predict'; it has __call__"),
    ],
)
def test_unsupported_options(stored, options, message):
    with pytest.raises(ConfigError, match=message):
        stored.with_options(**options)


def test_options_are_saved_with_the_model(kind, save, store, tmp_path):
    saved = save("cropped", options=CROPPED)
    assert saved.options.partial_kwargs == CROPPED["partial_kwargs"]
    other = ModelStore(tmp_path / "other")
    again = import_model(export_model(saved, tmp_path, store=store), store=other)
    assert again.info["options"] == CROPPED
    assert again.to_runner().inference.run(picture())[0].pred_masks.shape[1] == 1
    with pytest.raises(ConfigError, match="no option 'device'"):
        save("wrong", options={"device": "cpu"})
    with pytest.raises(ConfigError, match=r"^options.partial_kwargs.inference.x: expected text"):
        save("wrong", options={"partial_kwargs": {"inference": {"x": object()}}})
