"""Ed25519 signatures of the record and the manifest of a run: ``<file>.sig``, 64 bytes each.

OpenSSL reads and writes the same keys and signatures (docs/proof.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.recorded.manifest import NAME as MANIFEST
from pipeline.recorded.run import RECORD
from pipeline.system.descriptors import open_to_read, remove
from pipeline.system.files import expanded, read_regular, write_whole
from pipeline.system.os_errors import describe_os_error
from pipeline.validation import check_installed

SIGNED = (RECORD, MANIFEST)
SIGNATURES = tuple(f"{name}.sig" for name in SIGNED)
_MAX_KEY_BYTES = 1 << 16


def read_private_key(path: str, option: str) -> Any:
    """Return the ``Ed25519PrivateKey`` in an unencrypted PEM file.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        ConfigError: It cannot be read, is not such a key, or the extra ``sign`` is not installed.
    """
    data = _read_key(path, option)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: it is encrypted
        raise _bad_key(path, option, "private") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad_key(path, option, "private")
    return key


def read_public_key(path: str, option: str) -> Any:
    """Return the ``Ed25519PublicKey`` in a PEM file.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        ConfigError: It cannot be read, is not such a key, or the extra ``sign`` is not installed.
    """
    data = _read_key(path, option)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _bad_key(path, option, "public") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise _bad_key(path, option, "public")
    return key


def sign_run(output: Path, private_key: Any) -> None:
    """Write the signatures of a run's record and manifest.

    Raises:
        OSError: They cannot be written.
    """
    for name, signature in zip(SIGNED, SIGNATURES, strict=True):
        with open_to_read(output / name) as file:
            write_whole(output / signature, private_key.sign(file.read()))


def remove_signatures(output: Path) -> None:
    """Remove signatures of an earlier state of the output."""
    for name in SIGNATURES:
        remove(output / name)


def bad_signatures(output: Path, public_key: Any) -> list[str]:
    """Return what is wrong with the signatures of a run; nothing if both are valid."""
    from cryptography.exceptions import InvalidSignature

    problems = []
    for name, signature in zip(SIGNED, SIGNATURES, strict=True):
        try:
            with open_to_read(output / signature) as signed, open_to_read(output / name) as file:
                public_key.verify(signed.read(1 << 10), file.read())
        except FileNotFoundError as exc:
            problems.append(f"{name} is not signed: no file {Path(exc.filename).name}")
        except InvalidSignature:
            problems.append(f"{name} does not match its signature by this key")
    return problems


def _read_key(path: str, option: str) -> bytes:
    check_installed("cryptography", extra="sign")
    try:
        return read_regular(expanded(path), _MAX_KEY_BYTES)
    except OSError as exc:
        raise ConfigError(f"{option}: cannot read {path}: {describe_os_error(exc)}") from exc


def _bad_key(path: str, option: str, kind: str) -> ConfigError:
    return ConfigError(
        f"{option}: {path} is not an unencrypted {kind} Ed25519 key in PEM format. Create a key "
        "with: openssl genpkey -algorithm ed25519 -out key.pem"
    )
