"""``runnable=replay``: a finished run in place of a model, to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from batches import job_of, lines, record, run, write_images
from PIL import Image
from videos import cut, write_video
from watched import IN_THIS_PROCESS, Watched

from pipeline import read_run
from pipeline.errors import ConfigError, OutputError
from pipeline.records import Frame, Predictions, Result, Segment
from pipeline.runnables.fake import FakeRunnable
from pipeline.sources.asset import ImageAsset
from pipeline.testing import make_frame

LISTS = ("predictions.jsonl", "coco.json", "coco_results.json", "failures.jsonl", "skipped.jsonl")
STRANGE = os.fsdecode(b"sub/caf\xe9.png")


def content(out: Path) -> dict[str, bytes]:
    """The results of a run: the lists, and every file of a sink."""
    files = [out / name for name in LISTS]
    files += [p for name in ("overlay", "sem_seg", "panoptic") for p in (out / name).rglob("*.??g")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def replay(recorded: Path, out: Path, *arguments: str) -> Any:
    """Run a job that replays a run."""
    return run("model=recorded", "source=recorded", "runnable=replay", f"runnable.run={recorded}",
               f"output={out}", *arguments)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven images, a broken one, and a file that is skipped."""
    folder = tmp_path / "in"
    write_images(folder, "a.png", "b.jpg", "c.png", "d.png", "sub/a.png", STRANGE, "x/y.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def recorded(tmp_path: Path, images: Path) -> Path:
    assert run(f"input={images}", f"output={tmp_path}/run", "stage=[]").exit_status == 3
    return tmp_path / "run"


@pytest.mark.parametrize("threshold", [0, 0.6, 0.75, 0.999])
def test_each_threshold_gives_the_bytes_of_the_run_with_the_model(
    threshold: float, recorded: Path, images: Path, tmp_path: Path
) -> None:
    common = (f"stage.min_score.threshold={threshold}", "sink=[coco,overlay]")
    run("stage=[min_score]", f"input={images}", f"output={tmp_path}/model", *common)
    report = replay(recorded, tmp_path / "replay", "stage=[min_score]", *common)
    assert report.exit_status == 3
    assert report.counts == {"done": 7, "failed": 1}
    assert content(tmp_path / "replay") == content(tmp_path / "model")
    assert "overlay/x/y.png.jpg" in content(tmp_path / "replay")
    inputs = lines(tmp_path / "model/inputs.jsonl")
    assert lines(tmp_path / "replay/inputs.jsonl") == inputs


def test_every_stage_gives_the_bytes_of_the_run_with_the_model(
    recorded: Path, images: Path, tmp_path: Path
) -> None:
    common = (
        "stage=[min_score,keep_classes,nms,min_area,top_k]", "stage.top_k.k=1",
        "stage.keep_classes.names=[person,car,dog,cat,bus,chair,cup,fork]",
    )  # fmt: skip
    run(f"input={images}", f"output={tmp_path}/model", *common)
    replay(recorded, tmp_path / "replay", *common)
    assert content(tmp_path / "replay") == content(tmp_path / "model")


def test_no_image_is_decoded_unless_a_part_needs_pixels(
    recorded: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(images)
    monkeypatch.setattr(ImageAsset, "frames", None)
    assert replay(recorded, tmp_path / "out").counts["done"] == 7
    job = job_of("model=recorded", "source=recorded", "runnable=replay",
                 f"runnable.run={recorded}", f"output={tmp_path}/own")  # fmt: skip
    seen: list[Any] = []

    def stage(result: Result) -> Result:
        seen.append(result.frame)
        return result

    job.runner.run(replace(job, stages={"mine": stage}))
    assert {frame.asset_id for frame in seen} >= {"a.png", STRANGE}
    assert all(frame.size == frame.predictions.image_size for frame in seen)
    assert not any(frame.image.any() or frame.image.flags.writeable for frame in seen)


@pytest.mark.parametrize(
    ("part", "pixels"),
    [
        ("sink=[coco]", False),
        ("sink=[coco,overlay]", True),
        ("stage=[min_score,nms,min_area,top_k]", False),
        ("source.pixels=true", True),
    ],
)
def test_parts_say_whether_they_need_pixels(
    part: str, pixels: bool, recorded: Path, tmp_path: Path
) -> None:
    job = job_of("model=recorded", "source=recorded", "runnable=replay", "stage=[]",
                 f"runnable.run={recorded}", f"output={tmp_path}/own", part)  # fmt: skip
    assert job.source.pixels is pixels  # type: ignore[union-attr]


def test_a_part_that_does_not_say_needs_pixels(tmp_path: Path) -> None:
    from pipeline.config.build import _pixels

    source = {"_target_": "pipeline.sources.recorded.Recorded", "pixels": None}
    assert _pixels(source, [lambda result: result]) == {"pixels": True}
    assert _pixels(source, []) == {"pixels": False}
    assert _pixels(source | {"pixels": False}, [lambda result: result]) == {}
    assert _pixels({"_target_": "pipeline.sources.images.Images"}, []) == {}


def test_images_that_were_moved(recorded: Path, images: Path, tmp_path: Path) -> None:
    images.rename(tmp_path / "moved")
    common = "sink=[coco,overlay]", "stage=[]"
    with pytest.raises(ConfigError, match=r"source.root: .*not where they were.* Set source.root"):
        replay(recorded, tmp_path / "out", *common)
    with pytest.raises(ConfigError, match=r"source.root: expected an existing directory, got"):
        replay(recorded, tmp_path / "out", *common, "source.root=nowhere")
    (tmp_path / "moved/d.png").unlink()
    replay(recorded, tmp_path / "out", *common, f"source.root={tmp_path}/moved")
    failed = {line["asset"]: line["message"] for line in lines(tmp_path / "out/failures.jsonl")}
    assert failed.pop("d.png").endswith("no such file")
    assert list(failed) == ["broken.png"]
    (tmp_path / "moved").rename(images)
    write_images(images, "a.png", "b.jpg", "c.png", "d.png")
    replay(recorded, tmp_path / "out", *common)  # resumed, from where they were
    run(f"input={images}", f"output={tmp_path}/model", *common)
    assert content(tmp_path / "out") == content(tmp_path / "model")


def test_a_changed_or_missing_image_fails_and_says_so(
    recorded: Path, images: Path, tmp_path: Path
) -> None:
    write_images(images, "a.png", value=99)
    (images / "b.jpg").unlink()
    replay(recorded, tmp_path / "out", "stage=[]", "sink=[overlay]")
    failed = {line["asset"]: line for line in lines(tmp_path / "out/failures.jsonl")}
    assert "was changed after the run" in failed["a.png"]["message"]
    assert "if the images were moved, set source.root" in failed["b.jpg"]["message"]
    assert {line["step"] for line in failed.values()} == {"decode"}
    assert not (tmp_path / "out/overlay/a.png.jpg").exists()
    assert replay(recorded, tmp_path / "coco", "stage=[]").counts["done"] == 7
    run(f"input={images}", f"output={recorded}", "stage=[]")  # resumes the recorded run
    replay(recorded, tmp_path / "out", "stage=[]", "sink=[overlay]")
    failed = {line["asset"]: line for line in lines(tmp_path / "out/failures.jsonl")}
    assert "a.png" not in failed


def test_failures_and_skipped_files_are_reported_again(recorded: Path, tmp_path: Path) -> None:
    replay(recorded, tmp_path / "out", "stage=[]", "sink=[overlay]")
    for name in ("failures.jsonl", "skipped.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (recorded / name).read_bytes()
    assert lines(recorded / "failures.jsonl")[0]["error"] == "DecodeError"
    assert lines(recorded / "skipped.jsonl")[0]["path"] == "notes.txt"


def test_a_replay_is_resumed(recorded: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    replay(recorded, out, "stage=[]")
    again = replay(recorded, out, "stage=[]")
    assert again.counts == {"done": 0, "failed": 1, "earlier": 7}
    write_images(images, "new.png", value=3)
    run(f"input={images}", f"output={recorded}", "stage=[]")
    assert replay(recorded, out, "stage=[]").counts == {"done": 1, "failed": 1, "earlier": 7}
    assert content(out) == content(recorded)
    with pytest.raises(ConfigError, match=r"other settings \(stage"):
        replay(recorded, out, "stage=[top_k]")


def test_a_replay_can_be_replayed(recorded: Path, images: Path, tmp_path: Path) -> None:
    common = ("stage=[min_score]", "sink=[coco,overlay]")
    replay(recorded, tmp_path / "one", *common, "stage.min_score.threshold=0.6")
    replay(tmp_path / "one", tmp_path / "two", *common, "stage.min_score.threshold=0.8")
    run(f"input={images}", f"output={tmp_path}/model", *common, "stage.min_score.threshold=0.8")
    assert content(tmp_path / "two") == content(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"at least 0.7, but the recorded run dropped .* 0.8"):
        replay(tmp_path / "two", tmp_path / "x", *common, "stage.min_score.threshold=0.7")


LIMITED = ("stage=[min_score,keep_classes,top_k]", "stage.min_score.threshold=0.6",
           "stage.keep_classes.names=[person,dog]", "stage.top_k.k=5")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stage=[min_score]"], "stage.min_score: keeps scores of at least 0.5, but the recorded "
                                "run dropped scores below 0.6"),
        (["stage=[nms,min_score]", "stage.min_score.threshold=0"], "keeps scores of at least 0"),
        (["stage=[keep_classes]", "stage.keep_classes.names=[person,cat]"],
         "stage.keep_classes: keeps cat, but the recorded run kept only person, dog"),
        (["stage=[top_k]", "stage.top_k.k=6"], "stage.top_k: keeps 6 instances, but the recorded "
                                               "run kept at most 5"),
        (["stage=[min_score,keep_classes,top_k]", "stage.min_score.threshold=0.6",
          "stage.keep_classes.names=[dog]", "stage.top_k.k=5"], None),
        (["stage=[]"], None),
        (["stage=[nms,min_area]"], None),
    ],
)  # fmt: skip
def test_a_stage_cannot_keep_what_the_run_dropped(
    arguments: list[str], says: str | None, images: Path, tmp_path: Path
) -> None:
    run(f"input={images}", f"output={tmp_path}/run", *LIMITED)
    assert record(tmp_path / "run")["limits"] == {
        "min_score": 0.6, "classes": ["person", "dog"], "max_instances": 5, "complete": True,
    }  # fmt: skip
    if says is None:
        assert replay(tmp_path / "run", tmp_path / "out", *arguments).counts["done"] == 7
        return
    with pytest.raises(ConfigError, match=says):
        replay(tmp_path / "run", tmp_path / "out", *arguments)


def test_one_threshold_cannot_follow_one_per_class(images: Path, tmp_path: Path) -> None:
    given = ("stage=[min_score]", "stage.min_score.threshold=0.3")
    per_class = "stage.min_score.thresholds={person: 0.9}"
    run(f"input={images}", f"output={tmp_path}/run", *given, per_class)
    with pytest.raises(ConfigError, match="the recorded run had a threshold per class"):
        replay(tmp_path / "run", tmp_path / "out", *given)
    assert replay(tmp_path / "run", tmp_path / "out", *given, per_class).counts["done"] == 7


def test_thresholds_of_the_model_are_limits(images: Path, tmp_path: Path) -> None:
    run(f"input={images}", f"output={tmp_path}/run", "stage=[]", "model.score_threshold=0.3")
    with pytest.raises(ConfigError, match=r"dropped scores below 0.3"):
        replay(tmp_path / "run", tmp_path / "out", "stage=[min_score]",
               "stage.min_score.threshold=0.2")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": "running", "exit_status": None}, "has not ended; let it finish, or resume it"),
        ({"exit_status": 130}, "ended with exit status 130"),
        ({"fingerprint": None, "model": {}}, "recorded by an earlier version of d2run"),
    ],
)
def test_only_finished_runs_are_replayed(
    change: dict[str, Any], says: str, recorded: Path, tmp_path: Path
) -> None:
    (recorded / "run.json").write_text(json.dumps(record(recorded) | change))
    with pytest.raises(ConfigError, match=says):
        replay(recorded, tmp_path / "out", "stage=[]")


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_what_is_not_a_run_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="no run in"):
        replay(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no run in .*no such file"):
        read_run(tmp_path / "missing")


def test_the_run_is_never_the_output(recorded: Path, images: Path) -> None:
    before = content(recorded)
    for out in (recorded, images):
        with pytest.raises(ConfigError, match="output is the input"):
            replay(recorded, out, "stage=[]", "runner.on_change=restart")
    assert content(recorded) == before


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("input=dir", "input: this source does not read it; remove input="),
        ("model=retinanet", None),
        ("model=panoptic_fpn", "was made with a model of other classes; remove model="),
        ("model.score_threshold=0.3", "model.score_threshold: the model of a finished run cannot"),
        ("model.weights=x.pth", "model.weights: the model of a finished run cannot be changed"),
    ],
)
def test_other_models_and_inputs(
    argument: str, says: str | None, recorded: Path, tmp_path: Path
) -> None:
    if says is None:
        assert replay(recorded, tmp_path / "out", "stage=[]", argument).counts["done"] == 7
        return
    with pytest.raises(ConfigError, match=says):
        replay(recorded, tmp_path / "out", "stage=[]", argument)


def test_a_damaged_run_is_reported(recorded: Path, tmp_path: Path) -> None:
    text = (recorded / "predictions.jsonl").read_bytes()
    (recorded / "predictions.jsonl").write_bytes(text.replace(b'"score": ', b'"sc": ', 1))
    replay(recorded, tmp_path / "out", "stage=[]")
    assert "is damaged: no 'sc'" in lines(tmp_path / "out/failures.jsonl")[0]["message"]
    for damaged in (text + text[-90:], b"".join(text.splitlines(keepends=True)[1:])):
        (recorded / "predictions.jsonl").write_bytes(damaged)
        with pytest.raises(OutputError, match=r"is damaged: .* Resume it with its own command"):
            replay(recorded, tmp_path / "other", "stage=[]")


@pytest.mark.parametrize("given", ["list", "glob", "file", "several", "relative"])
def test_every_kind_of_input(
    given: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text("in/a.png\nin/x/y.png\n")
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "more", "a.png", value=5)
    inputs = {
        "list": "input=list.txt",
        "glob": "input=in/**/*.png",
        "file": "input=in/a.png",
        "several": "input=[in,more,list.txt]",
        "relative": "input=in",
    }
    common = ("stage=[]", "sink=[coco,overlay]")
    run(inputs[given], "output=run", *common)
    if given != "list":
        monkeypatch.chdir("/")
    replay(tmp_path / "run", tmp_path / "out", *common)
    assert content(tmp_path / "out") == content(tmp_path / "run")
    assert len(lines(tmp_path / "out/predictions.jsonl")) >= 1


@pytest.mark.parametrize("given", ["table", "coco", "zip", "pages", "damaged"])
def test_what_inputs_bring_with_them(given: str, tmp_path: Path) -> None:
    """Columns, image ids, timestamps, and damage, also after a repair of the run."""
    folder, out = tmp_path / "in", tmp_path / "run"
    write_images(folder, "a.png", "b.png", "c.png")
    arguments = [f"input={folder}"]
    if given == "table":
        (tmp_path / "t.csv").write_text(f"path,site\n{folder}/b.png,7\n{folder}/a.png,\n")
        arguments = [f"input={tmp_path}/t.csv"]
    elif given == "coco":
        images = [{"id": i, "file_name": f"{n}.png"} for i, n in ((40, "c"), (7, "gone"), (9, "a"))]
        (tmp_path / "t.json").write_text(json.dumps({"images": images}))
        arguments = [f"input={tmp_path}/t.json", f"source.root={folder}"]
    elif given == "zip":
        arguments = [f"input={shutil.make_archive(str(tmp_path / 'in'), 'zip', folder)}"]
    elif given == "pages":
        pages = [Image.new("L", (9, 9), i * 60) for i in range(4)]
        pages[0].save(folder / "d.gif", save_all=True, append_images=pages[1:], duration=40)
        arguments += ["source.pages=all"]
    else:
        cut(write_video(folder / "d.mp4", audio=True), 0.8)
    sinks = "sink=[coco,csv]" if given == "damaged" else "sink=[coco,csv,overlay]"
    common = ("stage=[min_score]", "stage.min_score.threshold=0.8", sinks)
    run(*arguments, f"output={out}", "stage=[]")
    whole = run(*arguments, *common, f"output={tmp_path}/model")
    expected = content(tmp_path / "model"), (tmp_path / "model/frames.csv").read_bytes()
    for name in ("out", "repaired"):
        again = replay(out, tmp_path / name, *common)
        assert again.exit_status == whole.exit_status == (3 if given in ("coco", "damaged") else 0)
        assert content(tmp_path / name) == expected[0]
        assert (tmp_path / name / "frames.csv").read_bytes() == expected[1]
        assert lines(tmp_path / name / "inputs.jsonl") == lines(tmp_path / "model/inputs.jsonl")
        (out / "ledger.sqlite").write_bytes(b"")
        run(*arguments, f"output={out}", "stage=[]", "runner=repair")
        assert run(*arguments, f"output={out}", "stage=[]").counts["earlier"] >= 2
    if given == "damaged":
        (failure,) = lines(tmp_path / "out/failures.jsonl")
        assert failure["error"] == "PartialError"
    elif given == "coco":
        assert [line["image_id"] for line in lines(out / "predictions.jsonl")] == [40, 9]
    elif given == "table":
        assert [result.columns for result in read_run(out)] == [{"site": "7"}, {"site": ""}]


def test_a_run_that_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watched(tmp_path, monkeypatch)
    write_images(watch.inbox, "a.png", "b.png")
    (watch.inbox / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    try:
        watch.start("stage=[]", "runner.max_passes=1", IN_THIS_PROCESS)
        watch.wait()
    finally:
        watch.abandon()
    common = ("stage=[min_score]", "sink=[coco,overlay]")
    assert replay(watch.out, tmp_path / "out2", *common).counts == {"done": 2, "failed": 1}
    run(f"input={watch.inbox}", f"output={tmp_path}/model", *common)
    assert content(tmp_path / "out2") == content(tmp_path / "model")


def test_inputs_that_were_added(images: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "more", "a.png", "z.png", value=5)
    common = (f"output={tmp_path}/run", "stage=[]", "sink=[coco,overlay]")
    run(f"input={images}", *common)
    run(f"input={tmp_path}/more", *common, "runner.on_change=extend")
    replay(tmp_path / "run", tmp_path / "out", *common[1:])
    assert content(tmp_path / "out") == content(tmp_path / "run") | {
        "skipped.jsonl": (tmp_path / "out/skipped.jsonl").read_bytes()
    }
    assert len(lines(tmp_path / "out/predictions.jsonl")) == 9


def test_dropped_frames_are_listed_as_skipped(images: Path, tmp_path: Path) -> None:
    job = job_of(f"input={images}", f"output={tmp_path}/run", "stage=[]")

    def stage(result: Result) -> Result | None:
        return None if result.frame.asset_id == "c.png" else result

    job.runner.run(replace(job, stages={"mine": stage}))
    report = replay(tmp_path / "run", tmp_path / "out", "stage=[]", "sink=[coco,overlay]")
    assert report.counts == {"done": 6, "failed": 1}
    assert lines(tmp_path / "out/skipped.jsonl")[-1]["path"] == "c.png"
    predictions = (tmp_path / "out/predictions.jsonl").read_bytes()
    assert predictions == (tmp_path / "run/predictions.jsonl").read_bytes()


class Panoptic(FakeRunnable):
    """Adds label maps."""

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        return [self._with_maps(p) for p in super().predict(frames)]

    def _with_maps(self, p: Predictions) -> Predictions:
        height, width = p.image_size
        ids = np.arange(height * width).reshape(height, width) // 100
        return p.replace(
            sem_seg=ids % 3, panoptic_seg=ids, segments=(Segment(1, 2, "x", False, None, 100),)
        )


class Clip:
    """A video of frames with variable times."""

    is_still = False

    def __init__(self, path: Path) -> None:
        self.id, self.path = "clips/v.mp4", path

    def fingerprint(self) -> str:
        return ImageAsset(self.id, self.path).fingerprint()

    def frames(self) -> Any:
        from fractions import Fraction

        for i, pts in enumerate((0, 1001, 2002, 4004)):
            frame = make_frame(12, 10, asset_id=self.id, index=i)
            frame.image[...] = i * 9
            yield replace(frame, pts=pts, time_base=Fraction(1, 30000))


def test_label_maps_and_videos(images: Path, tmp_path: Path) -> None:
    write_images(tmp_path, "v.png")

    class Source:
        input = "clips"

        def __iter__(self) -> Any:
            return iter([Clip(tmp_path / "v.png"), ImageAsset("b.jpg", images / "b.jpg")])

    job = job_of("model=panoptic_fpn", f"input={images}", f"output={tmp_path}/run", "stage=[]")
    dropped: list[int] = []

    def stage(result: Result) -> Result | None:
        if result.frame.pts == 1001:
            dropped.append(1)
            return None
        return result

    runnable = Panoptic(job.model)
    job = replace(job, runnable=runnable, source=Source(), stages={"mine": stage})
    assert job.runner.run(job).counts == {"done": 2, "failed": 0}
    assert dropped
    report = replay(tmp_path / "run", tmp_path / "out", "stage=[]")
    assert report.counts == {"done": 2, "failed": 0}
    assert content(tmp_path / "out") == content(tmp_path / "run")
    names = content(tmp_path / "out")
    assert {"sem_seg/clips/v.mp4/000003.png", "panoptic/b.jpg.png"} <= names.keys()
    assert (tmp_path / "out/panoptic.json").read_bytes() == (
        tmp_path / "run/panoptic.json"
    ).read_bytes()
    results = list(read_run(tmp_path / "run"))
    assert [(r.asset_id, r.index, r.pts) for r in results] == [
        ("clips/v.mp4", 0, 0), ("clips/v.mp4", 2, 2002), ("clips/v.mp4", 3, 4004),
        ("b.jpg", 0, None),
    ]  # fmt: skip
    assert results[1].time_s == 2002 / 30000
    (tmp_path / "run/panoptic/b.jpg.png").unlink()
    replay(tmp_path / "run", tmp_path / "lost", "stage=[]")
    (failed,) = lines(tmp_path / "lost/failures.jsonl")
    assert "cannot read the label map" in failed["message"]


def test_read_run(recorded: Path) -> None:
    found = read_run(recorded)
    assert len(found) == 7
    assert found.categories.thing_names[0] == "person"
    for result, line in zip(found, lines(recorded / "predictions.jsonl"), strict=True):
        assert result.image_id == line["image_id"]
        assert result.predictions.image_size == (line["height"], line["width"])
        assert len(result.predictions) == len(line["instances"]) == 3
        assert result.predictions.masks is not None
        masks = [instance["mask"] for instance in line["instances"]]
        assert result.predictions.masks.rle() == masks
        assert result.predictions.masks.dense().any(axis=(1, 2)).all()
    assert [result.asset_id for result in found][-2:] == [STRANGE, "x/y.png"]


def test_the_overlay_of_a_replay_shows_the_image(
    recorded: Path, images: Path, tmp_path: Path
) -> None:
    write_images(images, "bright.png", value=200)
    run(f"input={images}", f"output={recorded}", "stage=[]")
    replay(recorded, tmp_path / "out", "stage=[]", "sink=[overlay]", "sink.overlay.min_score=1")
    drawn = cv2.imread(str(tmp_path / "out/overlay/bright.png.jpg"))
    assert drawn is not None
    assert np.abs(drawn.astype(int) - 200).max() < 3
