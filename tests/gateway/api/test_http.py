"""Who is let in by the header that they send."""

import httpx
import pytest

from nla_gateway.settings import Access
from tests.errors import error_in
from tests.gateway.stand_in import before


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer a-key", 200),
        ("bearer a-key", 200),
        ("BEARER a-key", 200),
        ("Bearer  a-key ", 200),
        ("bearer A-KEY", 401),
        ("Basic a-key", 401),
        ("bearera-key", 401),
        ("a-key", 401),
        ("bearer", 401),
        ("", 401),
    ],
)
def test_the_scheme_is_read_in_either_case_and_the_key_is_not(sent: str, status: int) -> None:
    """HTTP's schemes have no case, and some clients write theirs small."""

    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.get("/v1/models", headers={"authorization": sent})
        assert reply.status_code == status
        if status == 401:
            assert error_in(reply).type == "authentication"
            assert reply.headers["www-authenticate"] == "Bearer"

    before(work, access=Access(api_keys={"ada": "a-key"}))
