"""``runner=verify`` finds what changed since a run, and says ``identical`` if nothing did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import job_of, lines, record, write_images
from signing_keys import write_keys
from videos import write_video

from pipeline.errors import ConfigError
from pipeline.recorded.manifest import NAME as MANIFEST
from runners.verify.runner import Verify

NAMES = ("a.png", "b.png", "sub/a.png", "sub/c.png")
Verified = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with overlays, of four images and a broken one."""
    folder = tmp_path_factory.mktemp("verify")
    write_images(folder / "in", *NAMES, value=7)
    (folder / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    job = job_of(f"input={folder}/in", "sink=[coco,overlay]", f"output={folder}/run")
    assert job.runner.run(job).exit_status == 3
    return folder


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy; the run reads its input there."""
    shutil.copytree(finished, tmp_path / "work")
    work = tmp_path / "work"
    text = (work / "run/run.json").read_text().replace(str(finished), str(work))
    (work / "run/run.json").write_text(text)
    return work


@pytest.fixture
def verified(work: Path, capsys: pytest.CaptureFixture[str]) -> Verified:
    """Verify the run; return the exit status and what is printed."""

    def verify(*arguments: str) -> tuple[int, str]:
        run, output = f"runner.run={work}/run", f"output={work}/repeat"
        job = job_of("runner=verify", run, output, "quiet=false", *arguments)
        capsys.readouterr()
        report = job.runner.run(job)
        return report.exit_status, capsys.readouterr().out

    return verify


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Change the objects of a JSON file; its first line if it has several."""
    first, *rest = path.read_text().splitlines(keepends=True)
    is_lines = path.suffix == ".jsonl"
    content = json.loads(first if is_lines else path.read_text())
    edit(content)
    path.write_text(json.dumps(content) + "\n" + "".join(rest if is_lines else []))


def test_nothing_changed(work: Path, verified: Verified) -> None:
    before = {path: path.read_bytes() for path in (work / "run").rglob("*") if path.is_file()}
    status, text = verified()
    assert status == 0, text
    assert text.startswith(f"identical: {work}/run: 5 of 5 repeated inputs; 10 files match")
    assert not (work / "repeat").exists()
    after = {path: path.read_bytes() for path in (work / "run").rglob("*") if path.is_file()}
    assert after == before


def test_a_changed_byte_of_the_predictions(work: Path, verified: Verified) -> None:
    path = work / "run/predictions.jsonl"
    score = lines(path)[0]["instances"][0]["score"]
    data = path.read_bytes()
    at = data.index(b'"score": ') + len(b'"score": 0.')
    path.write_bytes(data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :])
    moved = abs(lines(path)[0]["instances"][0]["score"] - score)
    status, text = verified()
    assert status == 1
    assert "changed since the run: predictions.jsonl\n" in text
    assert "other results for 1 of 5 inputs: a.png\n" in text
    assert f"largest difference: 0 px (a.png), {moved:.6g} in score (a.png)" in text
    assert (work / "repeat/predictions.jsonl").exists()
    assert str(work / "repeat") in text


def test_a_swapped_overlay(work: Path, verified: Verified) -> None:
    overlay = work / "run/overlay"
    first, second = overlay / "a.png.jpg", overlay / "b.png.jpg"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    status, text = verified()
    assert status == 1
    assert "changed since the run: overlay/a.png.jpg, overlay/b.png.jpg\n" in text
    other = "files that the repeat wrote with other content: overlay/a.png.jpg, overlay/b.png.jpg"
    assert other in text
    assert "largest difference" not in text


def test_removed_and_added_files(work: Path, verified: Verified) -> None:
    (work / "run/overlay/sub/a.png.jpg").rename(work / "run/overlay/new.jpg")
    status, text = verified("runner.sample=1")
    assert status == 1
    assert "missing since the run: overlay/sub/a.png.jpg\n" in text
    assert "added since the run: overlay/new.jpg\n" in text


def test_another_manifest(work: Path, verified: Verified) -> None:
    path = work / "run" / MANIFEST
    path.write_bytes(path.read_bytes().replace(b"a.png.jpg", b"x.png.jpg"))
    status, text = verified()
    assert status == 1
    assert "manifest.sha256 is missing or is not the one that run.json names" in text
    assert "missing since the run: overlay/x.png.jpg, overlay/sub/x.png.jpg" in text


def test_results_of_another_torch(work: Path, verified: Verified) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["settings"]["versions"]["torch"] = "1.0.0"

    change(work / "run/run.json", edit)
    status, text = verified()
    assert status == 0
    assert text.strip().endswith(f"although versions.torch was 1.0.0, is {torch_version(work)}")

    def move(line: dict[str, Any]) -> None:
        line["instances"][0]["box"][0] += 0.25

    change(work / "run/predictions.jsonl", move)
    status, text = verified()
    assert status == 1
    assert "  versions.torch was 1.0.0, is " in text
    assert "largest difference: 0.25 px (a.png), 0 in score" in text


def torch_version(work: Path) -> str:
    return str(record(work / "run")["versions"]["torch"])


def test_other_instances(work: Path, verified: Verified) -> None:
    change(work / "run/predictions.jsonl", lambda line: line["instances"].pop())
    status, text = verified()
    assert status == 1
    assert "1 instances are in only one of both" in text


def test_another_model(work: Path, verified: Verified) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["settings"]["model"]["weights_sha256"] = "0" * 64
        content["settings"]["model"]["config"] = "elsewhere.yaml"

    change(work / "run/run.json", edit)
    status, text = verified()
    assert status == 1
    assert "  model.config was elsewhere.yaml, is " in text


def test_missing_and_changed_inputs(work: Path, verified: Verified) -> None:
    (work / "in/a.png").unlink()
    write_images(work / "in", "sub/c.png", value=90)
    write_images(work / "in", "added.png")
    status, text = verified()
    assert status == 1
    assert "inputs that are missing: a.png\n" in text
    assert "inputs whose content changed (another SHA-256): sub/c.png\n" in text
    assert "added" not in text
    assert "files that the repeat" not in text
    shutil.rmtree(work / "repeat")
    shutil.rmtree(work / "in")
    status, text = verified()
    assert status == 1
    assert "the run cannot be repeated: " in text
    assert not (work / "repeat").exists()


def test_a_stream_is_not_repeated(work: Path, verified: Verified) -> None:
    def read_camera(record: Any) -> None:
        stream = {"_target_": "pipeline.sources.stream.Stream", "input": "rtsp://127.0.0.1:9/x"}
        record["config"] |= {"input": stream["input"], "source": stream}

    change(work / "run/run.json", read_camera)
    status, text = verified()
    assert status == 1
    assert "the run cannot be repeated: the run read a stream, which cannot be read twice" in text


def test_an_input_that_no_longer_fails(work: Path, verified: Verified) -> None:
    intact = (work / "in/a.png").read_bytes()

    def edit(line: dict[str, Any]) -> None:
        line["outcome"] = "failed"

    change(work / "run/inputs.jsonl", edit)
    predictions = work / "run/predictions.jsonl"
    predictions.write_bytes(b"".join(predictions.read_bytes().splitlines(keepends=True)[1:]))
    status, text = verified()
    assert status == 1
    assert "inputs with another outcome: a.png: failed, is done now\n" in text
    assert (work / "in/a.png").read_bytes() == intact


def test_a_sample_is_drawn_with_the_seed(work: Path, verified: Verified) -> None:
    (work / "run/overlay/a.png.jpg").write_bytes(b"")  # so that the repeat is kept
    chosen = set()
    for seed in (0, 0, 1, 2, 3):
        status, text = verified("runner.sample=2", f"seed={seed}")
        assert status == 1
        assert "changed since the run: overlay/a.png.jpg" in text  # all files are checked
        assert "coco.json" not in text  # it has all inputs
        chosen.add(tuple(line["asset"] for line in lines(work / "repeat/inputs.jsonl")))
        shutil.rmtree(work / "repeat")
    assert 2 <= len(chosen) <= 4
    assert {len(ids) for ids in chosen} == {2}


def test_inputs_that_were_moved(work: Path, verified: Verified) -> None:
    (work / "in").rename(work / "moved")
    status, text = verified(f"input={work}/moved")
    assert status == 0, text


def test_inputs_that_were_added_later(work: Path, verified: Verified) -> None:
    write_images(work / "more", "a.png", "z.png", value=30)
    job = job_of(f"input={work}/more", "sink=[coco,overlay]", f"output={work}/run",
                 "runner.on_change=extend")  # fmt: skip
    assert job.runner.run(job).exit_status == 0
    status, text = verified()
    assert status == 0, text
    assert "7 of 7 repeated inputs" in text


def test_a_replay(work: Path, verified: Verified, tmp_path: Path) -> None:
    job = job_of("model=recorded", "source=recorded", "runnable=replay", "sink=[coco]",
                 f"runnable.run={work}/run", "stage.min_score.threshold=0.9",
                 f"output={tmp_path}/replay")  # fmt: skip
    assert job.runner.run(job).exit_status == 3
    status, text = verified(f"runner.run={tmp_path}/replay")
    assert status == 0, text


def test_a_file_that_was_changed_between_two_runs(work: Path, verified: Verified) -> None:
    arguments = (f"input={work}/in", "sink=[coco,overlay]", f"output={work}/own")
    job = job_of(*arguments)
    job.runner.run(job)
    (work / "own/overlay/a.png.jpg").write_bytes(b"changed")
    write_images(work / "in", "z.png", value=9)
    job = job_of(*arguments)
    assert job.runner.run(job).counts["done"] == 1
    assert "overlay/z.png.jpg" in (work / "own" / MANIFEST).read_text()
    status, text = verified(f"runner.run={work}/own")
    assert status == 1
    assert "changed since the run: overlay/a.png.jpg\n" in text
    assert text.count("overlay/") == 2  # the repeat finds it too


def test_a_signed_run(work: Path, verified: Verified, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    key = f"runner.public_key={public}"
    status, text = verified(key)
    assert status == 1
    assert "run.json is not signed: no file run.json.sig" in text
    shutil.rmtree(work / "repeat")
    arguments = (f"input={work}/in", "sink=[coco]", f"output={work}/own")
    job = job_of(*arguments, f"runner.sign={private}")
    assert job.runner.run(job).exit_status == 3
    assert verified(f"runner.run={work}/own", key)[0] == 0
    change(work / "own/run.json", lambda content: content.update(seed=5))
    status, text = verified(f"runner.run={work}/own", key)
    assert status == 1
    assert "run.json does not match its signature by this key" in text
    job = job_of(*arguments)  # without the key
    assert job.runner.run(job).exit_status == 3
    assert not list((work / "own").glob("*.sig"))


def test_what_is_refused(work: Path, verified: Verified) -> None:
    job = job_of("runner=verify", f"output={work}/repeat")
    with pytest.raises(ConfigError, match=r"add runner\.run=DIR"):
        job.runner.run(job)
    for output, problem in (("run/repeat", "in the run to verify"), ("in", "not empty")):
        job = job_of("runner=verify", f"runner.run={work}/run", f"output={work}/{output}")
        with pytest.raises(ConfigError, match=problem):
            job.runner.run(job)
    change(work / "run/run.json", lambda content: content.update(state="running"))
    with pytest.raises(ConfigError, match="has not ended"):
        verified()
    with pytest.raises(ConfigError, match="sample"):
        Verify(sample=0)


def test_code_that_is_not_trusted_does_not_run(work: Path, verified: Verified) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["config"]["trusted_packages"].append("os")
        content["config"]["stage"]["mine"] = {"_target_": "os.system", "command": "true"}

    change(work / "run/run.json", edit)
    status, text = verified()
    assert status == 1
    assert "the run cannot be repeated: stage.mine" in text
    assert "trusted_packages" in text


def test_every_sink_is_repeated_in_its_own_directory(work: Path, verified: Verified) -> None:
    write_video(work / "in/v.mp4", 5)
    sinks = "coco,csv,parquet,masks,crops,overlay,yolo,voc,labelme,labelstudio,cvat,video"
    job = job_of(f"input={work}/in", f"sink=[{sinks}]", f"output={work}/own")
    job.runner.run(job)
    n_files = len((work / "own" / MANIFEST).read_bytes().splitlines())
    status, text = verified(f"runner.run={work}/own")
    assert status == 0, text
    assert f"6 of 6 repeated inputs; {n_files} files match manifest.sha256" in text
    (work / "own/overlay/sub/c.png.jpg").write_bytes(b"changed")
    status, text = verified(f"runner.run={work}/own", "runner.sample=4")
    assert status == 1
    found = [line for line in text.splitlines() if line.startswith("  ")]
    assert found[0] == "  changed since the run: overlay/sub/c.png.jpg"
    other = "  files that the repeat wrote with other content: overlay/sub/c.png.jpg"
    assert found[1:] in ([], [other])
    written = {path.name for path in (work / "repeat").iterdir()}
    assert {"instances.csv", "yolo", "voc", "labelme", "cvat.xml", "crops", "masks"} <= written
