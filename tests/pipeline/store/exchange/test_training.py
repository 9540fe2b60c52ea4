"""What a training's output says: which checkpoint, which metrics, for which device."""

import json
import logging
import math

import pytest
import torch
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_predictor

from pipeline.errors import StoreError
from pipeline.store import ModelStore, import_model, load_model
from pipeline.store.exchange.incoming import import_path
from pipeline.store.exchange.options import ImportOptions

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor()


@pytest.fixture
def there(tmp_path):
    return ModelStore(tmp_path / "there")


@pytest.fixture
def training(tmp_path, predictor):
    """An output whose config is as Detectron2 writes it on a machine with a GPU."""
    folder = tmp_path / "output"
    folder.mkdir()
    cfg = predictor.cfg.clone()
    cfg.MODEL.DEVICE = "cuda:99"
    cfg.MODEL.WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    (folder / "config.yaml").write_text(cfg.dump())
    for name in ("model_0000099.pth", "model_final.pth"):
        torch.save({"model": predictor.model.state_dict(), "iteration": 99}, folder / name)
    (folder / "last_checkpoint").write_text("model_final.pth")
    return folder


def imported(there, training, **options):
    return import_model(training, class_names=CLASS_NAMES, store=there, **options)


def test_a_config_for_another_device(there, training, predictor):
    model = imported(there, training)
    config = (model.path / "config.yaml").read_text()
    assert "DEVICE: cpu" in config
    assert "detectron2://" not in config
    model.verify()
    assert_same(load_model(model, store=there)(picture()), predictor(picture()))


@pytest.mark.parametrize("pointer", ["model_0000199.pth", "/at/training/gone.pth\n", ""])
def test_last_checkpoint_of_a_deleted_file(there, training, caplog, pointer):
    (training / "last_checkpoint").write_text(pointer)
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert imported(there, training).info.origin["checkpoint"] == "model_final.pth"
    said = "which last_checkpoint names; using model_final.pth" in caplog.text
    assert said == bool(pointer)


def test_the_only_checkpoint(there, training, caplog):
    (training / "model_final.pth").unlink()
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert imported(there, training).info.origin["checkpoint"] == "model_0000099.pth"
    assert "no 'model_final.pth'" in caplog.text
    assert "using model_0000099.pth" in caplog.text
    (training / "model_0000099.pth").rename(training / "a.pth")
    (training / "a.pth").with_name("b.pth").touch()
    with pytest.raises(StoreError, match=r"2 checkpoints, but no model_final\.pth"):
        imported(there, training)


LINES = [
    {"iteration": 19, "total_loss": 2.5, "lr": 0.01},
    {"iteration": 99, "total_loss": 1.5, "bbox/AP": 41.5, "segm/AP": 38.25, "bbox/AP-rust": 7},
    {"iteration": 119, "total_loss": 1.25, "lr": 0.001},
]


def write_metrics(training, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (training / "metrics.json").write_text(text)


def test_metrics_become_metadata(there, training):
    write_metrics(training, *LINES)
    model = imported(there, training, metadata={"lr": 5, "by": "me"})
    assert model.info.metadata == {
        "iteration": 119,
        "total_loss": 1.25,
        "lr": 5,  # the user's
        "bbox/AP": 41.5,
        "segm/AP": 38.25,
        "bbox/AP-rust": 7,
        "by": "me",
    }


def test_metrics_are_those_of_the_checkpoint(there, training):
    write_metrics(training, *LINES)
    (training / "last_checkpoint").write_text("model_0000099.pth")
    metadata = imported(there, training).info.metadata
    assert (metadata["iteration"], metadata["total_loss"], metadata["lr"]) == (99, 1.5, 0.01)


def test_damaged_metrics(there, training, caplog):
    broken = ['{"iteration": 3', "[1]", "null", "[" * 100_000, "\udcff\x00", '{"a": 1}{"b": 2}']
    odd = '{"nan": NaN, "text": "x", "yes": true, "list": [1], "none": null, "huge": 1' + "0" * 99
    (training / "metrics.json").write_bytes(
        b"\n\n".join(
            line.encode(errors="surrogateescape")
            for line in (*broken, odd + "}", '{"bbox/AP": 41.5}', '{"bbox/AP": ')
        )
    )
    with caplog.at_level(logging.WARNING, "pipeline"):
        metadata = dict(imported(there, training).info.metadata)
    assert math.isnan(metadata.pop("nan", math.nan))
    assert metadata == {"bbox/AP": 41.5}
    assert "skipped 7 lines that are not JSON objects" in caplog.text


@pytest.mark.parametrize("kind", ["none", "folder", "empty"])
def test_no_metrics(there, training, kind):
    if kind == "folder":
        (training / "metrics.json").mkdir()
    elif kind == "empty":
        (training / "metrics.json").touch()
    assert imported(there, training).info.metadata == {}


def test_new_metrics_are_an_update(there, training):
    write_metrics(training, LINES[0])
    first = imported(there, training)
    write_metrics(training, *LINES)
    second = imported(there, training)
    assert second.info.metadata["bbox/AP"] == 41.5
    assert second.info.origin["updates"] == first.tag
    assert import_path(there, str(training), ImportOptions()) == (second, False)
