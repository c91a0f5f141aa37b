"""How many tokens a sample may have, where that is asked for and where it is not."""

import httpx
import pytest

from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from tests.errors import error_in
from tests.gateway.stand_in import StandIn, before, until_ready
from tests.plain import encode, load_toy_vectors


@pytest.mark.parametrize(("limit", "usual"), [(100, 100), (200, 200), (900, 200)])
def test_left_out_they_are_as_many_as_fit(limit: int, usual: int) -> None:
    """A default that is refused would be nobody's fault; what is asked for is never cut in silence."""
    engine = StandIn(Role.AV)

    async def work(client: httpx.AsyncClient) -> None:
        async def ask(**asked: int) -> httpx.Response:
            return await client.post("/verbalize", json=body | asked)

        await until_ready(client)
        body = {"vectors": encode(load_toy_vectors()[0]), "dtype": "float32"}
        for asked, given in (({}, usual), ({"max_tokens": limit}, limit), ({"max_tokens": 7}, 7)):
            assert (await ask(**asked)).status_code == 200
            assert engine.asked[-1]["sampling_params"]["max_new_tokens"] == given
        count = len(engine.asked)
        error = error_in(refused := await ask(max_tokens=limit + 1))
        assert (refused.status_code, error.type, error.param) == (400, "invalid_request", "max_tokens")
        assert error.message == f"max_tokens is {limit + 1}; at most {limit} fit"
        assert len(engine.asked) == count

    before(work, engine, limits=GatewayLimits(max_tokens=limit))
