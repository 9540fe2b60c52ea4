"""The sinks for annotation and training tools in whole runs: resumed, restarted, with failures."""

from __future__ import annotations

import shutil
from pathlib import Path

from command_line import Run

FOLDERS = ("yolo", "voc", "labelme")
FILES = ("labelstudio.json", "labelstudio.xml", "cvat.xml", "cvat_coco.json", "coco.json")
SINKS = "sink=[coco,yolo,voc,labelme,labelstudio,cvat]"
JOB = ("model=mask_rcnn", "runnable=fake", "quiet=true", SINKS)


def content(out: Path) -> dict[str, bytes]:
    """What the sinks wrote; of a link, also what it leads to."""
    found = {name: (out / name).read_bytes() for name in FILES}
    for folder in FOLDERS:
        for path in (out / folder).rglob("*"):
            if not path.is_dir():
                target = str(path.readlink()).encode() if path.is_symlink() else b""
                found[str(path.relative_to(out))] = target + path.read_bytes()
    return found


def test_a_resumed_run_writes_what_a_whole_one_does(
    d2run: Run, photos: Path, tmp_path: Path
) -> None:
    job = (*JOB, f"input={photos}")
    assert d2run(*job, f"output={tmp_path}/run").returncode == 3
    before = content(tmp_path / "run")
    assert b"../../../photos/a1.jpg" in before["yolo/images/a1.jpg.jpg"]
    assert len([name for name in before if name.endswith(".xml")]) == 2 + 6
    assert not [name for name in before if "broken" in name]
    assert d2run(*job, f"output={tmp_path}/run").returncode == 3
    assert content(tmp_path / "run") == before

    shutil.copy(photos / "b.png", photos / "sub/new.png")
    shutil.copy(photos / "b.png", photos / "broken.jpg")  # mended
    (photos / "a2.jpg").write_bytes(b"\xff\xd8\xff not an image")  # was done, fails
    assert d2run(*job, f"output={tmp_path}/run").returncode == 3
    assert d2run(*job, f"output={tmp_path}/fresh").returncode == 3
    assert content(tmp_path / "run") == content(tmp_path / "fresh")
    assert not [name for name in content(tmp_path / "run") if "a2.jpg" in name]

    (tmp_path / "run/yolo/labels/mine.txt").write_text("not of a run")
    other = (*job, "sink=[voc]", "sink.voc.images=none", "seed=3", "runner.on_change=restart")
    assert d2run(*other, f"output={tmp_path}/run").returncode == 3
    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*")}
    assert {name for name in left if name.startswith(("yolo", "labelme", "cvat"))} == {
        "yolo", "yolo/labels", "yolo/labels/mine.txt",
    }  # fmt: skip
    assert "voc/JPEGImages" not in left
    assert "voc/Annotations/sub/new.png.xml" in left


def test_a_sink_is_added_to_a_finished_run(d2run: Run, photos: Path, tmp_path: Path) -> None:
    job = (
        "model=mask_rcnn",
        "runnable=fake",
        "quiet=true",
        f"input={photos}",
        f"output={tmp_path}/run",
    )
    assert d2run(*job, "sink=[coco]").returncode == 3
    assert d2run(*job, "sink=[coco,labelstudio,cvat,fiftyone]").returncode == 3
    for name in (
        "labelstudio.json",
        "labelstudio.xml",
        "cvat.xml",
        "cvat_coco.json",
        "fiftyone/labels.json",
    ):
        assert (tmp_path / "run" / name).stat().st_size
    assert (tmp_path / "run/fiftyone/data/sub/c.jpg").samefile(photos / "sub/c.jpg")


def test_a_model_without_instances_is_refused(d2run: Run, photos: Path, tmp_path: Path) -> None:
    job = ("model=semantic_fpn", "model.weights=random", "runnable=fake", f"input={photos}")
    refused = d2run(*job, "sink=[yolo,cvat]", f"output={tmp_path}/run")
    assert refused.returncode == 2
    for name in ("sink.yolo", "sink.cvat", "no instances"):
        assert name in refused.stderr
