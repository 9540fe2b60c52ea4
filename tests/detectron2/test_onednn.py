"""Fused layers against the separate ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from random_model import ARCHITECTURES, RandomModel

from pipeline.runnables.speedups.rounding import onednn
from pipeline.runnables.speedups.rounding.memory_format import use_channels_last
from pipeline.runnables.speedups.rounding.norms import fold_norms
from pipeline.runnables.speedups.rounding.onednn import fuse_layers

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.detectron2

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}  # of the largest value


@pytest.fixture(autouse=True)
def _fusing() -> None:
    if not all(map(onednn._works, TOLERANCE)):
        pytest.skip("this torch, or this CPU, has no such operators")


def both(module: Any, *given: Any, dtype: Any = torch.float32) -> tuple[list[Any], list[Any]]:
    """Return the outputs of a module and of its fused copy for the same input."""
    from torch.utils._pytree import tree_flatten

    module = module.eval().requires_grad_(False).to(dtype, memory_format=torch.channels_last)
    fused = copy.deepcopy(module)
    assert fuse_layers(fused)
    before = [each.clone() for each in given]
    with torch.inference_mode():
        want = tree_flatten(module(*(each.to(dtype) for each in given)))[0]
        got = tree_flatten(fused(*given))[0]
    assert all(map(torch.equal, given, before))
    return want, got


def assert_same(want: list[Any], got: list[Any], dtype: Any = torch.float32) -> None:
    for one, two in zip(want, got, strict=True):
        assert one.shape == two.shape
        assert one.dtype == two.dtype == dtype
        atol = TOLERANCE[dtype] * max(1.0, float(one.abs().max()))
        torch.testing.assert_close(two, one, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", [None, torch.nn.ReLU(), torch.nn.functional.relu])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}, {"dilation": 2}])
def test_convolution(options: dict[str, int], activation: Any, dtype: Any) -> None:
    from detectron2.layers import Conv2d

    torch.manual_seed(0)
    layer = Conv2d(4, 8, 3, padding=1, activation=activation, **options)
    for shape in ((1, 4, 9, 12), (3, 4, 5, 5)):
        assert_same(*both(torch.nn.Sequential(layer), torch.randn(shape), dtype=dtype), dtype)
    module = torch.nn.Sequential(layer)
    assert fuse_layers(module)
    assert module(torch.empty(0, 4, 9, 9)).shape[:2] == (0, 8)


def test_other_layers_do_not_change() -> None:
    from detectron2.layers import Conv2d, get_norm

    layers = [
        Conv2d(32, 32, 3, norm=get_norm("GN", 32)),
        Conv2d(32, 32, 3, activation=torch.nn.functional.leaky_relu),
        torch.nn.Conv2d(32, 32, 3, padding="same"),
        torch.nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
    ]
    module = torch.nn.ModuleList(layers)
    fuse_layers(module)
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_linear(dtype: Any) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(7, 3), torch.nn.Linear(3, 2, bias=False))
    assert_same(*both(module, torch.randn(5, 7), dtype=dtype), dtype)
    assert module(torch.empty(0, 7, dtype=dtype)).shape == (0, 2)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("depth", [18, 50])
def test_residual_stages(depth: int, dtype: Any) -> None:
    from detectron2.modeling.backbone.resnet import ResNet

    torch.manual_seed(0)
    stage = torch.nn.Sequential(*ResNet.make_default_stages(depth, norm="")[0])
    channels = 64
    x = torch.randn(2, channels, 10, 12)
    assert_same(*both(stage, x, dtype=dtype), dtype)
    # a block whose input may be used elsewhere does not overwrite it
    alone = torch.nn.Sequential(stage[1])
    assert_same(*both(alone, torch.randn(1, 64 if depth == 18 else 256, 10, 12).relu()))


@pytest.mark.parametrize("architecture", ["mask_rcnn", "retinanet"])
def test_pyramid(architecture: str) -> None:
    from torch.utils._pytree import tree_flatten

    _, module = RandomModel(ARCHITECTURES[architecture], spread=3).load("cpu")
    module.requires_grad_(False)
    fold_norms(module)
    use_channels_last(module, pools_planes=False)
    x = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        want = module.backbone(x)
        assert fuse_layers(module)
        got = module.backbone(x)
        assert list(got) == list(want)
        assert_same(tree_flatten(want)[0], tree_flatten(got)[0])


@pytest.mark.parametrize("conv_dims", [(-1,), (8, 16)])
def test_rpn_head(conv_dims: tuple[int, ...]) -> None:
    from detectron2.modeling.proposal_generator.rpn import StandardRPNHead

    torch.manual_seed(0)
    head = StandardRPNHead(in_channels=8, num_anchors=3, conv_dims=conv_dims).requires_grad_(False)
    for layer in (head.objectness_logits, head.anchor_deltas):
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    use_channels_last(head, pools_planes=False)
    maps = [torch.randn(2, 8, 12, 9), torch.randn(2, 8, 6, 5)]
    with torch.inference_mode():
        want = head(maps)
        assert fuse_layers(torch.nn.Sequential(head))
        got = head(maps)
    assert [len(each) for each in got] == [2, 2]
    for some, others in zip(want, got, strict=True):
        assert_same(some, others)


@pytest.mark.parametrize("exc", [AttributeError("no attribute"), RuntimeError("needs avx512bw")])
def test_missing_operators(monkeypatch: pytest.MonkeyPatch, exc: Exception) -> None:
    """Only bfloat16 is missing, as on a CPU without AVX-512: nothing is fused for bf16."""
    working = onednn._linear

    def missing(layer: Any, x: Any) -> Any:
        if layer.weight.dtype is torch.bfloat16:
            raise exc
        return working(layer, x)

    onednn._works.cache_clear()
    monkeypatch.setattr(onednn, "_linear", missing)
    try:
        layer = torch.nn.Linear(2, 2)
        assert not fuse_layers(torch.nn.Sequential(layer), torch.bfloat16)
        assert "forward" not in vars(layer)
        assert fuse_layers(torch.nn.Sequential(layer))
    finally:
        onednn._works.cache_clear()


def test_the_check_does_not_change_random_numbers() -> None:
    onednn._works.cache_clear()
    before = torch.random.get_rng_state()
    fuse_layers(torch.nn.Sequential())
    assert torch.equal(torch.random.get_rng_state(), before)
