"""When Python looks for garbage."""

from __future__ import annotations

import gc
import weakref

import pytest

from pipeline.pages import uncollected


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_made_meanwhile_is_looked_at_again_once_that_is_asked_for() -> None:
    with uncollected():
        assert not gc.isenabled()
        made = _Cycle()
    gone = weakref.ref(made)
    del made
    assert gc.isenabled()
    gc.collect()
    assert gone() is not None
    gc.unfreeze()
    gc.collect()
    assert gone() is None


def test_a_failure_leaves_nothing_behind() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(ValueError, match="wrong"), uncollected():
        raise ValueError("wrong")
    assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
