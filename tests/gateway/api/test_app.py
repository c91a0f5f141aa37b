"""Which web pages may call, also from the open web into a private network."""

import httpx
import pytest

from nla_gateway.settings import Access
from tests.gateway.stand_in import before

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
PRIVATE = PREFLIGHT | {"access-control-request-private-network": "true"}
LAB, OTHER = "https://lab.org", "https://elsewhere.org"


def ask(origin: str, allowed: tuple[str, ...], headers: dict[str, str]) -> httpx.Response:
    """Ask as a browser does before a page's call."""
    replies = list[httpx.Response]()

    async def work(client: httpx.AsyncClient) -> None:
        replies.append(await client.options("/verbalize", headers={"origin": origin, **headers}))

    before(work, access=Access(api_keys={"ada": "k"}, allow_origins=allowed))
    return replies[0]


@pytest.mark.parametrize(("origin", "allowed"), [(LAB, (LAB,)), (LAB, (OTHER, LAB)), (OTHER, ("*",))])
def test_pages_that_may_call_may_reach_into_a_private_network(origin: str, allowed: tuple[str, ...]) -> None:
    reply = ask(origin, allowed, PRIVATE)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] in (origin, "*")
    assert reply.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-private-network" not in ask(origin, allowed, PREFLIGHT).headers


@pytest.mark.parametrize("allowed", [(LAB,), ()])
def test_other_pages_may_not(allowed: tuple[str, ...]) -> None:
    """Without the first of the two headers a browser heeds no other."""
    reply = ask(OTHER, allowed, PRIVATE)
    assert reply.status_code in (400, 401)
    assert "access-control-allow-origin" not in reply.headers
