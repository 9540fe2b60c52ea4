from __future__ import annotations

import pytest

from runners.redaction import redacted, redacted_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:hush@host/x", "https://***@host/x"),
        ("rtsp://u:p@10.0.0.1:554/s", "rtsp://***@10.0.0.1:554/s"),
        (
            "model.weights=https://tok@h/m.pkl device=cpu",
            "model.weights=https://***@h/m.pkl device=cpu",
        ),
        ("+sink.s3.secret_key=abc", "+sink.s3.secret_key=***"),
        ("hf_token: abc", "hf_token: ***"),
        ("w=https://h/m.pth?token=S&x=1", "w=https://h/m.pth?***"),
        ("w=https://h/m.pth?X-Amz-Signature=S b", "w=https://h/m.pth?*** b"),
        ("password: my secret phrase", "password: ***"),
        ('{"api_key": "S"}', '{"api_key": ***'),
        ("+a={endpoint:https://h,secret_key:S}", "+a={endpoint:https://h,secret_key:***"),
        ("input=d/*?.jpg", "input=d/*?.jpg"),
        ("keypoints=3 tokens=4 input=a@b", "keypoints=3 tokens=4 input=a@b"),
    ],
)
def test_text_is_redacted(text: str, expected: str) -> None:
    assert redacted_text(text) == expected


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
