"""Signatures of a run's record and manifest, and the keys."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from signing_keys import write_keys

from pipeline.errors import ConfigError
from pipeline.recorded.signing import (
    SIGNATURES,
    SIGNED,
    bad_signatures,
    read_private_key,
    read_public_key,
    remove_signatures,
    sign_run,
)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in SIGNED:
        (folder / name).write_text(name)
    return folder


def test_a_changed_file_and_another_key_are_found(output: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    _, other = write_keys(tmp_path, "other")
    key = read_public_key(public, "public_key")
    assert bad_signatures(output, key) == [
        f"{name} is not signed: no file {name}.sig" for name in SIGNED
    ]
    sign_run(output, read_private_key(private, "sign"))
    assert bad_signatures(output, key) == []
    assert len(bad_signatures(output, read_public_key(other, "public_key"))) == 2
    (output / "run.json").write_text("run.json ")
    assert bad_signatures(output, key) == ["run.json does not match its signature by this key"]
    remove_signatures(output)
    assert sorted(path.name for path in output.iterdir()) == sorted(SIGNED)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_agrees(output: Path, tmp_path: Path) -> None:
    private, public = str(tmp_path / "key.pem"), str(tmp_path / "public.pem")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    sign_run(output, read_private_key(private, "sign"))
    assert bad_signatures(output, read_public_key(public, "public_key")) == []
    for name, signature in zip(SIGNED, SIGNATURES, strict=True):
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
        command += ["-in", str(output / name), "-sigfile", str(output / signature)]
        subprocess.run(command, check=True, capture_output=True)


def test_what_is_not_such_a_key_is_refused(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    encrypted, _ = write_keys(tmp_path, "encrypted", b"secret")
    other = tmp_path / "x25519.pem"
    other.write_bytes(
        x25519.X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    for path in (public, encrypted, str(other)):
        with pytest.raises(ConfigError, match="not an unencrypted private Ed25519 key"):
            read_private_key(path, "sign")
    with pytest.raises(ConfigError, match="not an unencrypted public Ed25519 key"):
        read_public_key(private, "public_key")
    with pytest.raises(ConfigError, match=r"sign: cannot read .*: no such file"):
        read_private_key(str(tmp_path / "none.pem"), "sign")
