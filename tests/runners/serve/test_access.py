"""Who may use a service: this machine, or whoever has the token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Served, image_file, served, served_job

from pipeline.errors import ConfigError
from runners.serve.options import ServeOptions

TOKEN = "hush-hush"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with served(f"runner.token={TOKEN}") as running:
        yield running


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_a_token_or_permission(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^host: other machines .*D2RUN_TOKEN"):
        ServeOptions(host=host)
    assert ServeOptions(host=host, token=TOKEN).host == host
    assert ServeOptions(host=host, public=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST."])
def test_this_machine_does_not(host: str) -> None:
    assert ServeOptions(host=host).token is None


@pytest.mark.parametrize("token", ["", " ", "two words", "line\n", "\u202e", 5])
def test_a_token_that_no_header_can_hold(token: object) -> None:
    with pytest.raises(ConfigError, match=r"^token must be text without spaces, or null$"):
        ServeOptions(token=token)  # type: ignore[arg-type]


def test_the_token_is_in_no_description() -> None:
    job = served_job(f"runner.token={TOKEN}")
    assert TOKEN not in repr(job.runner)
    assert TOKEN not in str(job.settings())


@pytest.mark.parametrize(
    "sent",
    [None, "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer x", f"Bearer {TOKEN}x", "Bearer \xe9"],
)
def test_without_the_token(guarded: Served, sent: str | None) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    for method, path in (("POST", "/predict"), ("GET", "/info"), ("GET", "/nothing")):
        status, answer, answered = guarded.request(method, path, image_file(), headers)
        assert (status, answered["www-authenticate"]) == (401, "Bearer")
        assert TOKEN not in answer["error"]


def test_with_the_token(guarded: Served) -> None:
    for sent in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
        status, _, headers = guarded.request(
            "POST", "/predict", image_file(), {"Authorization": sent, "Host": "elsewhere.example"}
        )
        assert status == 200
        assert not [name for name in headers if name.startswith("access-control")]


def test_the_api_reference_can_ask_for_the_token(guarded: Served) -> None:
    _, document, _ = guarded.request("GET", "/openapi.json")
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_monitors_need_no_token(guarded: Served) -> None:
    for method in ("GET", "HEAD"):
        for path in ("/livez", "/readyz", "/", "/docs"):
            assert guarded.request(method, path)[0] == 200
    for path in ("/livez/", "/livez/../info", "//livez", "/LIVEZ", "/livez%00"):
        assert guarded.request("GET", path)[0] == 401


def test_a_web_page_cannot_use_the_service_under_its_own_name(service: Served) -> None:
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[2001:db8::1]:80"):
        status, answer, _ = service.request("GET", "/info", headers={"Host": host})
        assert status == 403
        assert "runner.token" in answer["error"]
    for host in ("localhost", "localhost:8080", "127.0.0.1:1", "[::1]:80", "[::1]"):
        assert service.request("GET", "/livez", headers={"Host": host})[0] == 200


def test_a_public_service_has_any_name() -> None:
    with served("runner.public=true", "runner.host=0.0.0.0") as running:
        assert running.request("GET", "/livez", headers={"Host": "a.example"})[0] == 200
