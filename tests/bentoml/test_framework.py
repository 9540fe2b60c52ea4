"""What BentoML tests of each framework, in 14 tests of two models, asked of d2run and of BentoML.

The models are a predictor and a module, each with an input and what Detectron2 answers to it. Where
d2run differs on purpose, ``docs/bentoml.md`` says why. Without an equivalent: warnings about
BentoML's functions before 1.0, and ``get_service``, which its module for Detectron2 does not have.
"""

from dataclasses import dataclass
from typing import Any

import bentoml
import numpy as np
import pytest
import torch
from bentoml_server import with_store
from tiny_model import assert_same, picture

from pipeline.errors import ConfigError, ModelNotFoundError, StoreError

pytestmark = [
    pytest.mark.detectron2,
    # BentoML recommends new-style services to those who use runners
    pytest.mark.filterwarnings("ignore:.(Runner|Strategy). is deprecated"),
]


@pytest.fixture(
    scope="module", params=["d2run", pytest.param("bentoml", marks=pytest.mark.nightly)]
)
def here(request, tmp_path_factory):
    yield from with_store(request.param, tmp_path_factory.mktemp("home"))


@dataclass
class Case:
    """A model, and an input with what Detectron2 answers to it."""

    name: str
    model: Any
    save_options: dict[str, Any]
    given: Any
    answer: dict[str, Any]

    def check(self, output: Any) -> None:
        """Assert that an output of ``__call__`` is what Detectron2 answers."""
        assert_same(output[0] if isinstance(output, list) else output, self.answer)


@pytest.fixture(scope="module", params=["module", "predictor"])
def case(request, cfg, predictor, image, pixels, expected, expected_of_module):
    if request.param == "module":
        config = {"config": cfg}
        return Case("coco-masked-rcnn", predictor.model, config, pixels, expected_of_module[0])
    return Case("predictor-masked-rcnn", predictor, {}, image, expected)


@pytest.fixture(scope="module")
def saved(here, case):
    return here.detectron.save_model(case.name, case.model, **case.save_options)


class Scaler:
    def __init__(self, mean):
        self.mean = mean


def test_models_of_other_frameworks(here, cfg, predictor, tmp_path):
    """BentoML's store has models of all frameworks, and each module loads its own only."""
    from bentoml._internal.models.model import ModelContext, ModelStore

    (tmp_path / "models").mkdir()
    context = ModelContext("other", {"other": "1.0.0"})
    options = {"module": __name__, "signatures": {}, "context": context}
    if here.kind == "d2run":
        options["_model_store"] = ModelStore(tmp_path / "models")
    with bentoml.models._create("other", **options) as model:
        pass
    refusals = (bentoml.exceptions.NotFound, ModelNotFoundError)
    for given in (model.tag, model):
        with pytest.raises(refusals, match=f"'?{model.tag}"):
            here.detectron.load_model(given)
    if here.kind == "d2run":
        with pytest.raises(StoreError, match=f"is a model of {__name__}; only models of"):
            here.detectron.import_model(model.path)


def test_options(here, case):
    options = here.detectron.ModelOptions(partial_kwargs={"__call__": {"a": 1}})
    assert options == here.detectron.ModelOptions().with_options(
        partial_kwargs={"__call__": {"a": 1}}
    )
    assert here.detectron.ModelOptions(**options.to_dict()) == options
    assert here.detectron.ModelOptions() == here.detectron.ModelOptions().with_options()
    with pytest.raises((TypeError, ConfigError)):
        options.with_options(unknown=1)


def test_arguments_of_every_framework(here, case):
    given = {
        "labels": {"label-N4nr": "value-4mH7", "label-7q72": "value-3mDd"},
        "custom_objects": {"object-r7BU": Scaler(5.5)},
        "metadata": {"metadata-vSW4": [0, 9, 2], "metadata-qJJ3": "Wy5M"},
    }
    from bentoml._internal.models.model import ModelSignature

    # BentoML accepts the name of any method, and fails when it is run
    method = "some-signature-rjM5" if here.kind == "bentoml" else "__call__"
    signatures = {method: {"batchable": True, "batch_dim": (1, 0)}}
    model = here.detectron.save_model(
        case.name, case.model, signatures=signatures, **given, **case.save_options
    )
    for found in (model, here.detectron.get(model.tag)):
        wanted = ModelSignature.from_dict(signatures[method])
        assert found.info.signatures[method] == wanted
        assert found.info.labels == given["labels"]
        assert found.info.metadata == given["metadata"]  # BentoML adds its key to the caller's
    assert model.custom_objects["object-r7BU"].mean == 5.5


@pytest.mark.parametrize("here", ["d2run"], indirect=True)
def test_signatures_name_methods(here, case):
    """BentoML accepts any name, and fails when it is run."""
    signatures = {"some-signature-rjM5": {"batchable": True, "batch_dim": (1, 0)}}
    with pytest.raises(ConfigError, match="has no method 'some-signature-rjM5'"):
        here.detectron.save_model("x", case.model, signatures=signatures, **case.save_options)


def test_get(here, case, saved):
    model = here.detectron.get(saved.tag)
    assert model == saved == here.detectron.get(str(saved.tag))
    assert model.info == saved.info
    assert model.info.name == case.name


def test_get_runnable(here, saved):
    runnable = here.detectron.get_runnable(saved)
    assert isinstance(runnable, type)
    assert issubclass(runnable, bentoml.legacy.Runnable)
    assert [*runnable.bentoml_runnable_methods__] == ["__call__"]
    for resource in ("nvidia.com/gpu", "cpu"):
        assert resource in runnable.SUPPORTED_RESOURCES


def test_load(here, case, saved):
    model = here.detectron.load_model(saved)
    assert type(model) is type(case.model)
    with torch.inference_mode():
        case.check(
            model(case.given) if "predictor" in case.name else model([{"image": case.given}])
        )


def test_runnable_of_a_runner(case, saved):
    """The options of this test are empty, as in BentoML's for Detectron2."""
    runner = saved.with_options().to_runner()
    runner.init_local()
    runnable = runner._runner_handle._runnable
    assert isinstance(runnable, bentoml.legacy.Runnable)
    assert type(runnable.model) is type(case.model)
    case.check(runner.run(case.given))
    runner.destroy()


def batched(runner, inputs):
    """Run inputs as BentoML's servers do: as payloads, of which a batch is made and split again."""
    from bentoml._internal.runner.container import AutoContainer
    from bentoml._internal.runner.utils import Params, payload_paramss_to_batch_params

    method = runner.runner_methods[0]
    dim, dim_of_output = method.config.batch_dim
    assert method.config.batchable
    payloads = [
        Params(given).map(lambda one: AutoContainer.to_payload(one, batch_dim=dim))
        for given in inputs
    ]
    params, indices = payload_paramss_to_batch_params(payloads, dim)
    outputs = method.run(*params.args, **params.kwargs)
    parts = AutoContainer.batch_to_payloads(outputs, indices, dim_of_output)
    return [AutoContainer.from_payload(part) for part in parts]


@pytest.mark.parametrize("dim", [0, 3])
def test_batches_of_a_runner(here, case, dim):
    """BentoML skips this test for Detectron2, whose batches of images fail."""
    model = here.detectron.save_model(
        "batches", case.model, signatures={"__call__": {"batchable": True, "batch_dim": (dim, 0)}},
        **case.save_options,
    )  # fmt: skip
    runner = model.to_runner()
    runner.init_local()
    given = np.asarray(case.given)  # a tensor as well; BentoML splits those along dim 0 only
    inputs = [np.stack([given] * count, dim) for count in (1, 3)]
    if here.kind == "bentoml":
        with pytest.raises((ValueError, RuntimeError, TypeError, AssertionError)):
            batched(runner, inputs)
        return
    outputs = batched(runner, inputs)
    assert [len(output) for output in outputs] == [1, 3]
    for output in (one for part in outputs for one in part):
        case.check(output)
    if dim == 0:  # lists, of images of any sizes
        other = picture(90, 80, seed=1)
        outputs = batched(runner, [[case.given], [other, case.given]])
        case.check(outputs[0][0])
        case.check(outputs[1][1])
    runner.destroy()


def run_as_worker(runnable, resources, given, monkeypatch):
    """Run a runnable with the variables that BentoML sets in a worker with these resources."""
    from bentoml._internal.runner.strategy import DefaultStrategy

    for name, value in DefaultStrategy().get_worker_env(runnable, resources, 1, 0).items():
        monkeypatch.setenv(name, value)
    runner = bentoml.legacy.Runner(runnable)
    runner.init_local()
    output = runner.__call__.run(given)
    model = runner._runner_handle._runnable.model
    runner.destroy()
    return model, output


@pytest.mark.parametrize("resources", [{"cpu": 2.0}, {"cpu": 1.0}], ids=["threads", "one thread"])
def test_runner_on_the_cpu(here, case, saved, resources, monkeypatch):
    runnable = here.detectron.get_runnable(saved.with_options())
    assert runnable.SUPPORTS_CPU_MULTI_THREADING
    model, output = run_as_worker(runnable, resources, case.given, monkeypatch)
    assert type(model) is type(case.model)
    case.check(output)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("here", ["d2run"], indirect=True)  # BentoML's changes global settings
def test_runner_on_a_gpu(here, case, saved, monkeypatch):
    runnable = here.detectron.get_runnable(saved.with_options())
    model, output = run_as_worker(runnable, {"nvidia.com/gpu": 1}, case.given, monkeypatch)
    assert type(model) is type(case.model)
    instances = (output[0] if isinstance(output, list) else output)["instances"]
    assert instances.pred_boxes.device.type == "cuda"
    assert len(instances) > 0
    assert torch.get_default_device().type == "cpu"
