from __future__ import annotations

import json
import random
import shlex
import string
from collections.abc import Iterator

import pytest

from pipeline.redaction import is_secret, redacted, redacted_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:hush@host/x", "https://***@host/x"),
        ("rtsp://u:p@10.0.0.1:554/s", "rtsp://***@10.0.0.1:554/s"),
        (
            "model.weights=https://tok@h/m.pkl device=cpu",
            "model.weights=https://***@h/m.pkl device=cpu",
        ),
        ("https://u:p@ss/w#o?rd@host/x", "https://***@host/x"),
        ("https://host:8080/a.jpg", "https://host:8080/a.jpg"),
        ("https://host/icon@2x.png", "https://host/icon@2x.png"),
        ("+sink.s3.secret_key=abc", "+sink.s3.secret_key=***"),
        ("hf_token: abc", "hf_token: ***"),
        ("w=https://h/m.pth?token=S&x=1", "w=https://h/m.pth?***"),
        ("w=https://h/m.pth?X-Amz-Signature=S b", "w=https://h/m.pth?*** b"),
        ("password: my secret phrase", "password: ***"),
        ('{"api_key": "S"}', '{"api_key": ***}'),
        ('{"api_key": "S\\"S", "x": 1}', '{"api_key": ***, "x": 1}'),
        ("'api_token=S' is no option", "'api_token=***"),
        ("+a={endpoint:https://h,secret_key:S}", "+a={endpoint:https://h,secret_key:***"),
        ("AccountName=a;AccountKey=Zm9v==;x=y", "AccountName=a;AccountKey=***"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: ***"),
        ("sent Bearer abc.def-1 to h", "sent Bearer *** to h"),
        ("sent Basic dXNlcjpwYXNz to h", "sent Basic *** to h"),
        ("run.py --token S --x 1", "run.py --token *** --x 1"),
        ("run.py --api-key='S S' --x 1", "run.py --api-key=*** --x 1"),
        ("-----BEGIN RSA PRIVATE KEY-----\nS\n-----END RSA PRIVATE KEY-----\n", "***\n"),
        ("key eyJhbGciOiJI.eyJzdWIiOiIx.S_S in a header", "key *** in a header"),
        ("input=d/*?.jpg", "input=d/*?.jpg"),
        ("keypoints=3 tokens=4 input=a@b", "keypoints=3 tokens=4 input=a@b"),
        ("a bearer token is needed; Basic settings", "a bearer token is needed; Basic settings"),
        ("runner.token=${oc.env:TOKEN}",) * 2,
        ("set api_token='${oc.env:TOKEN}' so that",) * 2,
        ("token=${oc.env:TOKEN} S", "token=***"),
        ("token=${oc.env:TOKEN,S}", "token=***"),
        ("token='${oc.env:TOKEN}S'", "token=***"),
        ("token='${oc.env:TOKEN}'S", "token=***"),
        ("class_names=[monkey,keyboard] nms_threshold=0.5",) * 2,
    ],
)
def test_text_is_redacted(text: str, expected: str) -> None:
    assert redacted_text(text) == expected
    assert redacted_text(expected) == expected


NAMES = [
    "token", "tokens", "api_token", "private_key", "private_keys", "db_password", "passphrase",
    "pwd", "user_pwd", "secret", "client_secret", "authorization", "cookie", "set_cookie",
    "connection_string", "conn_str", "sas", "sas_token", "sig", "signature", "x_amz_signature",
    "x_amz_credential", "access_key", "aws_access_key_id", "api_key", "api_keys", "account_key",
    "shared_access_key", "credentials", "password_2", "auth_header", "session_id", "id_token",
    "jwt",
]  # fmt: skip
INNOCENT = [
    "key", "keys", "class_key", "keypoints", "keyboard", "monkey", "nms_threshold",
    "token_count", "max_tokens_per_image", "tokenizer", "secretary_model", "password_file",
    "auth_type", "signal", "design", "passes", "author", "compass", "sort_key", "image_key",
    "cookie_jar_path", "credentials_path", "class_names",
]  # fmt: skip


def styles(name: str) -> Iterator[str]:
    words = name.split("_")
    titled = [word.title() for word in words]
    yield from ("_".join(words), "-".join(words), "_".join(words).upper(), "-".join(titled))
    yield from ("".join(titled), words[0] + "".join(titled[1:]), f"sink.s3.{name}", f"my_{name}")


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_secrets_in_every_style(name: str) -> None:
    for key in styles(name):
        assert is_secret(key, "hush"), key
        assert redacted({"a": [{key: "hush"}]}) == {"a": [{key: "***"}]}
        for text in (f"{key}=hush", f'"{key}": "hush"', f"{key}: 'hush'", f"--{key} hush"):
            assert "hush" not in redacted_text(text), text
        assert redacted([f"--{key}", "hush"]) == [f"--{key}", "***"]
        assert redacted({"name": key, "value": "hush"}) == {"name": key, "value": "***"}


@pytest.mark.parametrize("name", INNOCENT)
def test_other_keys_stay(name: str) -> None:
    for key in styles(name):
        assert not is_secret(key, "x"), key
        assert redacted({key: "x"}) == {key: "x"}
        assert redacted_text(f"{key}=x y") == f"{key}=x y"


def test_values_are_redacted() -> None:
    config = {"sink": {"s3": {"api_key": "k", "path": "s3://k:s@b"}}, "names": ["a"], "token": None}
    assert redacted({"token": ["S"], "credentials": {"x": "S"}}) == {
        "token": "***",
        "credentials": "***",
    }
    assert redacted(config) == {
        "sink": {"s3": {"api_key": "***", "path": "s3://***@b"}},
        "names": ["a"],
        "token": None,
    }
    numbers = {"max_tokens": 5, "cookie": 3, "pass": True, "token": 0.5, "tokens": False}
    assert redacted(numbers) == numbers
    assert redacted({"password": 123456, "pin_token": 5}) == {"password": "***", "pin_token": "***"}


PASSWORD = string.ascii_letters + string.digits + "@/:#?%&=+!$*()[]{}<>|^~`,;._-'\"\\"


def generated(rng: random.Random) -> tuple[str, str]:
    """A text with a secret, and the secret."""
    secret = "".join(rng.choices(PASSWORD, k=rng.randint(8, 24)))
    token = "".join(rng.choices(string.ascii_letters + string.digits + "-._~+/", k=20))
    key = rng.choice(list(styles(rng.choice(NAMES))))
    scheme = rng.choice(["https", "s3", "rtsp", "postgresql", "jdbc:mysql", "HTTP"])
    host = rng.choice(["host", "10.0.0.1:554", "[::1]:80", "example.org/a/b.pkl"])
    forms = [
        (f"{scheme}://user:{secret}@{host}", secret),
        (f"{scheme}://:{secret}@{host}?x=1", secret),
        (f"https://{host}?{key}={token}&y=2", token),
        (f"https://{host}#{key}={token}", token),
        (f"{key}={secret}", secret),
        (repr({key: secret}), secret),
        (json.dumps({key: secret}), secret),
        (shlex.join(["run.py", f"--{key}", secret, "x=1"]), secret),
        (shlex.join(["run.py", f"+model.metadata.{key}={secret}", "x=1"]), secret),
        (f"DefaultEndpointsProtocol=https;AccountKey={token}==;EndpointSuffix=a", token),
        (f"{rng.choice(['Bearer', 'bearer'])} {token}", token),
    ]
    before, after = rng.choice(["", "error: ", "GET "]), rng.choice(["", " and more", "\nmore"])
    text, hidden = rng.choice(forms)
    return before + text + after, hidden


@pytest.mark.parametrize("seed", range(10))
def test_no_generated_secret_is_left(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        text, secret = generated(rng)
        shown = redacted_text(text)
        assert not any(part in shown for part in pieces(secret)), (text, shown)
        assert redacted_text(shown) == shown, text


def pieces(secret: str) -> list[str]:
    """Every five characters of it: no part of a secret may be left either."""
    return [secret[i : i + 5] for i in range(len(secret) - 4)]
