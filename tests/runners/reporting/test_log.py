"""run.log has what libraries say, and the terminal has not."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from runners.reporting.log import logged

SCRIPT = """
import sys, warnings
from pathlib import Path
from runners.reporting.log import logged

with logged(Path(sys.argv[1])):
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning):
        warnings.warn_explicit(f"of {category.__name__}", category, "torch/jit.py", 3)
"""


def test_warnings_of_libraries_are_in_the_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run.log")]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = (tmp_path / "run.log").read_text().splitlines()
    kinds = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "UserWarning")
    assert len(log) == len(kinds)
    for line, kind in zip(log, kinds, strict=True):
        assert f"WARNING py.warnings: torch/jit.py:3: {kind}: of {kind}" in line


def test_what_a_program_made_of_warnings_stays(tmp_path: Path) -> None:
    before = list(warnings.filters)
    with logged(tmp_path / "run.log"), pytest.raises(DeprecationWarning):
        warnings.warn("an error here, as pytest says", DeprecationWarning, stacklevel=1)
    assert warnings.filters == before


def test_what_a_model_says_while_it_is_built(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from pipeline.models.architectures import quiet

    with logged(tmp_path / "run.log"), quiet():
        for _ in range(3):
            warnings.warn("of a model", DeprecationWarning, stacklevel=1)
    (line,) = (tmp_path / "run.log").read_text().splitlines()
    assert "INFO py.warnings" in line
    assert line.endswith("DeprecationWarning: of a model")
    with quiet():  # hidden otherwise
        warnings.warn("of a model", DeprecationWarning, stacklevel=1)
