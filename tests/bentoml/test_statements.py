"""The statements of ``docs/bentoml.md``: the same code, and only its import changes.

S1 to S8 are about the functions, E1 to E5 are whole examples. Where d2run differs on purpose, the
test says so by ``here.kind``.
"""

import asyncio
import importlib.util
import inspect
import json
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import bentoml
import cv2
import numpy as np
import pytest
import torch
from bentoml_server import environment, request, served
from tiny_model import assert_same, picture, tiny_cfg

from pipeline.errors import PipelineError
from pipeline.store import Tag

pytestmark = [
    pytest.mark.detectron2,
    # BentoML recommends new-style services to those who use runners
    pytest.mark.filterwarnings("ignore:.Runner. is deprecated"),
    # d2run: the user's config beside a predictor
    pytest.mark.filterwarnings("ignore:config is ignored"),
]
REFUSED = (ValueError, TypeError, PipelineError, bentoml.exceptions.BentoMLException)


@pytest.fixture(scope="module")
def saved(here, cfg, predictor, module):
    """A predictor and a module, saved; no test changes them."""
    return {
        "predictor": here.detectron.save_model("saved_predictor", predictor),
        "module": here.detectron.save_model("saved_module", module, config=cfg),
    }


def is_predictor(here, model):
    """Return what the model remembers; BentoML adds a key to the user's metadata."""
    if here.kind == "bentoml":
        return model.info.metadata["_is_predictor"]
    return model.info.kind == "predictor"


# the functions


def test_s1_save_model(here, cfg, module, predictor, tmp_path, monkeypatch):
    (tmp_path / "our_scaling.py").write_text("class Scale:\n    factor = 2.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    scaling = importlib.import_module("our_scaling")
    model = here.detectron.save_model(
        bentoml.Tag("every_argument", "v1"),
        module,
        cfg,
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        labels={"team": "vision", "stage": "dev"},
        custom_objects={"scale": scaling.Scale(), "names": ["a", "b"]},
        external_modules=[scaling],
        metadata={"ap": 41.5, "epochs": [1, 2]},
    )
    assert str(model.tag) == "every_argument:v1"
    for found in (model, here.detectron.get("every_argument:v1")):
        assert found.info.labels == {"team": "vision", "stage": "dev"}
        assert {key: found.info.metadata[key] for key in ("ap", "epochs")} == {
            "ap": 41.5, "epochs": [1, 2],
        }  # fmt: skip
        assert found.info.signatures["__call__"].batchable
        assert found.info.signatures["__call__"].batch_dim == (0, 0)
    assert model.custom_objects["scale"].factor == 2.5
    assert model.custom_objects["names"] == ["a", "b"]
    monkeypatch.delitem(sys.modules, "our_scaling")


@pytest.mark.parametrize("name", ["text:v1", Tag("ours"), bentoml.Tag("theirs", "1")], ids=str)
def test_s1_names(detectron, predictor, name):
    model = detectron.save_model(name, predictor)
    assert model.tag.name == str(name).partition(":")[0]
    assert model.tag.version == (str(name).partition(":")[2] or model.tag.version)
    assert str(detectron.get(model.tag).tag) == str(model.tag)


@pytest.mark.parametrize("here", ["bentoml"], indirect=True)
def test_s1_the_same_parameters(here):
    from pipeline import store as ours

    theirs = here.detectron
    for function in ("save_model", "load_model", "get", "get_runnable"):
        wanted = inspect.signature(getattr(theirs, function)).parameters
        found = inspect.signature(getattr(ours, function)).parameters
        common = {name: (found[name].kind, found[name].default) for name in wanted}
        assert common == {name: (p.kind, p.default) for name, p in wanted.items()}, function
        assert [*found][: len(wanted)] == [*wanted]
        ours_only = [found[name] for name in found if name not in wanted]
        assert all(one.kind is one.KEYWORD_ONLY for one in ours_only)


def test_s2_a_module_needs_its_config(detectron, module, cfg):
    with pytest.raises(REFUSED, match="config"):
        detectron.save_model("no_config", module)
    assert detectron.save_model("positional", module, cfg).tag.name == "positional"
    assert detectron.save_model("keyword", module, config=cfg).tag.name == "keyword"


def test_s2_a_predictor_has_its_config(here, predictor, image, expected):
    other = tiny_cfg(MODEL__ROI_HEADS__NUM_CLASSES=7)
    for config in (other, predictor.cfg):
        model = here.detectron.save_model("own_config", predictor, config=config)
        assert is_predictor(here, model)
        assert_same(here.detectron.load_model(model)(image), expected)


def test_s3_signatures(here, saved, module, cfg):
    for model in saved.values():
        assert [*model.info.signatures] == ["__call__"]
        assert not model.info.signatures["__call__"].batchable
    model = here.detectron.save_model(
        "methods", module, cfg, signatures={"inference": {"batchable": False}, "forward": {}}
    )
    assert [*here.detectron.get("methods").info.signatures] == ["inference", "forward"]
    methods = [method.name for method in model.to_runner().runner_methods]
    assert methods == ["inference", "forward"]


@pytest.mark.parametrize("kind", ["predictor", "module"])
def test_s4_load_model(here, saved, kind, image, pixels, expected, expected_of_module):
    from detectron2.engine import DefaultPredictor

    tag = saved[kind].tag
    forms = [
        saved[kind], here.detectron.get(str(tag)), tag, bentoml.Tag(tag.name, tag.version),
        str(tag), tag.name, f"{tag.name}:latest",
    ]  # fmt: skip
    for form in forms:
        loaded = here.detectron.load_model(bento_model=form, device_id="cpu")
        if kind == "predictor":
            assert isinstance(loaded, DefaultPredictor)
            assert_same(loaded(image), expected)
            loaded = loaded.model
        else:
            with torch.no_grad():
                assert_same(loaded([{"image": pixels}])[0], expected_of_module[0])
        assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
        assert not loaded.training
    assert type(here.detectron.load_model(tag)) is type(here.detectron.load_model(tag, "cpu"))


def test_s5_get(here, saved):
    tag = saved["module"].tag
    forms = [tag, bentoml.Tag(tag.name, tag.version), str(tag), tag.name, f"{tag.name}:latest"]
    for form in forms:
        model = here.detectron.get(tag_like=form)
        assert model == saved["module"]
        assert hash(model) == hash(saved["module"])
        assert str(model.tag) == str(tag)
    for missing in ("nowhere", "nowhere:latest", f"{tag.name}:v99"):
        with pytest.raises(REFUSED, match=missing.partition(":")[0]):
            here.detectron.get(missing)


@pytest.mark.parametrize("kind", ["predictor", "module"])
def test_s6_get_runnable(here, saved, kind, image, pixels, expected, expected_of_module):
    runnable = here.detectron.get_runnable(bento_model=saved[kind])
    assert issubclass(runnable, bentoml.legacy.Runnable)
    assert runnable.SUPPORTED_RESOURCES == ("nvidia.com/gpu", "cpu")
    assert runnable.SUPPORTS_CPU_MULTI_THREADING is True
    assert [*runnable.bentoml_runnable_methods__] == ["__call__"]
    if kind == "predictor":
        assert_same(runnable()(image), expected)
        return
    loaded = runnable()
    for given in (pixels, pixels.numpy()):  # an array becomes a tensor
        (output,) = loaded(given)
        assert_same(output, expected_of_module[0])
        assert output["instances"].scores.is_inference()


def test_s7_the_surface_of_a_model(here, saved, image, expected):
    model = saved["predictor"]
    assert (model.tag.name, model.info.name) == ("saved_predictor",) * 2
    assert model.info.version == model.tag.version
    assert model.info.tag == model.tag
    assert model.creation_time == model.info.creation_time
    assert model.creation_time.tzinfo is not None
    assert model.info.labels == {}
    assert model.info.options.partial_kwargs == {}
    assert model.info.context.framework_name == "detectron2"
    assert "detectron2" in model.info.context.framework_versions
    assert model.info.context.python_version == sys.version.split()[0]
    assert model.info.module == "bentoml.detectron" if here.kind == "bentoml" else "d2run"
    assert Path(model.path).is_dir()
    assert Path(model.path_of("model.yaml")).is_file()
    assert model.path_of("a/b") == str(Path(model.path) / "a" / "b")
    assert repr(model).startswith(type(model).__name__ + f'(tag="{model.tag}", path="')
    assert str(model.tag) in str(model)
    assert set(model.custom_objects) <= {"config"}  # BentoML's own
    described = model.info.to_dict()
    assert {"name", "version", "module", "labels", "options", "metadata", "context", "signatures",
            "api_version", "creation_time"} <= set(described)  # fmt: skip
    assert issubclass(model.to_runnable(), bentoml.legacy.Runnable)
    runner = model.to_runner()
    assert isinstance(runner, bentoml.legacy.Runner)
    assert runner.name == "saved_predictor"
    runner.init_local(quiet=True)
    assert_same(runner.run(image), expected)
    runner.destroy()


def test_s8_checkpoint_and_config_travel(here, cfg, predictor, image, expected, tmp_path):
    from detectron2.engine import DefaultPredictor

    own = cfg.clone()
    own.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    own.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.25
    Path(own.MODEL.WEIGHTS).write_bytes(Path(cfg.MODEL.WEIGHTS).read_bytes())
    there = DefaultPredictor(own)
    wanted = there(image)
    model = here.detectron.save_model("traveling", there)
    of_module = here.detectron.save_model("traveling_module", there.model, own)
    assert (is_predictor(here, model), is_predictor(here, of_module)) == (True, False)
    Path(own.MODEL.WEIGHTS).unlink()

    loaded = here.detectron.load_model("traveling_module")
    assert loaded.roi_heads.box_predictor.test_score_thresh == 0.25
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, there.model.state_dict()[name]), name
    if here.kind == "bentoml":
        with pytest.raises(AssertionError, match="not found"):
            here.detectron.load_model("traveling")  # it opens MODEL.WEIGHTS again
    else:
        assert_same(here.detectron.load_model("traveling")(image), wanted)


# models, options and runners


def test_metadata(here, predictor):
    given = {
        "text": "a", "number": 1, "float": 2.5, "yes": True, "bytes": b"ab", "list": [1, ["x"]],
        "nested": {"a": {"b": 1}}, "array": np.arange(3), "nan": float("nan"), 3: "three",
    }  # fmt: skip
    model = here.detectron.save_model("with_metadata", predictor, metadata=dict(given))
    found = here.detectron.get(model.tag).info.metadata
    assert found["array"] == [0, 1, 2]
    assert found["nan"] != found["nan"]
    for key in set(given) - {"array", "nan"}:
        assert found[key] == given[key]
        assert type(found[key]) is type(given[key])
    assert set(found) - set(given) == ({"_is_predictor"} if here.kind == "bentoml" else set())


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": "text"}, {"labels": {1: "a"}},
        {"metadata": "text"}, {"metadata": {"a": object()}}, {"metadata": {(1,): 2}},
    ],
    ids=["labels", "label-name", "metadata", "object", "key"],
)  # fmt: skip
def test_wrong_values_are_refused(detectron, predictor, wrong):
    with pytest.raises((*REFUSED, AttributeError)):  # BentoML's for labels that are text
        detectron.save_model("wrong", predictor, **wrong)
    with pytest.raises(REFUSED):
        detectron.get("wrong")


def test_options(here, module, cfg, pixels):
    signatures = {"inference": {"batchable": False}}
    model = here.detectron.save_model("with_options", module, cfg, signatures=signatures)
    partial = {"inference": {"do_postprocess": False}}
    changed = model.with_options(partial_kwargs=partial)
    assert changed == model
    assert changed.info.options.partial_kwargs == partial
    assert model.info.options.partial_kwargs == {}
    assert here.detectron.get(model.tag).info.options.partial_kwargs == {}

    runner = changed.to_runner()
    runner.init_local(quiet=True)
    (instances,) = runner.run(pixels)  # no mapping, and masks of 28 x 28 pixels
    assert instances.pred_masks.shape[-2:] == (28, 28)
    (output,) = runner.run(pixels, do_postprocess=True)  # the arguments of a call override them
    assert output["instances"].pred_masks.shape[-2:] == pixels.shape[-2:]
    runner.destroy()


def test_runner_run(here, saved, image, pixels, expected, expected_of_module):
    runner = saved["predictor"].to_runner(name="finder", max_batch_size=4, max_latency_ms=100)
    assert runner.name == "finder"
    runner.init_local(quiet=True)
    assert_same(runner.run(image), expected)
    assert_same(asyncio.run(runner.async_run(image)), expected)
    assert_same(runner.run(original_image=image), expected)  # as DefaultPredictor names it
    for args, kwargs in [((image, image), {}), ((image,), {"threshold": 1}), ((), {})]:
        with pytest.raises((*REFUSED, TypeError)):
            runner.run(*args, **kwargs)
    runner.destroy()
    runner = saved["module"].to_runner()
    runner.init_local(quiet=True)
    (output,) = runner.run(pixels)
    assert_same(output, expected_of_module[0])
    outputs = runner.run(pixels, pixels)
    assert len(outputs) == 2
    for output in outputs if here.kind == "d2run" else ():  # else with other last digits
        assert_same(output, expected_of_module[0])
    runner.destroy()


@pytest.mark.parametrize("here", ["d2run"], indirect=True)
def test_a_fresh_runner_loads_once(saved, image, expected, monkeypatch):
    """BentoML's raises until ``init_local`` was called."""
    from pipeline.store.api.running.runnable import StoredRunnable

    loads = []
    init = StoredRunnable.__init__

    def load(self, *args):
        loads.append(1)
        init(self, *args)

    monkeypatch.setattr(StoredRunnable, "__init__", load)
    runner = saved["predictor"].to_runner()

    async def every():
        return await asyncio.gather(*(runner.async_run(image) for _ in range(20)))

    answers = asyncio.run(every())
    assert (len(loads), len(answers)) == (1, 20)
    for answer in answers:
        assert_same(answer, expected)
    runner.destroy()


# the examples


@pytest.fixture
def zoo_cfg():
    """The zoo's config as the examples build it, on the CPU and without a download."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(
        model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    )
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.5
    return cfg


@pytest.mark.slow
def test_e1_a_module_of_the_zoo(here, zoo_cfg):
    from detectron2.modeling import build_model

    cfg = zoo_cfg
    cfg.MODEL.DEVICE = "cpu"
    module = build_model(cfg)
    here.detectron.save_model("mask_rcnn", module, config=cfg)
    loaded = here.detectron.load_model("mask_rcnn:latest")
    assert loaded.roi_heads.box_predictor.test_score_thresh == 0.5
    weights = module.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_e2_predictors(here, cfg, image, expected, tmp_path):
    from detectron2.engine import DefaultPredictor

    predictor = DefaultPredictor(cfg)
    here.detectron.save_model("mask_rcnn_predictor", predictor)
    here.detectron.save_model("mask_rcnn_predictor", predictor, config=cfg)
    assert len(here.models.list("mask_rcnn_predictor")) == 2
    assert_same(here.detectron.load_model("mask_rcnn_predictor:latest")(image), expected)

    (tmp_path / "own.yaml").write_text("MODEL:\n  ROI_HEADS:\n    NMS_THRESH_TEST: 0.1\n")
    own = cfg.clone()
    own.merge_from_file(str(tmp_path / "own.yaml"))
    predictor = DefaultPredictor(own)
    here.detectron.save_model("own_yaml", predictor)
    loaded = here.detectron.load_model("own_yaml")
    assert loaded.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.1
    assert_same(loaded(image), predictor(image))


def test_e3_weights_of_a_config(here, cfg, image, expected):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import DefaultPredictor
    from detectron2.modeling import build_model

    cloned = cfg.clone()
    cloned.MODEL.DEVICE = "cpu"
    module = build_model(cloned)
    DetectionCheckpointer(module).load(cloned.MODEL.WEIGHTS)
    here.detectron.save_model("mask_rcnn_e3", module, config=cloned)
    loaded = here.detectron.load_model("mask_rcnn_e3:latest")
    predictor = DefaultPredictor(cloned)
    predictor.model = loaded
    assert_same(predictor(image), expected)
    assert here.detectron.get("mask_rcnn_e3:latest").tag.name == "mask_rcnn_e3"

    here.detectron.save_model("mask_rcnn_e3", DefaultPredictor(cloned))
    assert_same(here.detectron.load_model("mask_rcnn_e3:latest")(image), expected)


SERVICE = """
import bentoml
import cv2
import numpy as np
from bentoml.io import JSON, Image

runner = detectron.get("mask_rcnn:latest").to_runner()
svc = bentoml.legacy.Service("detectron_service", runners=[runner])


def answer(instances):
    return {
        "boxes": instances.pred_boxes.tensor.tolist(),
        "scores": instances.scores.tolist(),
        "classes": instances.pred_classes.tolist(),
    }


@svc.api(input=Image(), output=JSON())
def predict(image):
    img_bgr = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2BGR)
    return answer(runner.run(img_bgr)["instances"])
"""
BATCHED = """

@svc.api(input=Image(), output=JSON())
async def predict_batched(image):
    img_bgr = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2BGR)
    (output,) = await batches.async_run([img_bgr])
    return answer(output["instances"])
"""
IMPORTS = {
    "d2run": "from pipeline import store as detectron",
    "bentoml": "from bentoml import detectron",
}


@pytest.mark.nightly
def test_e4_service(here, theirs, predictor, tmp_path):
    """``bentoml.Service`` accepts no runners in BentoML 1.4; ``bentoml.legacy.Service`` does."""
    text = IMPORTS[here.kind] + SERVICE
    here.detectron.save_model("mask_rcnn", predictor)
    if here.kind == "d2run":  # BentoML's batches of images fail
        signatures = {"__call__": {"batchable": True}}
        here.detectron.save_model("batches", predictor, signatures=signatures)
        batches = 'batches = detectron.get("batches").to_runner(max_latency_ms=20000)\n'
        text = text.replace("svc =", f"{batches}svc =").replace("[runner]", "[runner, batches]")
        text += BATCHED
    (tmp_path / "service.py").write_text(text)

    runner = theirs.detectron.save_model("expected", predictor).to_runner()
    runner.init_local(quiet=True)
    expected = {}
    for number in range(20):
        array = picture(72, 100 if number % 2 else 90, seed=number)
        instances = runner.run(array)["instances"]
        expected[cv2.imencode(".png", array)[1].tobytes()] = {
            "boxes": instances.pred_boxes.tensor.tolist(),
            "scores": instances.scores.tolist(),
            "classes": instances.pred_classes.tolist(),
        }
    runner.destroy()
    assert len(expected) == 20
    assert all(answer["boxes"] for answer in expected.values())

    arguments = ("service:svc", "--working-dir", str(tmp_path), "--api-workers", "1")
    log = tmp_path / "log"
    # BentoML sets the number of threads of a runner, which affects the last digits
    resources = f"runners.resources.cpu={torch.get_num_threads()}"
    env = environment(here.home) | {"BENTOML_CONFIG_OPTIONS": resources}
    with (
        served(*arguments, env=env, log=log) as address,
        ThreadPoolExecutor(20) as pool,
    ):
        for path in ("predict", "predict_batched")[: text.count("@svc.api")]:
            done = pool.map(lambda body: request(f"{address}/{path}", body), expected)  # noqa: B023
            for (status, found), wanted in zip(done, expected.values(), strict=True):
                assert status == 200, found + log.read_text()[-3000:]
                assert json.loads(found) == wanted
        assert request(f"{address}/predict", b"no image")[0] == 400
        if here.kind == "d2run":
            metrics = request(f"{address}/metrics")[1]
            sizes = [
                float(line.rpartition(" ")[2])
                for line in metrics.splitlines()
                if re.match(r"bentoml_runner_adaptive_batch_size_(sum|count)\{", line)
            ]
            n_images, n_batches = sorted(sizes, reverse=True)
            assert n_images == 20 > n_batches


def command(here, capsys, *arguments):
    """Run a command of ours or BentoML's; return its status and output."""
    if here.kind == "d2run":
        from pipeline.store.command.cli import main

        with warnings.catch_warnings():
            try:
                status = main([*arguments])
            except SystemExit as exc:
                status = exc.code
        return status or 0, capsys.readouterr().out
    from bentoml_cli.models import model_command
    from click.testing import CliRunner

    # it would disable the loggers of this process
    with mock.patch("bentoml._internal.log.configure_logging"):
        done = CliRunner().invoke(model_command, arguments)
    return done.exit_code, done.output


def test_e5_management(here, predictor, tmp_path, capsys):
    for version in ("v1", "v2"):
        here.detectron.save_model(f"managed:{version}", predictor, labels={"team": "vision"})
    status, out = command(here, capsys, "list", "-o", "json")
    tags = {row["tag"] for row in json.loads(out)}
    assert status == 0
    assert {"managed:v1", "managed:v2"} <= tags
    status, out = command(here, capsys, "list", "managed", "-o", "json")
    assert {row["tag"] for row in json.loads(out)} == {"managed:v1", "managed:v2"}
    assert command(here, capsys, "list", "nowhere")[0] == 1

    status, out = command(here, capsys, "get", "managed:latest", "-o", "json")
    info = json.loads(out)
    assert status == 0
    assert (info["name"], info["version"]) == ("managed", "v2")
    assert info["labels"] == {"team": "vision"}
    assert {"module", "options", "metadata", "context", "signatures", "creation_time"} <= set(info)

    status, _ = command(here, capsys, "export", "managed:latest", str(tmp_path / "out"))
    assert status == 0
    status, _ = command(here, capsys, "delete", "managed:latest", "--yes")
    assert status == 0
    assert str(here.detectron.get("managed:latest").tag) == "managed:v1"
    (exported,) = tmp_path.glob("out*")
    status, _ = command(here, capsys, "import", str(exported))
    assert status == 0
    assert len(here.models.list("managed")) == 2
    assert command(here, capsys, "delete", "managed:v1,managed:v2", "-y")[0] == 0
    assert command(here, capsys, "get", "managed:latest")[0] == 1
