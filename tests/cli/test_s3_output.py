"""An output in S3, by a server of this machine: killed, continued on another machine, refused."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from batches import run, write_images
from command_line import command, environment

from pipeline.errors import ConfigError, OutputError
from pipeline.system.descriptors import names_in
from runners.rundir.remote.store import ObjectStore

NAMES = [f"{i // 20}/{i}.png" for i in range(40)]
JOB = ("model=mask_rcnn", "runnable=fake", "sink=[coco,overlay]", "batch_size=1", "device=cpu")
SAME = ("predictions.jsonl", "coco.json", "coco_results.json", "inputs.jsonl", "manifest.sha256")
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "hush1",
    "AWS_SECRET_ACCESS_KEY": "hush2",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Start a server with a bucket; give the environment of its users."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    users = ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    yield users
    server.stop()


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    import boto3

    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3").Bucket("bucket")
    bucket.create()
    return bucket


def d2run(home: Path, s3: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*JOB, "quiet=true", *arguments),
        env=environment(home) | s3,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def keys(bucket: Any) -> list[str]:
    return [each.key.removeprefix("night/") for each in bucket.objects.filter(Prefix="night/")]


def content(bucket: Any, name: str) -> bytes:
    data: bytes = bucket.Object(f"night/{name}").get()["Body"].read()
    return data


def test_killed_and_continued_elsewhere(
    bucket: Any, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", *NAMES)
    job = (f"input={tmp_path}/in", "output=s3://bucket/night", "runner.checkpoint_s=0")
    first = d2run(tmp_path / "first", s3, *job)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and first.poll() is None:
        if ".d2run/checkpoint.json" in keys(bucket):
            journal = json.loads(content(bucket, ".d2run/checkpoint.json"))["journal"]
            if journal:
                break
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    _, errors = first.communicate()
    assert first.returncode == -signal.SIGKILL, errors
    second = d2run(tmp_path / "second", s3, *job)
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "files of 's3://bucket/night' from the checkpoint of " in errors
    counts = json.loads(content(bucket, "run.json"))["counts"]
    assert counts["earlier"] > 0
    assert counts["earlier"] + counts["done"] == len(NAMES)
    run(*JOB, f"input={tmp_path}/in", f"output={tmp_path}/out")
    for name in (*SAME, *(f"overlay/{name}.jpg" for name in NAMES)):
        assert content(bucket, name) == (tmp_path / "out" / name).read_bytes(), name
    (local,) = (tmp_path / "second/d2run/outputs").iterdir()
    here = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    there = {name for name in keys(bucket) if not name.startswith(".d2run/")}
    assert there == here - {".lock", ".remote.json"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hush" not in path.read_bytes(), path
    assert "hush" not in errors
    assert "s3:" not in names_in(Path.cwd())


@pytest.mark.parametrize(
    ("address", "environment", "message"),
    [
        ("s3://nobucket/night", {}, "no such bucket, or no such object; create the bucket"),
        ("s3://bucket/night", {"AWS_ACCESS_KEY_ID": ""}, "credentials.*; check the credentials in"),
        ("nosuchpackage://x/y", {}, "cannot use 'nosuchpackage://x/y'"),
    ],
)
def test_what_is_wrong(
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    environment: dict[str, str],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises((ConfigError, OutputError), match=message) as caught:
        ObjectStore(address).write("probe", b"")
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
