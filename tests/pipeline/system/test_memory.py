"""When Python looks for garbage."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.system.memory import import_frozen

ROOT = Path(__file__).parents[3]
COLLECTING = "import gc; collecting = gc.isenabled(); itself = []; itself.append(itself)"


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()
    for name in ("for_good_a", "for_good_b"):
        sys.modules.pop(name, None)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "for_good_a.py").write_text(COLLECTING)
    (tmp_path / "for_good_b.py").write_text(COLLECTING)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("modules")
def test_modules_are_looked_through_neither_meanwhile_nor_later() -> None:
    gc.unfreeze()
    import_frozen("for_good_a", "for_good_b")
    assert not sys.modules["for_good_a"].collecting
    assert not sys.modules["for_good_b"].collecting
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(each is sys.modules["for_good_b"].itself for each in gc.get_objects())


@pytest.mark.usefixtures("modules")
def test_only_the_first_time() -> None:
    import_frozen("for_good_a")
    gc.unfreeze()
    import_frozen("for_good_a")  # a model may have been made since, and be garbage one day
    assert gc.get_freeze_count() == 0


def test_a_module_that_fails_leaves_nothing_behind(modules: Path) -> None:
    (modules / "for_good_b.py").write_text("1 / 0")
    gc.unfreeze()
    with pytest.raises(ZeroDivisionError):
        import_frozen("for_good_a", "for_good_b")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("modules")
def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    import_frozen("for_good_a")
    assert not gc.isenabled()


FROZEN = """
import os

class Instance:
    def __del__(self, write=os.write):
        write(1, b"freed\\n")

instance = Instance()
instance.itself = instance  # only the garbage collector frees it
"""


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        pytest.param("", 0, id="normal"),
        pytest.param("sys.exit(3)", 3, id="status"),
        pytest.param("raise KeyboardInterrupt", -signal.SIGINT, id="interrupt"),
        pytest.param("raise RuntimeError('failed')", 1, id="error"),
        pytest.param("import_frozen('json'); import_frozen('decimal')", 0, id="twice"),
    ],
)
def test_objects_are_freed_when_the_process_exits(tmp_path: Path, ending: str, status: int) -> None:
    # nanobind, under triton, reports objects that are still alive then as leaks
    (tmp_path / "frozen.py").write_text(FROZEN)
    code = "import sys; from pipeline.system.memory import import_frozen; import_frozen('frozen')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{ending}"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == "freed\n"
