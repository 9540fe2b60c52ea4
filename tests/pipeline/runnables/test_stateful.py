"""Modules with state: one forward at a time, and a failed forward does not change the state."""

from __future__ import annotations

import functools
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripted import ListedAsset, run

from pipeline.records import Categories, Frame, Result
from pipeline.runnables.detectron2 import Detectron2
from pipeline.runnables.state.stateless import find_state_risks

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.detectron2

BAD = 200  # pixels that the model cannot take
calls = 0
table: dict[str, int] = {}


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Any) -> Any:
        calls = self.calls
        time.sleep(0.002)  # time for another thread
        self.calls = calls + 1
        return x + self.calls


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.level.mul_(0.5).add_(x)
        return x + self.level


class NewLevel(Level):
    def forward(self, x: Any) -> Any:
        self.level = self.level * 0.5 + x
        return x + self.level


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Any) -> Any:
        self.weight.data.mul_(1.1)
        return x * self.weight


class History(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.by_name: dict[str, Any] = {"all": set()}
        self.inner = SimpleNamespace(n=0)

    def forward(self, x: Any) -> Any:
        self.seen.append(x)
        self.by_name["all"].add(len(self.seen))
        self.inner.n += 1
        return x + sum(self.seen) + len(self.by_name["all"]) + self.inner.n


class Shared(nn.Module):
    n = 0

    def forward(self, x: Any) -> Any:
        Shared.n += 1
        return x + Shared.n


class Global(nn.Module):
    def forward(self, x: Any) -> Any:
        global calls
        calls += 1
        table["n"] = table.get("n", 0) + 2
        return x + calls + table["n"]


class Default(nn.Module):
    def forward(self, x: Any, seen: list[int] = []) -> Any:  # noqa: B006
        seen.append(1)
        return x + len(seen)


class Iterated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    def forward(self, x: Any) -> Any:
        return x + next(self.numbers)


@functools.lru_cache
def first(key: int) -> list[int]:
    return []


class Cached(nn.Module):
    def forward(self, x: Any) -> Any:
        first(0).append(1)
        return x + len(first(0))


class Drawn(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + torch.rand(()) + float(np.random.rand()) + random.random()


class Stretched(nn.Identity):
    """A subclass that changes nothing, which is not known either."""


class HookObject:
    def __init__(self) -> None:
        self.n = 0

    def __call__(self, *args: Any) -> Any:
        self.n += 1
        return args[-1] + self.n


def with_closure() -> Any:
    n = 0

    def hook(module: Any, args: Any, output: Any) -> Any:
        nonlocal n
        n += 1
        return output + n

    module = nn.Identity()
    module.register_forward_hook(hook)
    return module


def with_hook_object() -> Any:
    module = nn.Identity()
    module.register_forward_hook(HookObject())
    return module


def with_pre_hook() -> Any:
    seen: list[int] = []

    def hook(module: Any, args: Any) -> Any:
        seen.append(1)
        return (args[0] + len(seen),)

    module = nn.Identity()
    module.register_forward_pre_hook(hook)
    return module


def with_own_forward() -> Any:
    module = nn.Identity()
    counter = Counter()
    module.forward = counter.forward
    return module


def in_training() -> Any:
    module = nn.Dropout(0.5)
    module.eval = lambda: module
    return module


def cycle() -> Any:
    from detectron2.layers import CycleBatchNormList

    norms = CycleBatchNormList(3, num_features=1)
    for i, norm in enumerate(norms):
        norm.running_mean.fill_(i)

    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = norms

        def forward(self, x: Any) -> Any:
            is_bad = x >= BAD
            for k in range(1, 4):
                if k == 3 and is_bad:
                    raise RuntimeError("in the middle of a cycle")
                x = x + k * self.norms(x.view(1, 1, 1, 1)).view(())
            return x

    return Thrice()


KINDS: dict[str, Callable[[], Any]] = {
    each.__name__: each
    for each in (
        Counter, Level, NewLevel, Weight, History, Shared, Global, Default, Iterated, Cached, Drawn,
        with_closure, with_hook_object, with_pre_hook, with_own_forward, in_training, cycle,
    )
}  # fmt: skip


class Model(nn.Module):
    """One box per image, as wide as the layer says."""

    def __init__(self, layer: Any, most: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.layer, self.most = layer, most

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.found(i, item) for i, item in enumerate(inputs)]

    def found(self, i: int, item: dict[str, Any]) -> dict[str, Any]:
        from detectron2.structures import Boxes, Instances

        mean = item["image"].mean()
        value = self.layer(mean)
        if mean >= BAD:  # the layer has changed its state by now
            raise RuntimeError("too bright")
        if i >= self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        score = torch.sigmoid(value / 500).view(1)
        box = Boxes(torch.tensor([[0.0, 0.0, 4.0, 4.0]]))
        fields = {"pred_boxes": box, "scores": score, "pred_classes": torch.zeros(1).long()}
        return {"instances": Instances((item["height"], item["width"]), **fields)}


@dataclass
class Given:
    kind: str
    most: int = 99
    categories: Categories = field(default_factory=lambda: Categories(thing_names=("thing",)))
    name: str = "given"

    def load(self, device: str) -> Any:
        from detectron2.config import get_cfg

        cfg = get_cfg()
        cfg.INPUT.MIN_SIZE_TEST = 0  # no resizing
        return cfg, fresh(self.kind, self.most)


def fresh(kind: str, most: int = 99) -> Any:
    """Return a new model, and reset all state outside it."""
    global calls
    calls, Shared.n = 0, 0
    table.clear()
    first.cache_clear()
    Default.forward.__defaults__[0].clear()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    return Model(KINDS[kind](), most).eval()


@dataclass
class Image(ListedAsset):
    level: int = 0

    def frames(self) -> Any:
        yield Frame(np.full((8, 8, 3), self.level, np.uint8), self.id)


@dataclass
class Scores:
    found: dict[str, float] = field(default_factory=dict)

    def begin(self, asset: Any) -> None: ...

    def write(self, result: Result) -> None:
        self.found[result.frame.asset_id] = float(result.predictions.scores[0])

    def flush(self, asset: Any) -> None: ...

    def discard(self, asset: Any) -> None: ...


def in_turn(kind: str, levels: list[int]) -> list[float]:
    """Return the scores of the model for one image after the other."""
    model = fresh(kind)
    inputs = [{"image": torch.full((3, 8, 8), float(i)), "height": 8, "width": 8} for i in levels]
    with torch.inference_mode():
        return [float(model([item])[0]["instances"].scores[0]) for item in inputs]


def by_run(kind: str, levels: list[int], most: int = 99, **options: Any) -> list[float | None]:
    sink = Scores()
    with Detectron2(Given(kind, most), "cpu", **options) as runnable:
        assert runnable.forwards == 1
        assets = [Image(f"{i}", level=level) for i, level in enumerate(levels)]
        outcomes = run(assets, runnable=runnable, sinks={"s": sink})
    assert [outcome.error is None for outcome in outcomes] == [level < BAD for level in levels]
    return [sink.found.get(asset.id) for asset in assets]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{"forwards": 2}, pytest.param({"exact": True}, marks=pytest.mark.nightly)]
)
def test_images_in_turn(kind: str, options: dict[str, Any]) -> None:
    levels = [3, 1, 4, 1, 5, 9]
    assert by_run(kind, levels, **options) == in_turn(kind, levels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_forward_does_not_change_the_state(kind: str) -> None:
    found = by_run(kind, [3, BAD, 4, BAD, 5])
    assert [each for each in found if each is not None] == in_turn(kind, [3, 4, 5])


@pytest.mark.parametrize("kind", KINDS)
def test_nor_does_a_forward_without_memory(kind: str) -> None:
    found = by_run(kind, [3, 1, 4, 1], most=1, batch_size=2)
    assert found == in_turn(kind, [3, 1, 4, 1])


@pytest.mark.parametrize("kind", [*KINDS, "Stretched"])
def test_each_kind_is_a_risk(kind: str) -> None:
    module = nn.Sequential(nn.ReLU(), (KINDS | {"Stretched": Stretched})[kind]()).eval()
    found = [str(risk) for risk in find_state_risks(module)]
    assert found
    assert all(text.startswith("1") for text in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m[0].train(), "0 is in training mode"),
        (lambda m: setattr(m[1].norm, "forward", print), "1.norm has a custom forward method"),
        (
            lambda m: setattr(m[1], "activation", lambda x: x),
            "1 has an attribute activation that is not",
        ),
        (lambda m: m.register_forward_hook(print), "the model has a forward hook"),
        (
            lambda m: setattr(m, "history", [Counter()]),
            "the model has an attribute history that is not known",
        ),
    ],
)
def test_modifications_of_a_listed_module_are_found(change: Any, says: str) -> None:
    from detectron2.layers import Conv2d, get_norm

    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), Conv2d(8, 8, 3, norm=get_norm("BN", 8), activation=torch.relu)
    ).eval()
    assert not find_state_risks(module)
    change(module)
    assert str(find_state_risks(module)[0]).startswith(says)


def test_replaced_methods_of_a_class_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.modules import module as torch_module

    module = nn.Sequential(nn.Identity()).eval()
    with monkeypatch.context() as patch:
        patch.setattr(nn.Identity, "forward", lambda self, x: x)
        assert "0 has a method forward that" in str(find_state_risks(module)[0])
    with monkeypatch.context() as patch:
        patch.setitem(torch_module._global_forward_hooks, 0, print)
        assert str(find_state_risks(module)[0]) == "the model runs a global forward hook of torch"
    assert not find_state_risks(module)


def test_the_record_has_the_reason() -> None:
    with Detectron2(Given("Counter"), "cpu", forwards=3) as runnable:
        said = runnable.describe()
        (warning,) = runnable.warnings
    assert (said["forwards"], said["threads"]) == (1, torch.get_num_threads())
    assert said["forwards_reason"].endswith("Model, which is not known to be stateless")
    assert warning.startswith("runnable.forwards=3 is reduced to 1: the model is ")
