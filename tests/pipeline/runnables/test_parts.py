"""The small parts of the Detectron2 runnable: folding, packing, splitter, grouping, resizing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.runnables.batching import BatchSplitter, group_equal, power_of_two
from pipeline.runnables.speedups.parts import parts
from pipeline.runnables.speedups.rounding.norms import fold_norms
from pipeline.runnables.steps.fetch import fetch, pack, unpack
from pipeline.runnables.steps.paste import paste_masks
from pipeline.runnables.steps.preprocess import resize

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.detectron2


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN"])
@pytest.mark.parametrize("bias", [False, True])
def test_folded_norms(norm: str, bias: bool) -> None:
    from detectron2.layers import Conv2d, get_norm

    torch.manual_seed(1)
    conv = Conv2d(3, 8, 3, bias=bias, norm=get_norm(norm, 8), activation=torch.relu).eval()
    with torch.no_grad():
        conv.norm.running_mean.normal_()
        conv.norm.running_var.uniform_(0.5, 2)
        conv.norm.weight.normal_()
        conv.norm.bias.normal_()
        x = torch.randn(2, 3, 16, 16)
        before = conv.eval()(x) if norm != "SyncBN" else None
        assert fold_norms(torch.nn.Sequential(conv)) == 1
        assert conv.norm is None
        if before is not None:
            torch.testing.assert_close(conv(x), before, rtol=1e-5, atol=1e-5)
    assert fold_norms(conv) == 0


def test_norms_that_are_not_constant_stay() -> None:
    from detectron2.layers import Conv2d, get_norm

    group = Conv2d(3, 32, 3, norm=get_norm("GN", 32)).eval()
    training = Conv2d(3, 8, 3, norm=get_norm("BN", 8)).train()
    assert fold_norms(torch.nn.ModuleList([group, training])) == 0


def test_a_module_of_a_users_own_is_not_taken_apart() -> None:
    assert not list(parts(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))))


def test_packed_and_unpacked() -> None:
    tensors = [
        torch.tensor([True, False, True]),
        torch.arange(5, dtype=torch.int64),
        torch.randn(2, 3).T,
        torch.empty(0, 4),
        torch.randn(7).half(),
        torch.tensor(3, dtype=torch.int32),
    ]
    packed = pack(tensors)
    assert packed.dtype == torch.uint8
    for got, want in zip(unpack(packed, tensors), tensors, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert torch.equal(got, want)


def test_what_is_on_the_host_stays_there() -> None:
    tree = [{"a": torch.ones(2), "b": (1, "x")}]
    assert fetch(tree) == (tree, None)


def test_splitter() -> None:
    calls = []

    def double(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("no")
        return [2 * item for item in items]

    splitter = BatchSplitter()
    assert splitter(double, range(9)) == [2 * i for i in range(9)]
    assert calls == [9, 4, 2, 2, 2, 2, 1]
    assert splitter.max_items == 2
    assert splitter(double, [5]) == [10]
    assert splitter(double, []) == []


def test_other_errors_are_not_caught() -> None:
    def fail(items: Sequence[int]) -> list[int]:
        raise RuntimeError("other")

    splitter = BatchSplitter()
    with pytest.raises(RuntimeError, match="other"):
        splitter(fail, [1, 2])
    assert splitter.max_items is None


def test_groups() -> None:
    assert list(group_equal(["a", "b", "a", "c", "b"])) == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize(("n", "power"), [(-3, 1), (0, 1), (1, 1), (3, 2), (9, 8), (99, 16)])
def test_power_of_two(n: int, power: int) -> None:
    assert power_of_two(n) == power


@pytest.mark.parametrize("shape", [(80, 120), (33, 47), (240, 300)])
def test_resized_as_pillow_does(shape: tuple[int, int]) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    want = np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR))
    got = resize(torch.from_numpy(pixels).permute(2, 0, 1), shape).permute(1, 2, 0).numpy()
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1


def test_pasted_as_detectron2_does() -> None:
    from detectron2.layers.mask_ops import paste_masks_in_image

    torch.manual_seed(0)
    size = (120, 90)
    corners = torch.rand(300, 2) * 110 - 10
    boxes = torch.cat([corners, corners + torch.rand(300, 2) * 90 + 0.01], dim=1)
    boxes[:, 0::2].clamp_(0, size[1])
    boxes[:, 1::2].clamp_(0, size[0])
    boxes = boxes[((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]]
    probs = torch.rand(len(boxes), 1, 28, 28)
    want = paste_masks_in_image(probs[:, 0], boxes, size, 0.5)
    np.testing.assert_array_equal(paste_masks(probs, boxes, size).dense(), want.numpy())
