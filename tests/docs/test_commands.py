"""Every command in the documentation: composed and built as a user would, the cheap ones run."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from finished_run import write_run
from signing_keys import write_keys

from pipeline.job import Job, Report
from pipeline.store.command.arguments import make_parser
from pipeline.store.command.cli import _COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "examples/*/*.md", "packaging/*/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python run\.py|python -m pipeline\.store|d2run) [^`]+)`")
LANGUAGES = {"bash", "console", "json", "python", "text", "yaml"}
OPERATORS = {"&&", "||", "|", ";"}

# Commands that no test here runs, and why.
NOT_RUN = {
    "pip install": "changes the environment",
    "uv pip install": "changes the environment",
    "uv sync": "changes the environment",
    "uv run --no-sync run.py ...": "a form, not a command",
    "bash .ci/run": "runs these tests",
    "bash benchmarks/gpu.sh": "needs a GPU; tests/benchmarks/test_gpu.py rehearses it",
    "bentoml models import": "in tests/pipeline/store/exchange",
    "bentoml build": "in tests/examples/test_bentoml_service.py",
    "bentoml serve": "in tests/examples/test_bentoml_service.py",
    "bentoml containerize": "needs Docker",
    "curl": "in tests/docs/test_serve_page.py and tests/examples/test_bentoml_service.py",
    "python run.py model=mask_rcnn input=s3://": "needs a remote store",
    "openssl": "in tests/pipeline/recorded/test_signing.py",
    "sha256sum": "in tests/pipeline/recorded/test_manifest.py",
    "python run.py -m hydra/launcher=gpu": "needs a GPU; in tests/cli/test_launcher.py",
    "python my_app.py": "in tests/packaging/gpu_launcher/test_launching.py",
    "useradd": "changes the system",
    "install -d": "changes the system",
    "ray start": "starts Ray, and leaves it running",
    "systemctl": "changes the system",
    "find /srv/results/inbox/health": "in tests/docs/test_watch_page.py",
    "test -n": "in tests/docs/test_watch_page.py",
}
# Scripts: that their flags exist is tested here; tests/benchmarks and tests/examples run them.
SCRIPTS = re.compile(r"^(?:uv run )?python ((?:benchmarks|examples)/[\w/]+\.py)(.*)")
PLACEHOLDERS = {
    "device=cuda:0": "device=cpu",
    "model.tag=crack_finder": "model.tag=shapes",
    "model=...": "model=shapes",
}
FOLDERS = [
    "images",
    "dir",
    "clips",
    "inbox",
    "stacks",
    "my photos (2024), part #1",
    "srv/photos",
    "srv/inbox",
]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a page, and the lines that it should print (``console`` blocks)."""
    text = page.read_text("utf-8")
    for language, block in FENCE.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "bash":
            yield from ((line, []) for line in lines if line.strip())
        elif language == "console":
            starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
            for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
                yield lines[start][2:], lines[start + 1 : end]
    outside = FENCE.sub("", text)
    yield from ((found, []) for found in INLINE.findall(outside) if "..." not in found)


def words(line: str) -> list[list[str]]:
    """Split a line into commands, and these into words; ends at a redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in OPERATORS:
            found.append([])
        elif word.startswith(">"):
            break
        else:
            found[-1].append(word)
    return found


def arguments(line: str) -> tuple[str, list[str]] | None:
    """Return the program (``run`` or ``store``) of a line, and its arguments."""
    for command in words(line):
        names = [Path(word).name for word in command]
        if "pipeline.store" in names:
            return "store", command[names.index("pipeline.store") + 1 :]
        if starts := [i for i, name in enumerate(names) if name in ("run.py", "d2run")]:
            return "run", command[starts[-1] + 1 :]  # the last: d2run is also the name of a user
    return None


ALL = [(page, *each) for page in PAGES for each in commands(page)]
RUN: dict[tuple[str, ...], tuple[Path, list[str]]] = {}  # each once, though pages repeat some
for _page, _line, _printed in ALL:
    _found = arguments(_line)
    if _found and _found[0] == "run" and not _line.startswith(tuple(NOT_RUN)):
        RUN.setdefault(tuple(_found[1]), (_page, _printed))
CHEAP = [  # tests/examples run those with --config-dir, tests/cli run sweeps
    each
    for each in RUN
    if {"model=shapes", "input=examples/shapes/scenes"} <= {*each}
    and not {"-m", "--config-dir"} & {*each}
]


def test_blocks_say_what_they_are() -> None:
    found = {(page.name, language) for page in PAGES for language, _ in FENCE.findall(
        page.read_text("utf-8"))}  # fmt: skip
    assert sorted(each for each in found if each[1] not in LANGUAGES) == []


def test_every_line_is_a_command_that_is_tested() -> None:
    def is_known(line: str) -> bool:
        return bool(arguments(line) or SCRIPTS.match(line)) or line.startswith(tuple(NOT_RUN))

    assert [f"{page.name}: {line}" for page, line, _ in ALL if not is_known(line)] == []
    unused = [each for each in NOT_RUN if not any(line.startswith(each) for _, line, _ in ALL)]
    assert unused == []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the files that the commands name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("D2RUN_TOKEN", "secret")
    monkeypatch.syspath_prepend(ROOT / "examples" / "user_package")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/shapes").mkdir(parents=True)
    run = write_run(tmp_path / "runs/night")
    (run / ".hydra").mkdir()
    (run / ".hydra/overrides.yaml").write_text("- model=shapes\n- input=dir\n")
    (run / ".hydra/hydra.yaml").write_text("{}")
    write_keys(tmp_path)
    write_run(tmp_path / "runs/base")
    (tmp_path / "runs/scenes").mkdir()
    for scenes in ("annotations.json", "runs/scenes/annotations.json"):
        (tmp_path / scenes).write_text('{"images": []}')
    zipfile.ZipFile(tmp_path / "photos.zip", "w").close()
    for weights in ("model_final.pth", "runs/shapes/weights.safetensors"):
        (tmp_path / weights).write_bytes(b"weights")
    best = tmp_path / "runs/night/thresholds/stage/best_f1.yaml"
    best.parent.mkdir(parents=True)
    best.write_bytes((ROOT / "conf/stage/min_score.yaml").read_bytes())
    for page in PAGES:
        for _, block in FENCE.findall(page.read_text("utf-8")):
            if named := re.match(r"# (my_conf/\S+)\n", block):
                path = tmp_path / named[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.replace("/srv/", f"{tmp_path}/srv/"))
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)
    for name in [name for name in sys.modules if name.split(".")[0] == "plant"]:
        del sys.modules[name]


@pytest.fixture
def main(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], int]:
    """Run ``run.py`` in this process, with placeholders for what a test cannot have."""
    from runners.entry import main as entry

    def run(line: Sequence[str]) -> int:
        given = [PLACEHOLDERS.get(word, word.replace("=/srv/", f"={place}/srv/")) for word in line]
        names = [word for word in given if word.startswith("model.class_names=")]
        for config in ("cfg.yaml", "my.yaml"):  # of as many classes as the command names
            (place / config).write_text(
                "_BASE_: COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml\n"
                f"MODEL: {{ROI_HEADS: {{NUM_CLASSES: {sum(n.count(',') + 1 for n in names)}}}}}\n"
            )
        monkeypatch.setattr(sys, "argv", ["run.py", *given])
        return entry()

    return run


class Nothing:
    """A runner that does nothing."""

    def run(self, job: Job) -> Report:
        return Report(0)


@pytest.mark.parametrize("line", [each for each in RUN if each not in CHEAP], ids=shlex.join)
def test_it_builds(
    line: tuple[str, ...],
    main: Callable[[Sequence[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from runners import jobs

    build = jobs.build_job
    monkeypatch.setattr(jobs, "build_job", lambda *job: replace(build(*job), runner=Nothing()))
    status = main(line)
    printed = RUN[line][1]
    error = capsys.readouterr().err
    if printed:
        assert error.splitlines() == printed
    else:
        assert status == 0, error
        assert "error" not in error


@pytest.mark.detectron2
@pytest.mark.parametrize("line", CHEAP, ids=shlex.join)
def test_it_runs(line: tuple[str, ...], main: Callable[[Sequence[str]], int], place: Path) -> None:
    assert main(line) == 0
    made = list(place.glob("outputs/*/*/predictions.jsonl"))
    assert len(made) == ("runner=plan" not in line)


@pytest.mark.parametrize(
    ("page", "line"),
    [(page, line) for page, line, _ in ALL if (arguments(line) or [""])[0] == "store"],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_it_is_a_command_of_the_store(page: Path, line: str) -> None:
    found = arguments(line)
    assert found is not None
    make_parser(_COMMANDS).parse_args(found[1])  # exits if it is wrong, which pytest reports


def test_the_table_of_the_store() -> None:
    text = (ROOT / "docs/models.md").read_text("utf-8")
    names = "list|get|save|delete|export|import|verify|alias|provenance|prune"
    rows = re.findall(rf"^\| `((?:{names})\b[^`]*)`", text, re.MULTILINE)
    assert {row.split()[0] for row in rows} == set(_COMMANDS)
    for row in rows:
        make_parser(_COMMANDS).parse_args(row.replace("[", "").replace("]", "").split())


def test_flags_of_scripts() -> None:
    missing = []
    for _, line, _ in ALL:
        if found := SCRIPTS.match(line):
            script = ROOT / found[1]
            sources = "".join(path.read_text("utf-8") for path in script.parent.glob("*.py"))
            flags = re.findall(r"--[\w-]+", found[2].partition(" #")[0])
            missing += [flag for flag in flags if f'"{flag}"' not in sources]
    assert missing == []
