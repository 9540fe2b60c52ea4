"""What ``export --format bento-service`` writes and refuses; tests/examples serves it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.errors import (
    ConfigError,
    ModelNotFoundError,
    StoreError,
    UntrustedModelError,
)
from pipeline.store import ModelStore, export_model
from pipeline.store.command.cli import main
from pipeline.store.exchange import bento_service

ROOT = Path(__file__).parents[4]
FORMAT = {"format": "bento-service"}


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


def test_the_directory_has_a_store_with_the_model(store, tmp_path):
    folder = Path(export_model("shapes", tmp_path / "svc", **FORMAT, store=store))
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "bentofile.yaml", "models", "requirements.txt", "service.py", "wheels",
    ]  # fmt: skip
    model = ModelStore(folder / "models").get("shapes:latest")
    assert model.path.is_relative_to(folder)
    model.verify()
    info = yaml.safe_load((folder / "bentofile.yaml").read_text())
    assert info["args"] == {"tag": str(model.tag), "trust": False}
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert requirements[0].startswith("./wheels/d2run-")
    assert all("==" in line for line in requirements[2:])


def test_the_service_is_the_example(store, tmp_path, monkeypatch):
    folder = Path(export_model("shapes", tmp_path / "svc", **FORMAT, store=store))
    example = ROOT / "examples" / "bentoml_service" / "service.py"
    assert (folder / "service.py").read_bytes() == example.read_bytes()
    text = (ROOT / "pyproject.toml").read_text()  # in a wheel, it is where the code looks first
    packaged = bento_service._SERVICES[0].relative_to(ROOT).as_posix()
    assert f'"examples/bentoml_service/service.py" = "{packaged}"' in text
    monkeypatch.setattr(bento_service, "_SERVICES", (tmp_path / "none",))
    with pytest.raises(StoreError, match=r"none' is missing; install d2run again"):
        export_model("shapes", tmp_path / "other", **FORMAT, store=store)
    assert not (tmp_path / "other").exists()


def test_existing_targets(store, tmp_path):
    folder = Path(export_model("shapes", tmp_path / "svc", **FORMAT, store=store))
    with pytest.raises(
        StoreError, match=r"svc' already exists; choose another path or add --force"
    ):
        export_model("shapes", folder, **FORMAT, store=store)
    (folder / "service.py").write_text("")
    export_model("shapes", folder, **FORMAT, overwrite=True, store=store)
    assert (folder / "service.py").read_text()
    inner = export_model("shapes", tmp_path, **FORMAT, store=store)  # into a directory, as others
    assert inner == f"{tmp_path}/shapes-1"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shapes-1").mkdir()
    with pytest.raises(StoreError, match="is not an exported model"):
        export_model("shapes", tmp_path / "mine", **FORMAT, overwrite=True, store=store)


@pytest.mark.parametrize(
    ("tag", "path", "error", "message"),
    [
        ("nothing", "svc", ModelNotFoundError, "no model 'nothing'"),
        ("shapes", "s3://bucket/svc", ConfigError, "format=bento-service cannot write to an addr"),
    ],
)
def test_refused(store, tmp_path, monkeypatch, tag, path, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        export_model(tag, path, **FORMAT, store=store)
    assert not Path("svc").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(store, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StoreError, match=r"cannot export 'shapes:1' to .*: Permission denied"):
        export_model("shapes", tmp_path / "closed" / "svc", **FORMAT, store=store)


def test_a_file_in_the_way(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot export 'shapes:1' to .*file/svc'"):
        export_model("shapes", tmp_path / "file" / "svc", **FORMAT, store=store)


def test_external_modules_require_trust(store, tmp_path):
    model = store.get("shapes")
    files = {**model.info["files"], "external_modules.zip": {"size": 0, "sha256": ""}}
    info = dict(model.info) | {"files": files, "external_modules": ["plant"]}
    (tmp_path / "a").mkdir()
    with pytest.raises(UntrustedModelError, match=r"\(plant\), which the service .* with --trust"):
        bento_service.write_service(replace(model, info=info), tmp_path / "a")
    (tmp_path / "b").mkdir()
    bento_service.write_service(replace(model, info=info, trust=True), tmp_path / "b")
    assert yaml.safe_load((tmp_path / "b/bentofile.yaml").read_text())["args"]["trust"] is True


def test_the_command(store, tmp_path, capsys):
    arguments = ["export", "shapes", str(tmp_path / "svc"), "--format", "bento-service"]
    assert main(["--root", str(store.root), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"to serve it: bentoml serve {tmp_path}/svc"
    assert main(["--root", str(store.root), *arguments]) == 1
    assert "already exists" in capsys.readouterr().err
