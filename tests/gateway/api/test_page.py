"""How the page is served: to whom, with which headers, or not at all."""

from collections.abc import Iterator

import httpx
import pytest

from nla_gateway.limits import GatewayLimits
from nla_gateway.settings import Access
from tests.gateway.process import Running, gateway

FIRST_LOAD_BYTES = 70_000


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with gateway(GatewayLimits(), access=Access(api_keys={"me": "secret"})) as running:
        yield running


def get(running: Running, path: str) -> httpx.Response:
    return httpx.get(f"{running.url}{path}", trust_env=False, timeout=60)


def test_it_is_there_without_a_key_and_what_it_asks_is_not(locked: Running) -> None:
    page = get(locked, "/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert get(locked, "/page/main.js").status_code == 200
    assert get(locked, "/v1/info").status_code == 401


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/style.css"])
def test_nothing_of_others_runs_in_it(locked: Running, path: str) -> None:
    policy = get(locked, path).headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/../settings.py", "/page/%2e%2e/settings.py", "/page/"])
def test_nothing_else_is_there(locked: Running, path: str) -> None:
    reply = get(locked, path)
    assert reply.status_code in (401, 404)
    assert "error" in reply.json()


def test_it_is_light_and_asks_for_nothing_from_elsewhere(locked: Running) -> None:
    page = get(locked, "/")
    asked = {"/page/main.js", "/page/style.css", "/page/icon.svg"}
    for _ in range(3):
        found = {f"/page/{name}" for path in asked for name in imports(get(locked, path).text)}
        asked |= found
    assert len(asked) > 10
    assert on_the_wire(page) + sum(on_the_wire(get(locked, path)) for path in asked) < FIRST_LOAD_BYTES
    assert "http:" not in page.text
    assert "https:" not in page.text


def on_the_wire(reply: httpx.Response) -> int:
    return reply.num_bytes_downloaded + sum(len(name) + len(value) + 4 for name, value in reply.headers.raw)


def imports(module: str) -> list[str]:
    return [line.split('"')[1].removeprefix("./") for line in module.splitlines() if line.startswith("import ")]


def test_it_can_be_left_out() -> None:
    with gateway(GatewayLimits(), access=Access(page=False)) as running:
        assert get(running, "/").status_code == 404
        assert get(running, "/page/main.js").status_code == 404
