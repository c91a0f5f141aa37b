"""What gateways are told, and that an engine does not come back with other files under its callers."""

import asyncio
import os
from pathlib import Path

import httpx
import psutil
import pytest
from safetensors.torch import load_file, save_file

from nla_gateway.roles import Role
from nla_gateway.settings import Access, Settings
from nla_launch.errors import LaunchError
from nla_launch.run.service import _check_again, _gateways, listen
from tests.checkpoints import make_pair
from tests.launch.run.test_reference import planned


def test_an_engine_does_not_come_back_with_other_weights(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    plan = planned(Role.AV, str(pair.av))
    assert plan.fingerprint is not None
    _check_again(plan)
    tensors = load_file(weights := pair.av / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1.001
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(LaunchError, match=f"{pair.av}: its files are others than those that were served: start"):
        _check_again(plan)


LONGEST_VARIABLE = 32 * os.sysconf("SC_PAGE_SIZE")
"""So many bytes Linux gives one variable of the environment, and one argument."""


def test_a_gateway_is_told_any_number_of_keys(tmp_path: Path) -> None:
    """By a file that others cannot read, as they can arguments, and that is as long as it must be."""
    keys = {f"caller-{number}": f"{number}-{'k' * 96}" for number in range(1500)}
    settings = Settings(pairs=(), access=Access(api_keys=keys))
    assert len(settings.model_dump_json()) > LONGEST_VARIABLE
    listener, private = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{private.getsockname()[1]}"

    async def status(http: httpx.AsyncClient, key: str) -> int:
        reply = await http.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
        return reply.status_code

    async def run() -> None:
        (gateway,) = _gateways(settings, listener, [private], str(tmp_path)).values()
        await gateway.start()
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
                asking = [asyncio.ensure_future(status(http, key)) for key in (keys["caller-0"], keys["caller-1499"])]
                ended = asyncio.ensure_future(gateway.wait())
                await asyncio.wait([ended, *asking], return_when=asyncio.FIRST_COMPLETED)
                assert not ended.done(), list(gateway.last_lines)
                assert [await one for one in asking] == [200, 200]
                assert await status(http, "1500-" + "k" * 96) == 401
                process = psutil.Process(gateway._started().pid)
                assert keys["caller-7"] not in " ".join([*process.cmdline(), *process.environ().values()])
                ended.cancel()
        finally:
            await gateway.stop(10)
            for shared in gateway._shares:  # nla-serve holds them until its end, for the next start
                shared.close()

    asyncio.run(run())
