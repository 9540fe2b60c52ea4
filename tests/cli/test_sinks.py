"""All sinks at once: interrupted, resumed, restarted with fewer; the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from command_line import Run, write_picture
from receiver import Receiver

from runners.rundir.ledger.ledger import Ledger

SINKS = "sink=[csv,parquet,masks,crops,overlay,coco,webhook]"
FAKE = ("model=mask_rcnn", "runnable=fake", "quiet=true")
OPTIONS = (
    *FAKE, SINKS, "sink.masks.kind=[instance,semantic,panoptic]", "sink.crops.margin=0.1",
    "sink.parquet.rows_per_file=5", 'sink.overlay.colors={person: "#ff0000"}',
    'sink.overlay.label="{name} {score}"', "sink.overlay.mask_style=halo",
)  # fmt: skip
OWN = ("run.json", "run.log", "status.json", "ledger.sqlite", ".lock", ".hydra")


def outputs(out: Path) -> dict[str, bytes]:
    """Everything that two equal runs share."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    names = {path.relative_to(out).as_posix(): path for path in files}
    return {n: p.read_bytes() for n, p in names.items() if n.split("/")[0] not in OWN}


def make_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "sub/a.jpg", "sub/b c.png", "blank.png"):
        write_picture(folder / name, rng.integers(0, 256, (40, 60, 3), np.uint8))


def test_resumed_is_byte_identical(d2run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_images(folder)
    whole = tmp_path / "whole"
    with Receiver() as receiver:
        job = (*OPTIONS, f"input={folder}", f"sink.webhook.url={receiver.url}")
        done = d2run(*job, f"output={whole}")
        assert done.returncode == 0, done.stderr
        assert len(receiver.posts) == 4
    files = outputs(whole)
    for name in ("instances.csv", "frames.csv", "parquet/part-00000.parquet", "frames.parquet",
                 "masks/panoptic.json", "masks/semantic/blank.png.png", "coco.json",
                 "overlay/sub/b c.png.jpg"):  # fmt: skip
        assert name in files
    instances = pd.read_parquet(whole / "parquet")
    assert len(instances) == sum(name.startswith("crops/") for name in files) > 0
    panoptic = json.loads(files["masks/panoptic.json"])
    for annotation, image in zip(panoptic["annotations"], panoptic["images"], strict=True):
        png = cv2.imread(str(whole / "masks/instance" / annotation["file_name"]), -1)
        assert png.shape == (image["height"], image["width"])
        assert {each["id"] for each in annotation["segments_info"]} == set(np.unique(png)) - {0}

    with Ledger(whole / "ledger.sqlite") as ledger:  # it does not list the files per asset
        built = ledger.fact("built")
    assert built["masks"]["files"] == ["masks/panoptic.json"]
    assert [name for name in files if name.startswith("parquet/")] == built["parquet"]["files"][1:]

    resumed, moved = tmp_path / "resumed", tmp_path / "moved"
    (folder / "sub").rename(moved)
    with Receiver(receiver.port) as receiver:
        assert d2run(*job, f"output={resumed}").returncode == 0
        moved.rename(folder / "sub")
        assert d2run(*job, f"output={resumed}").returncode == 0
        assert len(receiver.posts) == 4
        assert outputs(resumed) == files
        shutil.rmtree(resumed / "parquet")
        assert d2run(*job, f"output={resumed}").returncode == 0
        assert outputs(resumed) == files


def test_a_restart_without_the_sinks_leaves_none_of_their_files(d2run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    make_images(folder)
    job = (*FAKE, f"input={folder}", f"output={out}")
    for by_class in ("true", "false"):
        more = (f"sink.crops.by_class={by_class}", "sink.masks.kind=[semantic,panoptic]")
        sinks = ("sink=[csv,parquet,masks,crops]", *more, "runner.on_change=restart")
        assert d2run(*job, *sinks).returncode == 0
    (out / "crops" / "mine.txt").touch()
    again = d2run(*job, "sink=[]", "runner.on_change=restart")
    assert again.returncode == 0, again.stderr
    left = set(outputs(out))
    lists = {f"{name}.jsonl" for name in ("inputs", "failures", "predictions", "skipped")}
    assert left == lists | {"crops/mine.txt", "manifest.sha256"}
    assert not (out / "masks").exists()
