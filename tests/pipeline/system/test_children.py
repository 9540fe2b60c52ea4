"""Where code may come from, in this process and in the isolated ones it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.system import children
from pipeline.system.children import find_program, import_path, python_command

ROOT = str(Path(__file__).resolve().parents[3])
STANDARD = str(Path(os.__file__).parent)
SITE = str(Path(pytest.__file__).resolve().parents[1])
SHOW = "import json, sys\nprint(json.dumps([__name__, sys.argv[1:], sys.path, sys.flags.isolated]))"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The current directory, which is not the project's."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return str(folder.resolve())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(["", ROOT, STANDARD, SITE], [STANDARD, ROOT, SITE], id="python -c"),
        pytest.param(["{here}", STANDARD, SITE], [STANDARD, SITE], id="python -m"),
        pytest.param(["{here}/../here", STANDARD], [STANDARD], id="spelled another way"),
        pytest.param(["lib", "../x", ".", STANDARD], [STANDARD], id="relative"),
        pytest.param([ROOT, STANDARD, SITE], [STANDARD, ROOT, SITE], id="run.py"),
        pytest.param([STANDARD, None, b"/x", SITE, SITE], [STANDARD, SITE], id="not text, twice"),
        pytest.param(
            [SITE, f"{STANDARD}/lib-dynload", STANDARD],
            [f"{STANDARD}/lib-dynload", STANDARD, SITE],
            id="lib-dynload",
        ),
    ],
)
def test_import_path(
    here: str, monkeypatch: pytest.MonkeyPatch, path: list[str], expected: list[str]
) -> None:
    given = [each.format(here=here) if isinstance(each, str) else each for each in path]
    monkeypatch.setattr(sys, "path", given)
    assert import_path() == expected


@pytest.mark.parametrize(
    ("variable", "kept"),
    [(".", True), ("{here}", True), ("/x:{here}", True), ("", False), (":/x", False)],
)
def test_the_current_directory_is_kept_if_pythonpath_names_it(
    here: str, monkeypatch: pytest.MonkeyPatch, variable: str, kept: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", variable.format(here=here))
    monkeypatch.setattr(sys, "path", [here, STANDARD])
    assert import_path() == [STANDARD, *([here] if kept else [])]


def test_the_directory_of_the_started_script_is_kept(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", f"{here}/mine.py", raising=False)
    monkeypatch.setattr(sys, "path", [here, STANDARD])
    assert import_path() == [STANDARD, here]


def test_the_project_is_found_from_its_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", ["", STANDARD])
    assert import_path() == [STANDARD, ROOT]


def test_a_current_directory_that_was_removed(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(here).rmdir()
    monkeypatch.setattr(sys, "path", ["", here, STANDARD])
    assert STANDARD in import_path()
    assert "" not in import_path()


def test_a_child_imports_what_this_process_would(
    here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "thëirs'\n"  # any name
    theirs.mkdir()
    (theirs / "shown.py").write_text(SHOW)
    (Path(here) / "shown.py").write_text("1 / 0")
    for folder in (here, theirs):
        (Path(folder) / "json.py").write_text("1 / 0")
    monkeypatch.setattr(sys, "path", ["", here, str(theirs), STANDARD, SITE])
    monkeypatch.setenv("PYTHONHOME", here)
    done = subprocess.run(python_command("shown", "a", "-b"), capture_output=True, check=True)
    name, arguments, path, isolated = json.loads(done.stdout)
    assert (name, arguments, isolated) == ("__main__", ["a", "-b"], 1)
    assert path[:3] == [STANDARD, str(theirs), SITE]


@pytest.mark.parametrize("mode", ["0", "1"])
def test_a_child_reads_file_names_as_this_process_does(mode: str) -> None:
    code = "import subprocess; from pipeline.system.children import *; " + (
        "command = python_command('this'); command[-1] = 'import sys; print(sys.flags.utf8_mode)'; "
        "subprocess.run(command, check=True)"
    )
    command = [sys.executable, "-X", f"utf8={mode}", "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == f"{mode}\n"


def test_a_program_is_not_looked_for_in_the_current_directory(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(here, "d2run-test")
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", ":.:../here")
    assert find_program("d2run-test") is None
    monkeypatch.setenv("PATH", f".:{here}")
    assert find_program("d2run-test") == str(program)


@pytest.mark.parametrize(
    ("argv", "original", "expected"),
    [
        (["-m"], ["python", "-m", "pipeline.store", "list"], True),
        (["-m"], ["python", "-Impipeline.store"], True),
        (["-m"], ["python", "-m", "plant.tool"], False),  # a user's, which imports this package
        (["run.py"], ["python", "run.py", "input=pipeline.store"], False),
        ([], ["python"], False),
    ],
)
def test_started_by_name(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], original: list[str], expected: bool
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert children.is_started_by_name() is expected
