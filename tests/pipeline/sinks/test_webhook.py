"""The webhook against a local server that fails, stalls, refuses and dies."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from receiver import Receiver
from small_records import STRANGE

from pipeline.errors import ConfigError, SinkError
from pipeline.sinks.webhook import Webhook
from pipeline.testing import make_result

FAST = {"backoff_s": 0.01, "max_backoff_s": 0.05, "timeout_s": 5.0, "drain_s": 20.0}


def asset(asset_id: str, is_still: bool = True) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=is_still)


def sink_to(receiver: Receiver, run: Path, **options: Any) -> Webhook:
    return Webhook(run / "webhook", receiver.url, **{**FAST, **options})


def write(sink: Webhook, asset_id: str, n: int = 2, frames: int = 1, **options: Any) -> None:
    sink.begin(asset(asset_id, is_still=frames == 1))
    for index in range(frames):
        sink.write(make_result(n, asset_id=asset_id, index=index, **options))
    sink.flush(asset(asset_id))


def left(run: Path) -> list[str]:
    return sorted(path.name for path in run.rglob("*") if path.is_file())


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


def test_each_asset_is_posted_once(receiver: Receiver, tmp_path: Path) -> None:
    with sink_to(receiver, tmp_path) as sink:
        write(sink, "a/x.jpg")
        write(sink, "v.mp4", frames=3)
        write(sink, STRANGE, n=0)
        assert receiver.posts == []  # not durable yet
        sink.sync()
    assert [[line["asset"] for line in post.lines] for post in receiver.posts] == [
        ["a/x.jpg"], ["v.mp4"] * 3, ["d/caf\\xe9.jpg"],
    ]  # fmt: skip
    first = receiver.posts[0]
    assert first.path == "/results?team=1"
    assert first.headers["content-type"] == "application/x-ndjson"
    assert first.headers["idempotency-key"] == hashlib.sha256(first.body).hexdigest()
    assert "x-d2run-signature" not in first.headers
    assert "image_id" not in first.lines[0]
    assert len(first.lines[0]["instances"]) == 2
    assert [line["frame"] for line in receiver.posts[1].lines] == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_the_signature(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", "sésame")
    with sink_to(receiver, tmp_path, secret_env="HOOK_KEY") as sink:
        write(sink, "a.jpg")
        sink.sync()
    (post,) = receiver.posts
    want = hmac.new("sésame".encode(), post.body, hashlib.sha256).hexdigest()
    assert post.headers["x-d2run-signature"] == f"sha256={want}"
    assert all("sésame" not in value for value in post.headers.values())


def test_failures_are_retried_and_others_go_on(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500, 503, 429, 408, "close", "reset", 200]
    with sink_to(receiver, tmp_path) as sink:
        for i in range(3):
            write(sink, f"{i}.jpg")
        sink.sync()
    accepted = [post for post in receiver.posts if post.status == 200]
    assert sorted(post.lines[0]["asset"] for post in accepted) == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(receiver.posts) >= 8
    keys = {(post.lines[0]["asset"], post.headers["idempotency-key"]) for post in receiver.posts}
    assert len(keys) == 3  # the same for each attempt
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [301, 400, 401, 413])
def test_what_is_refused_is_kept_for_the_next_run(
    receiver: Receiver, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [status, 200]
    with sink_to(receiver, tmp_path) as sink:
        write(sink, "no.jpg")
        write(sink, "yes.jpg")
        sink.sync()
    assert [post.status for post in receiver.posts] == [status, 200]  # redirects are not followed
    assert left(tmp_path) == ["no.jpg.jsonl"]
    assert f"it answered {status}" in caplog.text
    assert "1 inputs are not delivered, of which 1 were refused" in caplog.text
    assert "team=1" not in caplog.text
    with sink_to(receiver, tmp_path):
        pass
    assert receiver.posts[-1].lines[0]["asset"] == "no.jpg"
    assert list(tmp_path.iterdir()) == []


def test_a_receiver_that_is_down_blocks_nothing(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    with Webhook(tmp_path / "webhook", url, drain_s=0.05, backoff_s=0.01) as sink:
        for i in range(3):
            write(sink, f"{i}.jpg")
        sink.sync()
    assert left(tmp_path) == ["0.jpg.jsonl", "1.jpg.jsonl", "2.jpg.jsonl"]


def test_a_receiver_that_stalls_does_not_hold_the_end(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = ["stall"]
    sink = sink_to(receiver, tmp_path, timeout_s=1000, drain_s=0.2)
    with sink:
        write(sink, "a.jpg")
        sink.sync()
        wait_until(lambda: receiver.posts)
        write(sink, "b.jpg")
        sink.sync()
    assert left(tmp_path) == ["a.jpg.jsonl", "b.jpg.jsonl"]


def test_an_interrupted_run_does_not_wait(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = ["stall"]
    sink = sink_to(receiver, tmp_path, timeout_s=1000, drain_s=1000)
    with suppress(KeyboardInterrupt), sink:
        write(sink, "a.jpg")
        sink.sync()
        wait_until(lambda: receiver.posts)
        raise KeyboardInterrupt
    assert left(tmp_path) == ["a.jpg.jsonl"]
    with sink_to(receiver, tmp_path):
        pass
    assert [post.status for post in receiver.posts] == [None, 200]


def test_what_stalls_is_given_up(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = ["stall", 200]
    with sink_to(receiver, tmp_path, timeout_s=0.1) as sink:
        write(sink, "a.jpg")
        sink.sync()
    assert [post.status for post in receiver.posts] == [None, 200]
    assert left(tmp_path) == []


def test_retry_after(receiver: Receiver, tmp_path: Path) -> None:
    receiver.retry_after, receiver.answers = "100000", [503, 200]
    with sink_to(receiver, tmp_path, max_backoff_s=0.2) as sink:  # waits no longer than this
        write(sink, "a.jpg")
        sink.sync()
    assert [post.status for post in receiver.posts] == [503, 200]


def test_discarded_assets_are_not_posted(receiver: Receiver, tmp_path: Path) -> None:
    with sink_to(receiver, tmp_path) as sink:
        write(sink, "kept.jpg")
        write(sink, "gone.jpg")
        sink.discard(asset("gone.jpg"))  # another sink failed
        sink.begin(asset("broken.jpg"))
        sink.write(make_result(1, asset_id="broken.jpg"))
        sink.discard(asset("broken.jpg"))
        sink.discard(asset("never begun.jpg"))
        sink.begin(asset("all frames dropped.mp4", is_still=False))
        sink.flush(asset("all frames dropped.mp4"))
        sink.sync()
    assert [post.lines[0]["asset"] for post in receiver.posts] == ["kept.jpg"]
    assert list(tmp_path.iterdir()) == []


def test_a_new_version_during_the_post_is_posted_too(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = ["hold"]
    with sink_to(receiver, tmp_path) as sink:
        write(sink, "a.jpg", n=1)
        sink.sync()
        wait_until(lambda: receiver.posts)
        write(sink, "a.jpg", n=3)
        receiver.release.set()  # accepts the earlier version
        wait_until(lambda: receiver.posts[0].status == 200)
        sink.sync()
    assert [len(post.lines[0]["instances"]) for post in receiver.posts] == [1, 3]
    assert left(tmp_path) == []


def test_the_spool_is_bounded(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = ["stall"]
    text = np.array(["x" * 400_000])
    with sink_to(receiver, tmp_path, max_spool_mb=1, drain_s=0) as sink:
        for i in range(2):
            write(sink, f"{i}.jpg", n=1, extra={"text": text})
            sink.sync()
        with pytest.raises(SinkError, match=r"reached sink\.webhook\.max_spool_mb=1; .*") as caught:
            write(sink, "2.jpg", n=1, extra={"text": text})
        sink.discard(asset("2.jpg"))
    assert caught.value.asset_id == "2.jpg"
    assert left(tmp_path) == ["0.jpg.jsonl", "1.jpg.jsonl"]


def test_a_kept_connection_that_was_closed(receiver: Receiver, tmp_path: Path) -> None:
    receiver.closes_idle = True
    with sink_to(receiver, tmp_path, backoff_s=100, max_backoff_s=1000) as sink:
        for i in range(3):
            write(sink, f"{i}.jpg")
            sink.sync()
            wait_until(lambda i=i: len(receiver.posts) == i + 1)  # type: ignore[misc]
    assert left(tmp_path) == []


def test_links_are_not_followed(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    run = tmp_path / "run"
    (run / "webhook").mkdir(parents=True)
    (run / "webhook" / "a.jsonl").symlink_to(tmp_path / "secret")
    with sink_to(receiver, run):
        pass
    assert receiver.posts == []


def test_the_environment_has_no_say(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with sink_to(receiver, tmp_path) as sink:
        write(sink, "a.jpg")
        sink.sync()
    assert len(receiver.posts) == 1


def test_the_address_can_come_from_the_environment(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", receiver.url)
    with Webhook(tmp_path / "webhook", url_env="HOOK", **FAST) as sink:
        write(sink, "a.jpg")
        sink.sync()
    assert len(receiver.posts) == 1
    monkeypatch.setenv("HOOK", "me:hush@host")
    with pytest.raises(ConfigError, match="url_env: the variable does not hold an http") as caught:
        Webhook("anywhere", url_env="HOOK")
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match="url_env: no environment variable of this name is set"):
        Webhook("anywhere", url_env="UNSET")
    for options in ({}, {"url": "http://a/", "url_env": "HOOK"}):
        with pytest.raises(ConfigError, match="url: set either url or url_env"):
            Webhook("anywhere", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://a/b", "ftp://a/b"),
        ("http://", "http://"),
        ("http://a:b/", "http://a:b/"),
        ("http://a/ü", "http://a/ü"),
        ("http://a/\nHost: b", "http://a/\\nHost: b"),
        ("http://me:pw@a/", "http://***@a/"),
        ("example.com/results", "example.com/results"),
    ],
)
def test_bad_addresses(url: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Webhook("anywhere", url)
    assert str(caught.value) == (
        f"url: expected an http:// or https:// address without user and password, got '{shown}'"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 3}, "min_score: expected a number from 0 to 1, got 3"),
        ({"timeout_s": 0}, "timeout_s: expected a number from 0.01 to 3600, got 0"),
        ({"backoff_s": 0}, "backoff_s: expected a number from 0.01 to 3600, got 0"),
        ({"max_backoff_s": 0.5}, "max_backoff_s: expected a number from 1 to 86400, got 0.5"),
        ({"max_spool_mb": 0}, "max_spool_mb: expected a whole number of at least 1, got 0"),
        ({"drain_s": -1}, "drain_s: expected a number from 0 to 86400, got -1"),
        (
            {"secret_env": "UNSET"},
            "secret_env: no environment variable of this name is set",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Webhook("anywhere", **{"url": "http://127.0.0.1/", **options})
    assert str(caught.value) == message


def test_lines_are_those_of_predictions(receiver: Receiver, tmp_path: Path) -> None:
    from journals import write_journal

    result = make_result(3, masks=True, keypoints=2)
    journal = write_journal(tmp_path / "run", [result])
    with sink_to(receiver, tmp_path) as sink:
        sink.begin(asset("a.jpg"))
        sink.write(result)
        sink.flush(asset("a.jpg"))
        sink.sync()
    line = json.loads(journal.read_text())
    del line["image_id"]
    assert receiver.posts[0].lines == [line]
