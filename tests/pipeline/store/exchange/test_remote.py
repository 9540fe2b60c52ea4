import fsspec
import pytest
from fsspec.registry import known_implementations

from pipeline.errors import StoreError
from pipeline.store.exchange.remote import fetch, send


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_send_and_fetch(tmp_path, memory):
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(b"first")
    send(source, "memory://bucket/a.zip", overwrite=False)
    source.write_bytes(b"second")
    with pytest.raises(StoreError, match=r"memory://bucket/a\.zip' already exists"):
        send(source, "memory://bucket/a.zip", overwrite=False)
    fetch("memory://bucket/a.zip", target)
    assert target.read_bytes() == b"first"
    send(source, "memory://bucket/a.zip", overwrite=True)
    fetch("memory://bucket/a.zip", target)
    assert target.read_bytes() == b"second"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://user:secret@bucket/a.zip?token=secret", "no such file"),
        ("nowhere://user:secret@bucket/a.zip", "Install nowherefs"),
        ("unknown://user:secret@bucket/a.zip", "Protocol not known"),
        ("simplecache::https://user:secret@bucket/a.zip", "malformed address"),
        ("https://user:secret@[bucket/a.zip", "malformed address"),
    ],
)
def test_fetch_fails(url, reason, tmp_path, memory, monkeypatch):
    known = {"class": "no_such_package.FileSystem", "err": "Install nowherefs"}
    monkeypatch.setitem(known_implementations, "nowhere", known)
    with pytest.raises(StoreError, match=reason) as caught:
        fetch(url, tmp_path / "target")
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_errors_are_not_read_as_absence(tmp_path, memory, monkeypatch):
    def denied(path):
        raise RuntimeError("403 for https://user:secret@bucket/a.zip?token=secret, sorry")

    monkeypatch.setattr(memory, "info", denied)
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(
        StoreError, match=r"403 for https://\*{3}@bucket/a\.zip\?\*{3} sorry; check"
    ):
        send(tmp_path / "source", "memory://bucket/a.zip", overwrite=False)
    assert not memory.store
