"""Models that cannot run are refused: by their config, after loading, and by the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_model import CLASS_NAMES, picture, tiny_cfg

from pipeline.errors import ConfigError
from pipeline.records import Categories, Frame
from pipeline.runnables.detectron2 import Detectron2
from pipeline.store import Model, ModelStore, save_model
from pipeline.store.api import checks

pytestmark = pytest.mark.detectron2

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
ROTATED = (
    "MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.ANGLES", [[-90, -60, -30, 0, 30, 60]],
    "MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 1, 1, 1),
    "MODEL.ROI_HEADS.NAME", "RROIHeads", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10, 10, 5, 5, 1),
)  # fmt: skip
UNSUPPORTED: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "four channels": (
        MASK_RCNN,
        ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0, 4.0], "MODEL.PIXEL_STD", [1.0, 1.0, 1.0, 1.0]),
        "MODEL.PIXEL_MEAN has 4 values",
    ),
    "gray": (
        MASK_RCNN,
        ("MODEL.PIXEL_MEAN", [1.0], "MODEL.PIXEL_STD", [1.0], "INPUT.FORMAT", "L"),
        "PIXEL_MEAN has 1 values.*INPUT.FORMAT: expected RGB or BGR, got L",
    ),
    "divided by 0": (MASK_RCNN, ("MODEL.PIXEL_STD", [1.0, 0, 1.0]), "divided by 0"),
    "rotated": ("COCO-Detection/faster_rcnn_R_50_FPN_3x", ROTATED, "rotated boxes"),
    "Fast R-CNN": ("COCO-Detection/fast_rcnn_R_50_FPN_1x", (), "precomputed proposals"),
    "its generator": (
        MASK_RCNN,
        ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        "precomputed proposals",
    ),
    "dconv": ("Misc/mask_rcnn_R_50_FPN_3x_dconv_c3-c5", (), "deformable convolutions"),
    "cascade dconv": (
        "Misc/cascade_mask_rcnn_R_50_FPN_3x",
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        "deformable convolutions",
    ),
    "Panoptic-DeepLab": (
        MASK_RCNN,
        ("MODEL.META_ARCHITECTURE", "PanopticDeepLab"),
        "Panoptic-DeepLab is not supported",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_refused_by_the_config(name: str) -> None:
    if "dconv" in name:
        pytest.importorskip("detectron2")
        try:
            from detectron2 import _C  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("this Detectron2 has the operator")
    config, opts, says = UNSUPPORTED[name]
    model = Model("mine", config=config, weights="random", opts=opts, class_names=CLASS_NAMES)
    with pytest.raises(ConfigError, match=f"model 'mine' cannot run: .*{says}"):
        model.check()


def test_options_override_the_config() -> None:
    opts = ("MODEL.LOAD_PROPOSALS", False, "MODEL.PROPOSAL_GENERATOR.NAME", "RPN")
    config = "COCO-Detection/fast_rcnn_R_50_FPN_1x"
    Model("mine", config=config, weights="random", opts=opts, class_names=CLASS_NAMES).check()


class Changed:
    """A tiny Mask R-CNN that was modified."""

    name = "mine"
    categories = Categories(thing_names=tuple(CLASS_NAMES))

    def __init__(self, change: Any, **more: Any) -> None:
        self.change, self.more = change, more

    def load(self, device: str) -> Any:
        from detectron2.modeling import build_model

        cfg = tiny_cfg(**self.more)
        module = build_model(cfg).eval()
        self.change(module)
        return cfg, module


def outputs(found: Any) -> Any:
    def change(module: Any) -> None:
        module.forward = lambda inputs: [found(module, item) for item in inputs]

    return change


def instances(**fields: Any) -> Any:
    def found(module: Any, item: Any) -> Any:
        import torch
        from detectron2.structures import Boxes, Instances, RotatedBoxes

        values = {
            "pred_boxes": Boxes(torch.tensor([[0.0, 0, 9, 9]])),
            "scores": torch.ones(1),
            "pred_classes": torch.zeros(1).long(),
            "rotated": RotatedBoxes(torch.tensor([[4.0, 4, 9, 9, 30]])),
            "seventh": torch.full((1,), 7),
        }
        chosen = {name: values[value] for name, value in fields.items()}
        return {"instances": Instances((item["height"], item["width"]), **chosen)}

    return outputs(found)


SOUND = {"pred_boxes": "pred_boxes", "scores": "scores", "pred_classes": "pred_classes"}


def breaks(module: Any, *path: str) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError

    for name in path:
        module = getattr(module, name)
    module.forward = fail


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: breaks(m, "backbone"), "AssertionError: raise AssertionError"),
        (lambda m: breaks(m, "roi_heads", "mask_head"), "AssertionError"),  # it finds nothing
        (outputs(lambda *_: {}), "neither instances nor sem_seg nor panoptic_seg"),
        (outputs(lambda *_: 7), "TypeError"),
        (outputs(lambda *_: {"panoptic_seg": (None, None)}), "has no list of segments"),
        (instances(pred_boxes="pred_boxes"), "its instances have no scores, pred_classes"),
        (instances(**SOUND | {"pred_boxes": "rotated"}), "its boxes are RotatedBoxes"),
        (instances(**SOUND | {"pred_classes": "seventh"}), r"expected ids in 0\.\.2, got 7"),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_refused_after_loading(change: Any, says: str, exact: bool) -> None:
    model = Changed(change, MODEL__ROI_HEADS__SCORE_THRESH_TEST=1.0)
    with (
        pytest.raises(ConfigError, match=f"^model 'mine' cannot run: it fails .*{says}") as caught,
        Detectron2(model, "cpu", exact=exact),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_model_that_accepts_only_large_images_runs() -> None:
    def change(module: Any) -> None:
        whole = module.backbone.forward

        def forward(x: Any) -> Any:
            assert x.shape[2] >= 96, "too small"
            return whole(x)

        module.backbone.forward = forward

    with Detectron2(Changed(change), "cpu") as runnable:
        assert len(runnable.predict([Frame(picture(), "x")])[0])


def test_random_numbers_do_not_change() -> None:
    import torch

    before = torch.get_rng_state()

    def change(module: Any) -> None:
        module.register_forward_pre_hook(lambda *_: torch.rand(()) > 1 or None)

    with torch.random.fork_rng(devices=[]):
        with Detectron2(Changed(change), "cpu"):
            during = torch.get_rng_state()
        assert torch.equal(during, torch.get_rng_state())
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "root")


@pytest.mark.parametrize("name", ["four channels", "Fast R-CNN"])
def test_the_store_refuses_it(name: str, store: ModelStore) -> None:
    from detectron2.modeling import build_model

    config, opts, says = UNSUPPORTED[name]
    cfg = tiny_cfg(config)
    cfg.merge_from_list(list(opts))
    with pytest.raises(ConfigError, match=f"model 'mine' cannot run.*{says}"):
        save_model("mine", build_model(cfg), cfg, class_names=CLASS_NAMES, store=store)
    assert not store.tags()


def test_the_store_verifies_that_it_runs(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.modeling import GeneralizedRCNN, build_model

    from pipeline.store.api import selftest

    monkeypatch.setattr(selftest, "record", lambda _: None)  # as an earlier version may have done
    cfg = tiny_cfg()
    saved = save_model("mine", build_model(cfg), cfg, class_names=CLASS_NAMES, store=store)
    assert checks.verify_model(store.root, saved).endswith("no self-test, but it runs")

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(GeneralizedRCNN, "inference", fails)
    with pytest.raises(ConfigError, match=r"'mine:.*' cannot run: .*no such operator"):
        checks.verify_model(store.root, saved)
