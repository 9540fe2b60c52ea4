"""When Python looks for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.pages import import_for_good

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
    import_for_good("for_good_a", "for_good_b")
    assert not sys.modules["for_good_a"].collecting
    assert not sys.modules["for_good_b"].collecting
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(each is sys.modules["for_good_b"].itself for each in gc.get_objects())


@pytest.mark.usefixtures("modules")
def test_only_the_first_time() -> None:
    import_for_good("for_good_a")
    gc.unfreeze()
    import_for_good("for_good_a")  # a model may have been made since, and be garbage one day
    assert gc.get_freeze_count() == 0


def test_a_module_that_fails_leaves_nothing_behind(modules: Path) -> None:
    (modules / "for_good_b.py").write_text("1 / 0")
    gc.unfreeze()
    with pytest.raises(ZeroDivisionError):
        import_for_good("for_good_a", "for_good_b")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("modules")
def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    import_for_good("for_good_a")
    assert not gc.isenabled()
