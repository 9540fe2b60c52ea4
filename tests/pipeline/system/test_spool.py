from __future__ import annotations

import gc
import pickle
from pathlib import Path

import pytest

from pipeline.system.files import remove_temporaries
from pipeline.system.spool import Spool

LINES = [b"%d\n" % i for i in range(100)]


def filled(directory: Path, max_bytes: int) -> Spool:
    spool = Spool(directory, max_bytes)
    for line in LINES:
        spool.append(line)
    return spool


@pytest.mark.parametrize("max_bytes", [0, 50, 1000])
def test_lines_come_back_in_order(tmp_path: Path, max_bytes: int) -> None:
    spool = filled(tmp_path, max_bytes)
    assert (spool.n_lines, spool.n_bytes) == (100, sum(map(len, LINES)))
    assert len(list(tmp_path.iterdir())) == (max_bytes < 1000)
    for _ in range(2):
        assert list(spool) == LINES
    for _ in range(2):
        spool.close()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("max_bytes", [50, 1000])
def test_a_copy_from_another_process(tmp_path: Path, max_bytes: int) -> None:
    spool = filled(tmp_path, max_bytes)
    copies = [pickle.loads(pickle.dumps(spool)) for _ in range(2)]
    del spool
    gc.collect()  # the file belongs to the receivers now
    assert list(copies.pop()) == LINES
    gc.collect()
    assert list(copies[0]) == LINES
    copies[0].close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_nobody_closes(tmp_path: Path) -> None:
    spool = filled(tmp_path, 50)
    del spool
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    spool = filled(tmp_path, 50)
    remove_temporaries(tmp_path)  # as after a kill
    assert list(tmp_path.iterdir()) == []
    spool.close()
