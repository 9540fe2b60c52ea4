"""What BentoML tests of its store and its models, asked of d2run and of BentoML.

Tags, labels, metadata and signatures are compared in ``tests/pipeline/store/disk``.
"""

from datetime import datetime, timezone
from pathlib import Path

import bentoml
import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.records import Categories
from pipeline.store import ModelStore

REFUSED = (PipelineError, bentoml.exceptions.BentoMLException)


@pytest.fixture
def create(here):
    """Save a small model, without a test of whether it runs."""

    def create(tag, **more):
        if here.kind == "d2run":
            return ModelStore().save(
                tag,
                config_yaml="MODEL: {}\n",
                weights={"a": torch.ones(1)},
                categories=Categories(thing_names=("a",)),
                **more,
            )
        from bentoml._internal.models.model import ModelContext

        context = ModelContext("detectron2", {"detectron2": "0.7"})
        signatures = more.pop("signatures", {"__call__": {}})
        with bentoml.models._create(
            tag, module="bentoml.detectron", signatures=signatures, context=context, **more
        ) as model:
            Path(model.path_of("saved_model.pth")).write_bytes(b"weights")
        return bentoml.models.get(model.tag)

    return create


def tags(models):
    return {str(model.tag) for model in models}


def test_versions(here, create):
    for tag in ("test:version1", "test:otherprefix", bentoml.Tag("test", "version2"),
                "test1:version1"):  # fmt: skip
        create(tag)
    with pytest.raises(REFUSED):
        create("test:version2")
    get, models = here.detectron.get, here.models
    assert str(get("test:version1").tag) == "test:version1"
    assert str(get("test:oth").tag) == "test:otherprefix"
    for latest in ("test:latest", "test", bentoml.Tag("test"), bentoml.Tag("test", "latest")):
        assert str(get(latest).tag) == "test:version2"
    for wrong in ("test:ver", "nowhere:latest", "nowhere", "test:version4"):
        with pytest.raises(REFUSED):
            get(wrong)

    every = {"test:version1", "test:version2", "test:otherprefix"}
    assert every | {"test1:version1"} <= tags(models.list())
    assert tags(models.list("test")) == tags(models.list(bentoml.Tag("test"))) == every
    for one in ("test:version1", bentoml.Tag("test", "version1")):
        assert tags(models.list(one)) == {"test:version1"}
    for none in ("nowhere:latest", "test:version4"):
        assert models.list(none) == []
    if here.kind == "d2run":  # BentoML raises NotFound for a name alone
        assert models.list("nowhere") == []

    models.delete("test:version2")
    assert str(get("test").tag) == "test:otherprefix"
    for gone in ("test:version2", "test:version4"):
        with pytest.raises(REFUSED):
            models.delete(gone)
    models.delete(bentoml.Tag("test1", "version1"))
    with pytest.raises(REFUSED):
        get("test1")
    models.delete("test")
    assert not [tag for tag in tags(models.list()) if tag.startswith("test")]


def test_new_versions(here, create):
    first, second = create("again"), create("Again")
    assert first.tag.name == second.tag.name == "again"
    assert first.tag.version != second.tag.version
    assert here.detectron.get("again") == second != first
    assert len({first, second, here.detectron.get(first.tag)}) == 2  # equal models, equal hashes


def test_a_model(here, create):
    start = datetime.now(timezone.utc)
    metadata = {"a": 0.1, "b": 1, "c": np.array([2, 3, 4], dtype=np.uint32)}
    signatures = {
        "predict": {"batchable": False},
        "classify": {"batchable": True, "batch_dim": (0, 0)},
        "predict_ii": {"batchable": True, "batch_dim": (0, 3)},
        "classify_ii": {"batchable": True, "batch_dim": (1, 3)},
    }
    labels = {"label": "text"}
    create("described:v1", labels=labels, metadata=metadata, signatures=signatures)
    model = here.detectron.get("described:v1")
    assert start <= model.creation_time <= datetime.now(timezone.utc)
    described = model.info.to_dict()
    assert (described["name"], described["version"]) == ("described", "v1")
    assert described["labels"] == labels
    assert described["metadata"] == {"a": 0.1, "b": 1, "c": [2, 3, 4]}
    assert described["api_version"] == "v1"
    assert datetime.fromisoformat(str(described["creation_time"])) == model.creation_time
    found = {name: (one.batchable, one.batch_dim) for name, one in model.info.signatures.items()}
    assert found == {
        "predict": (False, (0, 0)), "classify": (True, (0, 0)),
        "predict_ii": (True, (0, 3)), "classify_ii": (True, (1, 3)),
    }  # fmt: skip
    for name, one in described["signatures"].items():
        assert [*one.get("batch_dim", (0, 0))] == [*found[name][1]]
    again = here.detectron.get("described:v1")
    assert again.info == model.info
    assert again.info is not model.info


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("out.tar", "out.tar"),
        ("out.tar.gz", "out.tar.gz"),
        ("out.zip", "out.zip"),
        ("tar://{}/url.tar", "url.tar"),
    ],
)
def test_export_and_import(here, create, tmp_path, path, written):
    model = create("moved:v1", labels={"team": "vision"})
    place = path.format(tmp_path) if "://" in path else str(tmp_path / path)
    if "://" in path and here.kind == "d2run":
        with pytest.raises(PipelineError, match="tar://"):  # a local file is its path
            model.export(place)
        here.models.delete("moved")
        return
    model.export(place)
    assert [file.name for file in tmp_path.iterdir()] == [written]
    here.models.delete("moved:v1")
    back = here.models.import_model(place)
    assert back == model
    assert back.info == model.info
    assert back.info.labels == {"team": "vision"}
    assert str(here.detectron.get("moved").tag) == "moved:v1"
    here.models.delete("moved")


def test_the_format_by_position(here, create, tmp_path):
    create("positional:v1")
    path = here.models.export_model("positional:v1", str(tmp_path / "out"), "zip")
    assert Path(path).read_bytes()[:2] == b"PK"
    path = here.models.export_model("positional:v1", str(tmp_path))  # a directory
    assert Path(path).parent == tmp_path
    assert "positional-v1" in Path(path).name


def test_not_a_model(here, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.yaml").write_text("bad yaml")
    for path in ("nowhere", "empty", "bad"):
        with pytest.raises((*REFUSED, OSError, TypeError)):
            here.models.import_model(str(tmp_path / path))
