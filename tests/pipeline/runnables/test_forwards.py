"""Sharing out a CPU's cores among forwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest

from pipeline.runnables.forwards import Lanes, at_once, lane, torch_threads

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("wanted", "threads", "shared"),
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
def test_shares(wanted: int | str, threads: int, shared: tuple[int, int]) -> None:
    assert at_once(wanted, threads) == shared


def test_torch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool, torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        assert pool.submit(torch.get_num_threads).result() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), torch_threads(before + 1):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_lanes_are_given_back() -> None:
    lanes, seen = Lanes(2), []

    def forward() -> None:
        with lanes.taken():
            seen.append(lane())

    for _ in range(5):  # threads that come and go, as those of a watched folder do
        threads = [Thread(target=forward) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 20
    assert set(seen) <= {0, 1}
    assert lane() == 0
