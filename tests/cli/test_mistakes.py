"""Typing mistakes, and the one-line message that says what to write."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import ROOT

Said = Callable[..., str]
INPUT = "input=examples/shapes/scenes"
JOB = ["model=shapes", INPUT, "runner=plan"]


@pytest.fixture
def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Said]:
    """Run the command in this process, and return the line that it says."""
    from runners.entry import main

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(ROOT)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        status = main()
        out, err = capsys.readouterr()
        assert (status, out) == (2, ""), err
        assert len(err.splitlines()) == 1, err
        assert err.startswith("error: ")
        for word in ("error: error", "Traceback", "full_key", "HYDRA_FULL", "To append", "\\n"):
            assert word not in err
        return err.removeprefix("error: ").rstrip("\n")

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


KNOWN = (
    "input, output, device, batch_size, decode_threads, decode, queue_mb, seed, exif, quiet, "
    "verbose, trusted_packages, model, store, runnable, source, stage, sink, runner"
)
DECODE = "decode.jpeg, decode.isolation, decode.timeout_s, decode.memory_mb"
BATCH = (
    "runner.on_error, runner.max_failures, runner.on_change, runner.on_lock, runner.retry_failed, "
    "runner.sign, runner.prune, runner.checkpoint_s, runner.shard"
)

KEYS = [
    (["inptu=x"], "no option 'inptu'; did you mean 'input'?"),
    (["mdoel=shapes"], "no option 'mdoel'; did you mean 'model'?"),
    (["+modle=x", *JOB], "no option 'modle'; did you mean 'model'?"),
    (["threshold=0.99"], "no option 'threshold'; did you mean 'stage.min_score.threshold'?"),
    (["+threshold=0.99"], "no option 'threshold'; did you mean 'stage.min_score.threshold'?"),
    (["++x=1"], f"no option 'x'; known: {KNOWN}"),
    (["größe=3"], f"no option 'größe'; known: {KNOWN}"),
    (["scor_threshold=1"], "no option 'scor_threshold'; did you mean 'model.score_threshold'?"),
    (["model.treshold=1"], "no option 'model.treshold'; did you mean 'model.nms_threshold' or "
     "'model.score_threshold'?"),
    (["+decode.foo=1"], f"no option 'decode.foo'; known: {DECODE}"),
    (["decode.timeout=1"], "no option 'decode.timeout'; did you mean 'decode.timeout_s'?"),
    (["+stage.min_score.foo=1"],
     "no option 'stage.min_score.foo'; known: stage.min_score.threshold, "
     "stage.min_score.thresholds"),
    (["+stage.min_score.foo.bar=1"],
     "no option 'stage.min_score.foo'; known: stage.min_score.threshold, "
     "stage.min_score.thresholds"),
    (["stage.min_scor.threshold=0.3"],
     "no option 'stage.min_scor.threshold'; did you mean 'stage.min_score.threshold'?"),
    (["runner.foo=1"], f"no option 'runner.foo'; known: {BATCH}"),
    (["runner.settle_s=3"],
     "no option 'runner.settle_s' in this job; it belongs to runner=watch"),
    (["runnable.n_instances=3"],
     "no option 'runnable.n_instances' in this job; it belongs to runnable=fake"),
    (["stage.nms.threshold=0.5"],
     "stage.nms.threshold: the stage nms is not selected; add it: 'stage=[min_score,nms]'"),
    (["stage=[]", "stage.top_k.k=0.5"],
     "stage.top_k.k: the stage top_k is not selected; add it: 'stage=[top_k]'"),
    (["sink=[coco]", "sink.overlay.boxes=false"],
     "sink.overlay.boxes: the sink overlay is not selected; add it: 'sink=[coco,overlay]'"),
    (["iou_threshold=0.5"],
     "no option 'iou_threshold'; did you mean 'stage.nms.iou_threshold' (stage=[...,nms])?"),
    (["stage.min_score=0.7"],
     "stage.min_score=0.7 replaces the whole stage; did you mean stage.min_score.threshold=0.7?"),
    (["stage.min_score=null"],
     "stage.min_score is null; to remove the stage, write '~stage.min_score'"),
    (["hydra.foo=1"], "no option 'hydra.foo'"),
    (["+hydra.foo=1"], "no option 'hydra.foo'"),
    (["++hydra.run.foo=1"], "no option 'hydra.run.foo'"),
    (["~decode"], "decode cannot be removed: every job needs it"),
    (["~stage.nms"], "~stage.nms: there is nothing to remove; it is not set"),
    (["=x"], "'=x' has no key; options are written KEY=VALUE"),
]  # fmt: skip

WORDS = [
    (["input", "dir/"], "'input' has no value; write input=dir/"),
    (["device", "cuda"], "'device' has no value; write device=cuda"),
    (["model"], "'model' has no value; write model=VALUE"),
    (["examples"], "'examples' is not KEY=VALUE; write input=examples"),
    (["devise"], "'devise' is not KEY=VALUE; did you mean 'device'?"),
    (["go!"], "'go!' is not KEY=VALUE, as in input=dir/; see --help"),
    (["stage.mine={_target_:", "a.B,", "k:", "1}", "seed=1"], "'a.B,' is not KEY=VALUE; a value "
     "with spaces needs quotes: 'stage.mine={_target_: a.B, k: 1}'"),
    (["stage=[nms,", "top_k]"], "'top_k]' is not KEY=VALUE; a value with spaces needs quotes: "
     "'stage=[nms, top_k]'"),
    (["--resolve"], "--resolve needs --cfg or --help"),
    (["-m", "--cfg", "job"], "--multirun and --cfg cannot be combined; choose one"),
    (["--device", "cpu"], "d2run has no flag --device; write device=cpu"),
    (["--batch-size=4"], "d2run has no flag --batch-size; write batch_size=4"),
    (["--input=x"], "d2run has no flag --input; write input=x"),
    (["--model"], "d2run has no flag --model; write model=VALUE"),
    (["-d", "cpu"],
     "d2run has no flag -d; options are written KEY=VALUE, as in device=cpu; see --help"),
    (["--hlep"], "d2run has no flag --hlep; did you mean '--help'?"),
    (["--multi"], "d2run has no flag --multi; did you mean '--multirun'?"),
    (["--cfg", "jbo"], "--cfg jbo: no such part; did you mean 'job'?"),
    (["--cfg"], "argument --cfg/-c: expected one argument; the flags are in --hydra-help"),
    (["--cfg", "job", "--package", "nope"],
     "--package nope: there is no such key"),
    (["--info", "config", "stage=[mns]"], "stage=mns: no such option; did you mean 'nms'?"),
    (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN: write -m to run a job per value"),
    (["--info", "nope"], "--info nope: no such part; known: all, config, defaults, defaults-tree, "
     "plugins, searchpath"),
    (["--config-dir", "nope", INPUT], "--config-dir nope: no such directory"),
    (["--config-name", "nope"],
     "--config-name nope: there is no nope.yaml; add its directory with --config-dir"),
    (["--config-path", "conf"],
     "d2run has no --config-path; add a directory of yours with --config-dir"),
]  # fmt: skip

CHOICES = [
    (["model=mask_rcn"], "model=mask_rcn: no such option; did you mean 'mask_rcnn' or "
     "'cascade_mask_rcnn' or 'faster_rcnn'?"),
    (["sink=[cocoo]"], "sink=cocoo: no such option; did you mean 'coco'?"),
    (["stage=[min_score,mns]"], "stage=mns: no such option; did you mean 'nms'?"),
    (["runner=wach"], "runner=wach: no such option; did you mean 'watch' or 'batch'?"),
    (["model=größe"], "model=größe: no such option; known: cascade_mask_rcnn, custom, faster_rcnn, "
     "keypoint_rcnn, mask_rcnn, panoptic_fpn, recorded, retinanet, semantic_fpn, shapes, stored"),
    (["stage=min_score,nms"],
     "stage=min_score,nms: write a list in brackets: 'stage=[min_score,nms]'"),
    (["model=mask_rcnn,shapes"],
     "model=mask_rcnn,shapes: expected one option; add -m to run a job per option"),
    (["model@x=shapes"], "model@x=shapes: write model=NAME, without '@x'"),
    (["+model=shapes"], "+model=shapes: choose an option without '+'"),
    (["model=null"], "model=null: write an option instead of null"),
    (["sink=null"], "sink=null: write sink=[] instead of null"),
    (["~model"], "model.name has no value; choose an option: model=NAME"),
    (["~runner"],
     "runner has no _target_, the class to build; choose an option: runner=NAME"),
    (["-m", "model=shapes,shaps", INPUT], "model=shaps: no such option; did you mean 'shapes'?"),
    (["model=stored", "model.tag=shape", INPUT], "no model 'shape' in {home}/models; did you mean "
     "'shapes'?"),
]  # fmt: skip

VALUES = [
    (["exif=maybe"], "exif: expected true or false, got 'maybe'"),
    (["seed=1.5"], "seed: expected a whole number, got 1.5"),
    (["seed=1,2"], "seed: expected a whole number, got '1,2'; add -m to run a job per value"),
    (["decode=5"], "decode: expected a mapping, got 5"),
    (["device.x=5"], "device: expected a string, got a mapping"),
    (["batch_size=abc"],
     "batch_size: expected auto or a whole number of at least 1, got 'abc'"),
    (["stage.min_score.threshold=0.3,0.5"],
     "stage.min_score.threshold: expected a number, got '0.3,0.5'; add -m to run a job per value"),
    (["stage.min_score.threshold=abc"], "stage.min_score.threshold: expected a number, got 'abc'"),
    (["stage.min_score.threshold=2"],
     "stage.min_score.threshold: expected a number from 0 to 1, got 2"),
    (["runnable.cache=2024"], "runnable.cache: expected a string or null, got 2024; to pass a "
     "string, write runnable.cache='\"2024\"'"),
    (["device=gpu"], "device: expected auto, cpu, cuda or cuda:N, got 'gpu'; did you mean 'cuda'?"),
    (["device=cuda0"],
     "device: expected auto, cpu, cuda or cuda:N, got 'cuda0'; did you mean 'cuda:0'?"),
    (["device=null"], "device: expected a string, got null"),
    (["device="], "device: expected a value, got ''; remove it to use the default"),
    (["model.name="], "model.name: expected a value, got ''; remove it to use the default"),
    (["model.tag="], "model.tag: expected a value, got ''; remove it to use the default"),
    (["output="], "output: expected a value, got ''; remove it to use the default"),
    (["input="], "input is missing: set it to a file, a directory, a glob or a list"),
    (["decode.jpeg=pilow"],
     "decode.jpeg: expected pillow or nvjpeg, got 'pilow'; did you mean 'pillow'?"),
    (["output=README.md"], "output README.md: it is a file; choose another output"),
    (["output=s3:/bucket/run"], "output: 's3:/bucket/run': did you mean s3://bucket/run?"),
    (["output=README.md/x"],
     "output README.md/x: it is a file; choose another output"),
    (["device=${seed"], "device: '${{seed' is not a valid interpolation; write ${{KEY}}"),
    (["input=${nope}"], "input: interpolation key 'nope' not found"),
    (["device=${oc.env:D2RUN_NOPE}"],
     "device requires the environment variable D2RUN_NOPE, which is not set"),
    (["runner=serve", "runner.token=${oc.env:D2RUN_NOPE}"],  # messages about it are not hidden
     "runner.token requires the environment variable D2RUN_NOPE, which is not set"),
    (["runner=serve", "runner.token=a b"], "runner: token must be text without spaces, or null"),
    (["runner=serve", "runner.host=0.0.0.0"],
     "runner.host: other machines can connect to 0.0.0.0. Set runner.token="
     "'${{oc.env:D2RUN_TOKEN}}' so that they need the token in that environment variable, or "
     "runner.public=true to serve everyone"),
    (["device=${model.name}", "model.name=${device}"],
     "device: recursive interpolation detected"),
    (["-m", "exif=true,maybe"], "exif: expected true or false, got 'maybe'"),
    (["-m", "seed=0", "batch_size=abc", "quiet=true"],
     "job 0: batch_size: expected auto or a whole number of at least 1, got 'abc'"),
    (["model.weights=~/a (1).pth"], "model.weights: no such file: '{tmp}/a (1).pth'. Give zoo, "
     "random, a path or an http(s) address"),
    (["model.weights=~no_such_user/ü,b.pth"], "model.weights: no such file: "
     "'~no_such_user/ü,b.pth'. Give zoo, random, a path or an http(s) address"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [pytest.param(*row, id=" ".join(row[0])) for row in [*KEYS, *WORDS, *CHOICES]],
)
def test_keys_words_and_choices(
    said: Said, arguments: list[str], line: str, tmp_path: Path
) -> None:
    assert said(*arguments) == line.replace("{home}", f"{tmp_path}/home")


@pytest.mark.parametrize(
    ("arguments", "line"), [pytest.param(*row, id=" ".join(row[0])) for row in VALUES]
)
def test_values(said: Said, arguments: list[str], line: str, tmp_path: Path) -> None:
    base = [each for each in ("model=mask_rcnn", INPUT) if not arguments[0].startswith(each[:6])]
    assert said(*base, *arguments) == line.format(cwd=ROOT, tmp=tmp_path)


@pytest.mark.parametrize(
    ("weights", "path"),
    [("~/a (1).pth", "{tmp}/a (1).pth"), ("~no_such_user/ü,b.pth", "~no_such_user/ü,b.pth")],
)
def test_weights_that_do_not_exist(said: Said, tmp_path: Path, weights: str, path: str) -> None:
    line = said("model=mask_rcnn", INPUT, f"model.weights={weights}")
    assert f"'{path.format(tmp=tmp_path)}'" in line
    assert "zoo, random, a path or an http(s) address" in line


def test_a_custom_stage_that_cannot_be_imported(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mistyped").mkdir()
    (tmp_path / "mistyped" / "stages.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = said(
        *JOB, "stage.mine={_target_: mistyped.stages.Mine, size: 3}", "trusted_packages=[mistyped]"
    )
    assert line == (
        "stage.mine: cannot import 'mistyped.stages.Mine': ModuleNotFoundError: No module named "
        "'no_such_module'"
    )


def test_code_that_is_not_a_part(said: Said, tmp_path: Path) -> None:
    target = "{_target_: pipeline.sources.decode.worker.Worker, command: [sh, -c, 'touch %s/ran']}"
    line = said(*JOB, f"stage.mine={target % tmp_path}")
    assert line.startswith(
        "stage.mine: _target_ 'pipeline.sources.decode.worker.Worker' is not a stage of d2run; "
    )
    assert not (tmp_path / "ran").exists()


def test_the_first_command_of_the_page_on_models(said: Said) -> None:
    line = said(
        "runner=save", "model=custom", "model.config=my.yaml", "model.weights=model_final.pth",
        "model.class_names=[crack,spall]", "model.name=crack_finder", "model.labels={team: vision}",
    )  # fmt: skip
    assert "my.yaml" in line  # which is not there; the rest is understood
