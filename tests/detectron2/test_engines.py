"""The engines and their options, each compared with DefaultPredictor."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import ARCHITECTURES, PHOTOS, RandomModel, photo, reference

from pipeline.errors import ConfigError, DeviceLostError, InferenceError
from pipeline.records import Frame, Predictions, Result
from pipeline.runnables.detectron2 import Detectron2
from pipeline.stages.keep_classes import KeepClasses
from pipeline.stages.min_score import MinScore
from pipeline.stages.top_k import TopK

pytestmark = pytest.mark.detectron2

SMALL = (
    "INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 144,
    "MODEL.RPN.POST_NMS_TOPK_TEST", 50, "TEST.DETECTIONS_PER_IMAGE", 20,
)  # fmt: skip


IN_OPENVINO = ("mask_rcnn", "retinanet", "panoptic_fpn")  # with all kinds of parts


def assert_close(got: Predictions, want: dict[str, Any], share: float = 0.999) -> None:
    """Check that a share of the detections pairs within 0.05 px and 1e-3 in score."""
    if "instances" in want:
        instances = want["instances"]
        boxes, scores = instances.pred_boxes.tensor.numpy(), instances.scores.numpy()
        near = np.abs(got.boxes[:, None] - boxes).max(axis=2) <= 0.05
        near &= np.abs(got.scores[:, None] - scores) <= 1e-3
        near &= got.classes[:, None] == instances.pred_classes.numpy()
        assert abs(len(got) - len(boxes)) <= len(boxes) * (1 - share)
        assert near.any(axis=0).mean() >= share
        assert near.any(axis=1).mean() >= share
        assert (got.masks is not None) == instances.has("pred_masks")
        if got.masks is not None:
            pairs = np.argwhere(near)
            bitmaps = instances.pred_masks.numpy()[pairs[:, 1]]
            differ = (got.masks[pairs[:, 0]].dense() != bitmaps).mean(axis=(1, 2))
            assert np.median(differ) < 1e-4
        if got.keypoints is not None:
            assert got.keypoints.shape == instances.pred_keypoints.shape
    if "sem_seg" in want:
        assert (got.sem_seg != want["sem_seg"].argmax(dim=0).numpy()).mean() < 1e-3
    if "panoptic_seg" in want:
        assert (got.panoptic_seg != want["panoptic_seg"][0].numpy()).mean() < 1e-2


def needs_openvino(engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")


@pytest.mark.parametrize("exact", [True, False])
def test_the_weights_are_freed(exact: bool) -> None:
    model = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL)
    with Detectron2(model, "cpu", exact=exact) as runnable:
        runnable.predict([Frame(photo(next(iter(PHOTOS))), "x")])
        module = weakref.ref(runnable._module)
    assert module() is None


@pytest.mark.parametrize(
    ("model", "engine"),
    [(name, "torch") for name in ARCHITECTURES]
    + [
        pytest.param(name, "openvino", marks=[] if name in IN_OPENVINO else pytest.mark.nightly)
        for name in ARCHITECTURES
    ],
    indirect=["model"],
    scope="session",
)
def test_rearranged(model: RandomModel, expected: list[dict[str, Any]], engine: str) -> None:
    needs_openvino(engine)
    images = [photo(name) for name in PHOTOS]
    with Detectron2(model, "cpu", engine=engine) as runnable:
        if engine == "openvino":
            assert not [part for part in runnable.describe()["parts"].values() if part == "torch"]
        for image, want in zip(images, expected, strict=True):
            assert_close(runnable.predict([Frame(image, "x")])[0], want)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("architecture", ["mask_rcnn", "retinanet"])
def test_four_frames_share_a_forward(architecture: str, engine: str) -> None:
    needs_openvino(engine)
    model = RandomModel(ARCHITECTURES[architecture], SMALL, spread=3)
    image = photo("coffee")
    images = [image, image[:, ::-1].copy(), image[::-1].copy(), image[::-1, ::-1].copy()]
    with Detectron2(model, "cpu", engine=engine) as runnable:
        got = runnable.predict([Frame(image, "x") for image in images])
    for predictions, want in zip(got, reference(model, images), strict=True):
        assert_close(predictions, want)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_nothing_found(engine: str) -> None:
    needs_openvino(engine)
    model = RandomModel(
        ARCHITECTURES["mask_rcnn"], (*SMALL, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0)
    )
    with Detectron2(model, "cpu", engine=engine) as runnable:
        assert len(runnable.predict([Frame(photo("coffee"), "x")])[0]) == 0


def test_parts_that_openvino_cannot_compute_stay_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    from pipeline.runnables.speedups.rounding import openvino

    def wrong(part: Any, *args: Any) -> Any:
        raise ValueError("no such operation")

    warnings: list[str] = []
    monkeypatch.setattr(openvino, "convert", wrong)
    monkeypatch.setattr(openvino._LOG, "warning", lambda text, *args: warnings.append(text % args))
    model = RandomModel(ARCHITECTURES["retinanet"], SMALL, spread=3)
    image = photo("coffee")
    with Detectron2(model, "cpu", engine="openvino") as runnable:
        assert_close(runnable.predict([Frame(image, "x")])[0], reference(model, [image])[0])
        assert runnable.describe()["parts"] == {"backbone": "torch", "head": "torch"}
    assert warnings[0] == (
        "backbone stays in torch: OpenVINO fails with ValueError: no such operation"
    )


def test_openvino_cache(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = RandomModel(ARCHITECTURES["retinanet"], SMALL, spread=3)
    frame, folder = Frame(photo("coffee"), "x"), tmp_path / "new" / "cache"

    def predicted(cache: Path | None) -> Predictions:
        options = {"engine": "openvino", "cache": cache and str(cache)}
        with Detectron2(model, "cpu", **options) as runnable:
            assert set(runnable.describe()["parts"].values()) == {"openvino"}
            return runnable.predict([frame])[0]

    want = predicted(None)
    for _ in range(2):
        got = predicted(folder)
        assert got.boxes.tobytes() == want.boxes.tobytes()
        assert got.scores.tobytes() == want.scores.tobytes()
    blobs = list(folder.iterdir())
    assert len(blobs) == 2
    for blob in blobs:  # as a killed run leaves it
        whole = blob.read_bytes()
        blob.unlink()
        blob.write_bytes(whole[: len(whole) // 2])
    assert predicted(folder).boxes.tobytes() == want.boxes.tobytes()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"runnable\.cache: cannot create '.*file'"):
        predicted(tmp_path / "file")


def test_the_steps_equal_predict() -> None:
    model = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL)
    frames = [Frame(photo(name), name) for name in ("chelsea", "astronaut", "chelsea")]
    with Detectron2(model, "cpu", engine="torch") as runnable:
        prepared = [runnable.prepare(frame) for frame in frames]
        assert [item.shape for item in prepared] == [(96, 144), (96, 96), (96, 144)]
        assert {str(item.image.dtype) for item in prepared} == {"torch.uint8"}
        outputs = runnable.forward(prepared)
        got = [runnable.finish(*pair) for pair in zip(frames, outputs, strict=True)]
        again = [runnable.finish(*pair) for pair in zip(frames, outputs, strict=True)]
        for one, two, three in zip(got, again, runnable.predict(frames), strict=True):
            assert_same(one, two)
            assert_same(one, three)
    assert len(got[0])


def assert_same(one: Predictions, two: Predictions) -> None:
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.masks is not None
    assert two.masks is not None
    assert one.masks.rle() == two.masks.rle()


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=pytest.mark.nightly)])
def test_forwards_at_once(engine: str) -> None:
    needs_openvino(engine)
    import torch

    before = torch.get_num_threads()
    model = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL, spread=3)
    photos = [photo(name) for name in (*PHOTOS, "coffee")]
    images = [np.ascontiguousarray(np.rot90(image, k)) for image in photos for k in range(4)]
    frames = [Frame(image, str(i)) for i, image in enumerate(images)]
    with (
        Detectron2(model, "cpu", engine=engine, forwards=3) as runnable,
        ThreadPoolExecutor(3) as pool,
    ):
        assert runnable.forwards == runnable.describe()["forwards"] == 3
        assert runnable.threads == max(1, before // 3)
        assert pool.submit(torch.get_num_threads).result() == runnable.threads
        alone = [runnable.predict([frame])[0] for frame in frames]
        got = list(pool.map(lambda frame: runnable.predict([frame])[0], frames))
    assert torch.get_num_threads() == before
    for one, two, want in zip(got, alone, reference(model, images), strict=True):
        assert_same(one, two)
        assert_close(one, want)


def predicted(model: RandomModel, frame: Frame, **options: Any) -> Predictions:
    with Detectron2(model, "cpu", **options) as runnable:
        return runnable.predict([frame])[0]


# the others take a minute each
_LONG = [
    pytest.param(name, marks=pytest.mark.nightly) for name in ("mask_rcnn_c4", "cascade_mask_rcnn")
]
WITH_PUSHDOWN = ["mask_rcnn", "retinanet", "panoptic_fpn", *_LONG]


@pytest.mark.parametrize("architecture", WITH_PUSHDOWN)
def test_pushdown_changes_no_result(architecture: str) -> None:
    model = RandomModel(ARCHITECTURES[architecture], SMALL, spread=3)
    frame = Frame(photo("coffee"), "x")

    found = partial(predicted, model, frame, engine="torch")
    everything = found()
    score = float(np.sort(everything.scores)[len(everything) // 3])  # as high as one of them
    for most in (None, 5):
        stages = [MinScore(score), TopK(most or 1000)]
        want, got = (
            Result(frame, everything),
            Result(frame, found(min_score=score, max_instances=most)),
        )
        if architecture == "retinanet":  # a limit does not apply
            assert len(got.predictions) == (everything.scores >= score).sum()
        elif architecture != "panoptic_fpn":  # its map needs more instances
            assert len(got.predictions) == min(most or 1000, (everything.scores >= score).sum())
        for stage in stages:
            want, got = stage(want), stage(got)
        assert 0 < len(want.predictions) < len(everything)
        assert_kept(got.predictions, want.predictions)


@pytest.mark.parametrize("architecture", WITH_PUSHDOWN)
def test_pushdown_of_classes_changes_no_result(architecture: str) -> None:
    narrow = architecture != "retinanet"  # which then finds a single class
    model = RandomModel(ARCHITECTURES[architecture], SMALL, spread=3, narrow=narrow)
    frame = Frame(photo("coffee"), "x")
    masks = []

    def found(**less: Any) -> Predictions:
        with Detectron2(model, "cpu", engine="torch", **less) as runnable:
            if head := getattr(getattr(runnable._module, "roi_heads", None), "mask_head", None):
                head.register_forward_pre_hook(lambda _, given: masks.append(len(given[0])))
            return runnable.predict([frame])[0]

    everything = found()
    seen = np.unique(everything.classes)
    classes = [everything.class_names[i] for i in seen[::2]]
    wanted = np.isin(everything.classes, seen[::2])
    assert 1 < wanted.sum() < len(everything)
    for most in (None, 1):
        stages = [KeepClasses(classes), TopK(most or 1000)]
        got = Result(frame, found(classes=classes, max_instances=most))
        if architecture == "retinanet":  # has no masks that can be skipped
            assert len(got.predictions) == len(everything)
        elif architecture != "panoptic_fpn":  # its map needs more instances
            assert len(got.predictions) == masks[-1] == min(most or 1000, wanted.sum())
            assert masks[0] == len(everything)
        want = Result(frame, everything)
        for stage in stages:
            want, got = stage(want), stage(got)
        assert_kept(got.predictions, want.predictions)


@pytest.mark.parametrize("architecture", ["mask_rcnn", *_LONG])
def test_boxes_without_an_area_do_not_count(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.modeling.roi_heads import cascade_rcnn, fast_rcnn

    whole = fast_rcnn.fast_rcnn_inference

    def flattened(*args: Any, **kwargs: Any) -> Any:
        """Set the width of the three best instances to 0."""
        instances, rows = whole(*args, **kwargs)
        for each in instances:
            boxes = each.pred_boxes.tensor
            boxes[:3, 2] = boxes[:3, 0]
        return instances, rows

    for holder in (cascade_rcnn, fast_rcnn):
        monkeypatch.setattr(holder, "fast_rcnn_inference", flattened)
    model = RandomModel(ARCHITECTURES[architecture], SMALL, spread=3)
    frame = Frame(photo("coffee"), "x")

    found = partial(predicted, model, frame, engine="torch")
    everything = found()
    for most in (1, 4):
        want = TopK(most)(Result(frame, everything))
        got = found(max_instances=most)
        assert len(want.predictions) == len(got) == most
        assert_kept(got, want.predictions)


def changed(change: Callable[[Any], None]) -> RandomModel:
    """Return a modified model of Detectron2."""

    class Model(RandomModel):
        def load(self, device: str) -> Any:
            cfg, module = super().load(device)
            change(module)
            return cfg, module

    return Model(ARCHITECTURES["mask_rcnn"], SMALL, spread=3)


def test_no_pushdown_with_a_head_that_changes_scores() -> None:
    from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

    class ChangesScores(MaskRCNNConvUpsampleHead):  # type: ignore[misc]
        def forward(self, x: Any, instances: Any) -> Any:
            found = super().forward(x, instances)
            for each in found:
                each.scores = 1 - each.scores
            return found

    def change(module: Any) -> None:
        module.roi_heads.mask_head.__class__ = ChangesScores

    less = {"min_score": 0.9, "max_instances": 1, "classes": ["thing_0"]}
    assert len(predicted(changed(change), Frame(photo("coffee"), "x"), **less)) > 1


@pytest.mark.parametrize("exact", [True, False])
def test_an_architecture_with_a_custom_forward(exact: bool) -> None:
    from detectron2.modeling import GeneralizedRCNN

    class Own(GeneralizedRCNN):  # type: ignore[misc]
        def forward(self, inputs: Any) -> Any:
            return [{"instances": each["instances"][:3]} for each in super().forward(inputs)]

    def change(module: Any) -> None:
        module.__class__ = Own

    got = predicted(changed(change), Frame(photo("coffee"), "x"), exact=exact)
    assert len(got) == 3
    assert got.masks is not None


def test_a_backbone_that_returns_every_block() -> None:
    from detectron2.modeling.backbone.resnet import ResNet

    class Sums(ResNet):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            found, x = {}, self.stem(x)
            for name, stage in zip(self.stage_names, self.stages, strict=True):
                blocks = []
                for block in stage:
                    x = block(x)
                    blocks.append(x)
                if name in self._out_features:
                    found[name] = sum(blocks) / len(blocks)
            return found

    def change(module: Any) -> None:
        module.backbone.bottom_up.__class__ = Sums

    model, frame = changed(change), Frame(photo("coffee"), "x")
    want, got = (predicted(model, frame, exact=exact) for exact in (True, False))
    assert len(want) == len(got) > 5
    assert_kept(got, want)


def test_a_model_with_weights_of_five_dimensions() -> None:
    import torch

    def change(module: Any) -> None:
        module.volumes = torch.nn.Conv3d(2, 2, 2)

    assert len(predicted(changed(change), Frame(photo("coffee"), "x")))


def test_no_instance_of_the_classes() -> None:
    model = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL, spread=3)
    frame = Frame(photo("coffee"), "x")
    with Detectron2(model, "cpu", engine="torch") as runnable:
        seen = runnable.predict([frame])[0].classes
    absent = [name for i, name in enumerate(runnable.class_names) if i not in seen]
    for classes in (absent[:1], []):
        got = predicted(model, frame, engine="torch", classes=classes)
        assert len(got) == 0
        assert got.masks is not None


def test_a_class_that_the_model_does_not_have() -> None:
    import torch

    model, threads = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL), torch.get_num_threads()
    runnable = Detectron2(model, "cpu", classes=["x"], forwards=2)
    with pytest.raises(ConfigError, match="has no class 'x'"):
        runnable.__enter__()
    assert runnable._module is None
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "less", [{"classes": ["thing_7"]}, {"classes": ["thing_0"], "max_instances": 0}]
)
def test_openvino_compiles_all_parts_before_the_first_frame(less: dict[str, Any]) -> None:
    needs_openvino("openvino")
    model = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL)
    with Detectron2(model, "cpu", engine="openvino", **less) as runnable:
        assert runnable._module.roi_heads.mask_head.layers._compared


@pytest.mark.parametrize("place", ["_preprocess", "_compute", "_finish"])
def test_a_device_that_fails_permanently(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fails(*_: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access\nCompile with ...")

    model, frame = RandomModel(ARCHITECTURES["faster_rcnn"], SMALL), Frame(photo("coffee"), "x")
    with Detectron2(model, "cpu") as runnable:
        monkeypatch.setattr(runnable, place, fails)
        with pytest.raises(DeviceLostError, match=r"^cpu failed .*\(.*access\)\. Run the same"):
            runnable.predict([frame])


def test_padding_that_a_backbone_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.modeling.backbone.fpn import FPN

    model, frame = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL), Frame(photo("coffee"), "x")
    monkeypatch.setattr(FPN, "size_divisibility", 0)
    monkeypatch.setattr(FPN, "padding_constraints", {"size_divisibility": 32})
    want, got = (len(predicted(model, frame, exact=exact)) for exact in (True, False))
    assert want == got > 0


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_an_image_that_is_too_narrow(size: tuple[int, int]) -> None:
    model = RandomModel(ARCHITECTURES["faster_rcnn"], SMALL)
    with Detectron2(model, "cpu") as runnable, pytest.raises(InferenceError, match="too narrow"):
        runnable.prepare(Frame(np.zeros((*size, 3), np.uint8), "x"))


def test_sizes_count_towards_the_queue() -> None:
    model, frame = RandomModel(ARCHITECTURES["mask_rcnn"], SMALL), Frame(photo("coffee"), "x")
    with Detectron2(model, "cpu") as runnable:
        prepared = runnable.prepare(frame)
        assert prepared.nbytes == 3 * 96 * 144
        (output,) = runnable.forward([prepared])
        n = len(output.content["instances"]["scores"])
        assert n * 28 * 28 * 4 < output.nbytes < n * 28 * 28 * 4 + n * 64


def assert_kept(got: Predictions, want: Predictions) -> None:
    np.testing.assert_allclose(got.boxes, want.boxes, atol=1e-2)
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-5)
    np.testing.assert_array_equal(got.classes, want.classes)
    if want.masks is not None:
        assert got.masks is not None
        assert (got.masks.dense() != want.masks.dense()).mean(axis=(1, 2)).max() < 1e-3
    if want.panoptic_seg is not None:
        assert (got.panoptic_seg != want.panoptic_seg).mean() < 1e-3


def test_exact_has_no_pushdown() -> None:
    model = RandomModel(ARCHITECTURES["faster_rcnn"], SMALL)
    frame = Frame(photo("coffee"), "x")
    with Detectron2(
        model, "cpu", exact=True, min_score=0.9, classes=[], max_instances=1
    ) as runnable:
        assert len(runnable.predict([frame])[0]) == 20


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model = RandomModel(ARCHITECTURES["faster_rcnn"], SMALL)
    frames = [Frame(photo("coffee"), str(i)) for i in range(5)]
    sizes = []
    with Detectron2(model, "cpu", engine="torch") as runnable:
        whole = runnable._module.inference

        def small(inputs: list[Any], **options: Any) -> Any:
            sizes.append(len(inputs))
            if len(inputs) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(inputs, **options)

        monkeypatch.setattr(runnable._module, "inference", small)
        limit = 2
        assert len(runnable.predict(frames)) == 5
        assert sizes == [5, 2, 2, 1]
        limit = 0
        with pytest.raises(torch.OutOfMemoryError):
            runnable.predict(frames[:1])


def test_the_batch_on_the_cpu_is_one_frame() -> None:
    model = RandomModel(ARCHITECTURES["faster_rcnn"], SMALL)
    with Detectron2(model, "cpu", engine="torch", batch_size="auto") as runnable:
        assert runnable.batch_size == 1
