"""Methods that speed-ups replace are distinguished from those that other code replaced."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from pipeline.runnables.speedups.patching import replace_method, replaced_methods, wrap_method
from pipeline.runnables.state.stateless import find_state_risks

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.detectron2


def double(x: Any) -> Any:
    return x * 2


def plus_one(forward: Any) -> Any:
    return lambda x: forward(x) + 1


def test_only_the_instance_changes() -> None:
    changed, other = nn.Identity(), nn.Identity()
    assert replace_method(changed, "forward", double)
    assert (changed(3), other(3), nn.Identity()(3)) == (6, 3, 3)
    assert replaced_methods(changed) == {"forward": double}
    assert not replaced_methods(other)


def test_wrappers_see_what_was_there() -> None:
    module = nn.Identity()
    replace_method(module, "forward", double)
    wrap_method(module, "forward", plus_one)
    assert module(3) == 7


def test_hooks_still_run() -> None:
    module = nn.Identity()
    module.register_forward_pre_hook(lambda _, args: (args[0] + 10,))
    module.register_forward_hook(lambda _, __, output: -output)
    replace_method(module, "forward", double)
    assert module(3) == -26


def test_a_custom_method_of_the_instance_stays() -> None:
    module = nn.Identity()
    module.forward = lambda x: x + 5
    assert not replace_method(module, "forward", double)
    assert module(3) == 8
    wrap_method(module, "forward", plus_one)  # calls it
    assert module(3) == 9


def test_replaced_again() -> None:
    module = nn.Identity()
    replace_method(module, "forward", double)
    assert replace_method(module, "forward", abs)
    assert module(-3) == 3


def test_copies_know_their_replaced_methods() -> None:
    module = nn.Sequential(nn.Identity())
    replace_method(module[0], "forward", double)
    copied = deepcopy(module)
    assert replaced_methods(copied[0]) == {"forward": double}


def test_state_risks_name_the_origin() -> None:
    module = nn.Sequential(nn.Identity(), nn.Identity()).eval()
    replace_method(module[0], "forward", double)
    assert [str(risk) for risk in find_state_risks(module)] == [
        "0 already has a forward of d2run's speed-ups"
    ]
    module[0].forward = abs  # replaced by other code since
    (risk,) = find_state_risks(module)
    assert str(risk) == "0 has a custom forward method"
    assert risk.is_modified
