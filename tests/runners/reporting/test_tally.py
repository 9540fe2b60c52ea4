"""Counts of outcomes: failures by reason, in bounded memory."""

from __future__ import annotations

from collections import Counter

from pipeline.errors import DecodeError, OutputError
from pipeline.job import FailureGroup
from runners.reporting.tally import Failures, most_common


def test_the_same_reason_is_one_group() -> None:
    failures = Failures()
    failures.add("c.jpg", DecodeError("truncated (10 bytes not processed)"))
    for name in ("a.jpg", "b.jpg", "d.jpg", "e.jpg"):
        failures.add(name, DecodeError("not an image that d2run reads"))
    assert failures.groups() == (
        FailureGroup("decode: not an image that d2run reads", 4, ("a.jpg", "b.jpg", "d.jpg")),
        FailureGroup("decode: truncated (10 bytes not processed)", 1, ("c.jpg",)),
    )


def test_numbers_and_names_do_not_make_another_reason() -> None:
    failures = Failures()
    for i in range(3):
        failures.add(f"{i}.jpg", DecodeError(f"{i}.jpg is truncated ({i} bytes of JPEG2000)"))
    (group,) = failures.groups()
    assert (group.reason, group.count) == ("decode: … is truncated (… bytes of JPEG2000)", 3)


def test_many_reasons_are_bounded() -> None:
    failures = Failures()
    for i in range(1000):
        failures.add(f"{i}.jpg", OutputError("reason " + chr(0x4E00 + i)))
    groups = failures.groups()
    assert len(groups) == 21
    assert sum(group.count for group in groups) == 1000
    assert groups[0].reason == "other reasons"
    assert all(len(group.examples) <= 3 for group in groups)


def test_the_rarest_of_many_reasons_are_added_up() -> None:
    skipped = {f"not an image (.{i:06d})": 1 for i in range(1000)} | {"hidden": 7}
    common = most_common(Counter(skipped))
    assert (len(common), sum(common.values()), common["other reasons"]) == (21, 1007, 981)
