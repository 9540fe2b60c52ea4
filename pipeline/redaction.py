"""Removes secrets from everything that d2run writes: records, logs, messages, the ledger.

A secret is recognized by its key (``api_token``, ``dbPassword``, ``--secret-key``), by its place in
a URL (user, password, query), or by its form (``Bearer ...``, ``AccountKey=...``, a private
key).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pipeline.errors import printable

HIDDEN = "***"

_KEY_SUFFIX = r"(?:_(?:id|value|string|header|b64|base64|hex|text|raw|hash|json|pem|\d+))*$"
_SECRET_KEY = re.compile(
    r"(?:password|passwd|passphrase|passcode|pwd|secret|token|credential|authorization"
    # words that make a "key" a secret
    r"|(?:access|account|api|app|auth|aws|client|consumer|deploy|encryption|hmac|license|master"
    r"|private|secret|service|session|shared|signing|ssh|storage|subscription|webhook)_?key"
    r"|conn(?:ection)?_?str(?:ing)?|session_?id|(?:^|_)(?:bearer|cred|dsn|jwt))(s?)" + _KEY_SUFFIX
)
_SECRET_KEY_IF_TEXT = re.compile(
    r"(?:signature|(?:^|_)(?:cookie|o?auth|pass|sas|sig))s?" + _KEY_SUFFIX
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PLAIN = re.compile(
    r"(?:-?\d{1,6}|-?\d*\.\d+|true|false|null|none)(?=$|\s|,\s|[)}\]]+$)", re.IGNORECASE
)
_ASSIGNED = re.compile(r"(?<![\w.-])([A-Za-z_+-][\w.@/-]*)([\"']?\s*[=:]\s*)(?=\S)")
_SHELL_WORD = r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|[^\s'"])+(?!\S)|\S+"""
_FLAG = re.compile(rf"(?<!\S)(--?[A-Za-z][\w.-]*)(\s+)({_SHELL_WORD})")
_QUOTED = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')(?=$|\s|[,;]["'\s]|[)}\]]+(?:$|[\s,;]))"""
)
# names a variable, and is none of its value
_VARIABLE = re.compile(r"""(["']?)\$\{oc\.env:\w+\}\1(?=$|\s+[A-Za-z])""")
_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(\S+)", re.IGNORECASE)
_QUERY = re.compile(r"^([^\s?'\"]*\?)((?:[^\s'\"]|['\"](?=[\w%&=+/.~-]))+)")
_AUTH_HEADER = re.compile(
    r"\b([Bb]earer\s+|BEARER\s+)(?!tokens?\b|auth)[^\s,;'\"]+"
    r"|\b(Basic\s+)(?=[A-Za-z+/]*[\d=]|[A-Za-z+/]+[A-Z])[\w+/=-]{4,}",
)
_TOKEN_FORMATS = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,}|\bhf_[A-Za-z0-9]{20,}|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
_PEM = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


def is_secret(key: str, value: Any = "") -> bool:
    """Return whether a key names a secret, in any of the usual ways to write one.

    Args:
        key: A key such as ``db-password`` or ``sink.s3.secretKey``. Each part of a dotted key is
            checked.
        value: The value of the key. A number under the key ``tokens`` is not a secret.
    """
    return any(_names_secret(part, value) for part in re.split(r"[./@]", key))


def _names_secret(key: str, value: Any) -> bool:
    name = "_".join(_WORD.findall(key)).lower()
    if value is None or isinstance(value, (bool, float)):
        return False
    if found := _SECRET_KEY.search(name):
        is_count = found[1] or name.endswith("_id")  # tokens: 5
        return not (is_count and isinstance(value, int) and abs(value) < 10**6)
    return isinstance(value, (str, list)) and bool(_SECRET_KEY_IF_TEXT.search(name))


def redacted(value: Any, key: str = "") -> Any:
    """Return a copy in which secrets are replaced by ``***``; all containers become dict or list.

    Args:
        value: Nested mappings, lists, strings and numbers.
        key: The key of the value.
    """
    if value not in (None, "") and is_secret(key, value):
        return HIDDEN
    if isinstance(value, Mapping):
        named = value.get("name", value.get("key"))  # {name: API_TOKEN, value: ...}
        return {
            redacted_text(str(name)): redacted(
                item, str(named) if name == "value" and isinstance(named, str) else str(name)
            )
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return list(_redacted_items(value))
    return redacted_text(value) if isinstance(value, str) else value


def _redacted_items(items: Sequence[Any]) -> Iterator[Any]:
    """Yield the items; an item after ``--token`` is the token."""
    for before, item in pairwise((None, *items)):
        flag = isinstance(before, str) and re.fullmatch(r"--?[A-Za-z][\w.-]*", before)
        yield redacted(item, str(before) if flag else "")


def safe_text(text: str) -> str:
    """Return text to show to the user: on a single line, escaped, and without secrets."""
    return printable(redacted_text(text))


def redacted_text(text: str) -> str:
    """Return text in which secrets are replaced by ``***``.

    The value after a secret key is hidden: up to the closing quote, otherwise to the end of the
    line.
    """
    text = _PEM.sub(HIDDEN, text)
    text = _ADDRESS.sub(_address, text)
    text = _FLAG.sub(_flag, text)
    text = "\n".join(map(_line, text.split("\n")))
    text = _AUTH_HEADER.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", text)
    return _TOKEN_FORMATS.sub(HIDDEN, text)


def _address(found: re.Match[str]) -> str:
    """Hide user, password and query; user and password may contain any character."""
    scheme, rest = found.groups()
    authority = rest.split("/", 1)[0]
    if "@" in rest and ("@" in authority or ":" in authority):
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    if scheme.lower() != "file://":
        rest = _QUERY.sub(rf"\1{HIDDEN}", rest)
    return scheme + rest


def _flag(found: re.Match[str]) -> str:
    flag, space, value = found.groups()
    return f"{flag}{space}{HIDDEN}" if is_secret(flag, value) else found[0]


def _line(line: str) -> str:
    at = 0
    while found := _ASSIGNED.search(line, at):
        at = found.end()
        rest = line[at:]
        plain = _PLAIN.match(rest)
        value: Any = rest
        if plain:
            digits = plain[0].lstrip("-")
            value = int(digits) if digits.isdigit() else None
        if rest.startswith(HIDDEN) or not is_secret(found[1], value) or _is_variable(rest):
            continue
        quoted = _QUOTED.match(rest)
        after = rest[quoted.end() :] if quoted else ""
        line = line[:at] + HIDDEN + after
        at += len(HIDDEN)
    return line


def _is_variable(rest: str) -> bool:
    """Return whether a value is only the name of an environment variable: quoted, or alone."""
    found = _VARIABLE.match(rest)
    return bool(found and (found[1] or found.end() == len(rest)))
