"""A configuration builds declared parts and code of trusted packages, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import targets
from pipeline.config.targets import declared, untrusted

ROOT = Path(__file__).resolve().parents[3]
GROUPS = ("store", "runnable", "source", "stage", "sink", "runner")
DECLARED = {name for group in GROUPS for name in declared(group)}


def refusals(group: str, node: Any, trusted: tuple[str, ...] = ()) -> list[str]:
    content = {"mine": node} if group in ("stage", "sink") else node
    return list(untrusted({group: content, "trusted_packages": ["pipeline", "runners", *trusted]}))


def importable() -> Iterator[str]:
    """Yield each module of d2run and each name in it, with what hangs on functions and classes."""
    for package in ("pipeline", "runners"):
        found = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
        for module in [package, *(each.name for each in found if "__main__" not in each.name)]:
            yield module
            loaded = importlib.import_module(module)
            for name, value in vars(loaded).items():
                yield f"{module}.{name}"
                if inspect.isclass(value) or inspect.isfunction(value):
                    yield from (f"{module}.{name}.{each}" for each in vars(value))
                    yield f"{module}.{name}.__init__.__globals__"
                elif inspect.ismodule(value):
                    yield from (f"{module}.{name}.{each}" for each in vars(value))


def test_of_all_importable_names_only_the_declared_are_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = list(importable())
    for needed in (
        "pipeline.sources.decode.worker.Worker", "pipeline.system.files.write_whole",
        "pipeline.config.build.build_job", "runners.entry.main",
        "runners.rundir.record.subprocess.run", "pipeline.stages.nms.Nms.__init__",
        "pipeline.system.files.os.system", "pipeline.sources.Images",
    ):  # fmt: skip
        assert needed in names
    assert len(names) > 10_000
    assert set(names) >= DECLARED
    # nothing is imported or called to find out
    monkeypatch.setattr(targets, "find", lambda name: pytest.fail(f"looks for {name}"))
    monkeypatch.setattr(targets, "get_close_matches", lambda *_, **__: [])  # slow, and only a hint
    for group in GROUPS:
        allowed = {name for name in names if not refusals(group, {"_target_": name})}
        assert allowed == set(declared(group))


def test_the_options_name_declared_parts() -> None:
    for group in GROUPS:
        named = set()
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            content = yaml.safe_load(path.read_text())
            nodes = content.values() if group in ("stage", "sink") else [content]
            named |= {node["_target_"] for node in nodes if "_target_" in node}
        assert named == set(declared(group))
        for name in named:
            assert callable(targets.find(name))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    "target",
    [
        "os.system", "logging.os.system", "builtins.open", "builtins.eval", "shutil.rmtree",
        "functools.partial", "subprocess.run", "plant.stages.NotAtEdge", "hydra.utils.call",
    ],
)  # fmt: skip
def test_other_packages_are_not_imported(
    group: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "find", lambda name: pytest.fail(f"looks for {name}"))
    (said,) = refusals(group, {"_target_": target})
    package = target.split(".")[0]
    assert f"would run code of the package '{package}' ({target})" in said
    assert said.endswith(f"to trust it add 'trusted_packages=[pipeline,runners,{package}]'")


@pytest.mark.parametrize("target", [None, 3, ["os.system"], {"a": 1}, "", "pipeline", "runners"])
def test_what_is_no_name(target: Any) -> None:
    assert len(refusals("stage", {"_target_": target})) == 1


@pytest.mark.parametrize(
    ("extra", "path"),
    [
        ({"deep": [{"x": {"_target_": "pipeline.stages.nms.Nms"}}]}, "stage.mine.deep.0.x"),
        ({"deep": {"_target_": "os.system"}}, "stage.mine.deep"),
        ({"_partial_": True}, "stage.mine"),
        ({"_args_": [1]}, "stage.mine"),
        ({"_recursive_": False}, "stage.mine"),
        ({"_convert_": "all"}, "stage.mine"),
        ({"deep": {"_partial_": True}}, "stage.mine.deep"),
    ],
)
def test_arguments_of_a_declared_part_are_data(extra: dict[str, Any], path: str) -> None:
    (said,) = refusals("stage", {"_target_": "pipeline.stages.top_k.TopK", "k": 1, **extra})
    assert said.startswith(f"{path}: '_")


def test_elsewhere_a_target_is_data() -> None:
    config = {
        "model": {"metadata": {"_target_": "os.system"}, "labels": {"_target_": "os.system"}},
        "trusted_packages": [],
    }
    assert list(untrusted(config)) == []


@pytest.fixture
def user_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "mine" / "wrong.py").write_text("def f(:\n")
    (tmp_path / "mine" / "parts.py").write_text(
        "import os\nfrom functools import partial\n"
        "from pipeline.sources.decode.worker import Worker\n"
        "from pipeline.stages.top_k import TopK\nfrom pipeline.system.files import write_whole\n"
        "class Mine:\n    class Inner:\n        pass\n"
        "    @classmethod\n    def make(cls): return cls()\n"
        "def function(): pass\nready = partial(os.system, 'true')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.usefixtures("user_package")
@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("mine.parts.Mine", None),
        ("mine.parts.Mine.Inner", None),
        ("mine.parts.Mine.make", None),
        ("mine.parts.function", None),
        ("mine.parts.TopK", None),
        ("mine.parts.Worker", "(pipeline.sources.decode.worker.Worker)' is not a stage of d2run"),
        ("mine.parts.write_whole", "(pipeline.system.files.write_whole)' is not a stage of d2run"),
        ("mine.parts.os.system", "code of the package 'posix'"),
        ("mine.parts.ready", "code of the package 'functools'"),
        ("mine.parts.Mine.__class__", "code of the package 'builtins'"),
        ("mine.parts.function.__globals__", "code of the package '?'"),
        ("mine.parts.Mien", "cannot import 'mine.parts.Mien': ModuleNotFoundError: No module"),
        ("mine.broken.X", "cannot import 'mine.broken.X': ModuleNotFoundError: No module named "
         "'no_such_module'"),
        ("mine.wrong.X", "cannot import 'mine.wrong.X': SyntaxError: "),
    ],
)  # fmt: skip
def test_a_trusted_package(target: str, says: str | None) -> None:
    said = refusals("stage", {"_target_": target}, ("mine",))
    assert said == [] if says is None else (len(said) == 1 and says in said[0]), said
    nested = {"_target_": "mine.parts.Mine", "x": [{"y": {"_target_": target}}]}
    said = refusals("sink", nested, ("mine",))
    assert said == [] if says is None else said[0].startswith("sink.mine.x.0.y: "), said


@pytest.mark.usefixtures("user_package")
def test_a_part_of_d2run_inside_a_custom_one() -> None:
    node = {"_target_": "mine.parts.Mine", "x": {"_target_": "pipeline.stages.nms.Nms"}}
    assert refusals("stage", node, ("mine",)) == []
    node["x"] = {"_target_": "pipeline.sources.decode.worker.Worker"}
    assert len(refusals("stage", node, ("mine",))) == 1


@pytest.mark.usefixtures("user_package")
def test_a_package_whose_folder_is_missing() -> None:
    (said,) = refusals("stage", {"_target_": "nowhere.X"}, ("nowhere",))
    assert said.endswith("No module named 'nowhere'; is its folder in PYTHONPATH?")
