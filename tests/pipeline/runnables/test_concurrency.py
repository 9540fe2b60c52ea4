"""Dividing a CPU's cores among forwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest

from pipeline.runnables.concurrency import Slots, current_slot, divide_threads, torch_threads

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("forwards", "threads", "divided"),
    [
        ("auto", 1, (1, 1)),
        ("auto", 2, (2, 1)),
        ("auto", 4, (4, 1)),
        ("auto", 64, (4, 16)),
        (1, 8, (1, 8)),
        (3, 8, (3, 2)),
        (4, 2, (4, 1)),
    ],
)
def test_threads_are_divided(forwards: int | str, threads: int, divided: tuple[int, int]) -> None:
    assert divide_threads(forwards, threads) == divided


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool, torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        assert pool.submit(torch.get_num_threads).result() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), torch_threads(before + 1):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_slots_are_released() -> None:
    slots, seen = Slots(2), []

    def forward() -> None:
        with slots.acquire():
            seen.append(current_slot())

    for _ in range(5):  # threads that come and go, as those of a watched folder do
        threads = [Thread(target=forward) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 20
    assert set(seen) <= {0, 1}
    assert current_slot() == 0
