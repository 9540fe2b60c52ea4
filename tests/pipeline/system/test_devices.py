from __future__ import annotations

import pytest

from pipeline.errors import DeviceError
from pipeline.system.devices import device_name, resolve_device

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_resolve(monkeypatch: pytest.MonkeyPatch, wanted: str, count: int, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert resolve_device(wanted) == expected


@pytest.mark.parametrize(
    ("wanted", "count", "available"),
    [("cuda", 0, "cpu"), ("cuda:2", 2, "cpu, cuda:0, cuda:1")],
)
def test_missing(monkeypatch: pytest.MonkeyPatch, wanted: str, count: int, available: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(DeviceError, match=f"'{wanted}' does not exist. Available: {available}$"):
        resolve_device(wanted)


def test_the_cpu_has_a_name() -> None:
    assert device_name("cpu")
