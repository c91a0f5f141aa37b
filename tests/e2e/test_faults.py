"""What users get while parts of the service die or hang under load: the right answer, or the contract's error."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from nla_gateway.roles import Role
from tests.checkpoints import make_pair
from tests.endurance import VECTORS, endure
from tests.load import IN_FLIGHT, Known, Load, disturb, report, until
from tests.plain import decode, of_engine, queue_of, running, texts_of, verbalize, verbalizer_of
from tests.stack import (
    Stack,
    assert_gone,
    assert_port_free,
    engine_of,
    fork_server_of,
    kill,
    scheduler_of,
    serving,
    start,
    states_of,
)

HUNG_AFTER_S: Final = 15


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    log = tmp_path_factory.mktemp("faults") / "log"
    with serving(log, "--preset", "toy", "--hung-after", str(HUNG_AFTER_S)) as stack:
        yield stack


@pytest.fixture(scope="module")
def known(stack: Stack, toy_vectors: NDArray[np.float32]) -> Known:
    return Known.of(stack, toy_vectors)


@pytest.mark.parametrize("role", [Role.AV, Role.AR])
def test_an_engine_killed_under_load_comes_back_and_nothing_is_lost(stack: Stack, known: Known, role: Role) -> None:
    family = len(stack.family())
    got = disturb(stack, known, engine_of(stack, role).kill, role.label)
    assert set(got) <= {"right", "503"}, got
    assert len(stack.family()) == family


def test_the_fork_server_killed_under_load_comes_back_with_all_engines(stack: Stack, known: Known) -> None:
    family = len(stack.family())
    got = disturb(stack, known, fork_server_of(stack).kill, "verbalizer")
    assert set(got) <= {"right", "503"}, got
    assert "the fork server has ended with code -9, and its engines with it" in stack.log_text()
    assert len(stack.family()) == family


def test_a_run_of_nla_that_is_killed_with_its_engine(stack: Stack, tmp_path: Path) -> None:
    report = endure(stack, tmp_path, VECTORS, count=800, kills=(3, 1))
    assert report.fine, report


@pytest.mark.parametrize(("role", "of"), [(Role.AV, scheduler_of), (Role.AR, engine_of)])
def test_an_engine_that_hangs_is_ended_and_comes_back(
    stack: Stack, known: Known, role: Role, of: Callable[[Stack, Role], psutil.Process]
) -> None:
    family = len(stack.family())
    got = disturb(stack, known, of(stack, role).suspend, role.label)
    assert set(got) <= {"right", "503"}, got
    assert f"{role.label}: hangs, and is ended" in stack.log_text()
    assert len(stack.family()) == family


def test_a_killed_gateway_comes_back_on_the_same_address(stack: Stack, known: Known) -> None:
    load = Load(stack, known, IN_FLIGHT)

    async def run() -> None:
        before = stack.gateway().pid
        async with load.running():
            await asyncio.sleep(3)
            os.kill(before, signal.SIGKILL)
            await until(lambda: set(states_of(stack).values()) == {"ready"}, 60)
            right = load.outcomes["right"]
            await asyncio.sleep(3)
            await until(lambda: load.outcomes["right"] > right, 60)
        assert stack.gateway().pid != before

    asyncio.run(run())
    got = report(load)
    assert set(got) <= {"right", "503", "nothing"}, got
    assert got["nothing"] <= IN_FLIGHT, "only those that it was working on are lost"


def test_a_hundred_callers_that_vanish_in_mid_stream_leave_nothing_behind(stack: Stack, known: Known) -> None:
    body = {"vectors": known.vectors[0], "dtype": "float32", "temperature": 30.0, "max_tokens": 800, "stream": True}

    async def vanish(http: httpx.AsyncClient) -> None:
        async with http.stream("POST", "/verbalize", json=body) as reply:
            assert reply.status_code == 200
            async for _ in reply.aiter_bytes():
                return

    async def run() -> None:
        limits = httpx.Limits(keepalive_expiry=30)
        async with httpx.AsyncClient(base_url=stack.url, timeout=300, limits=limits, trust_env=False) as http:
            files, ended = stack.gateway().num_fds(), of_engine(stack, "verbalizer", "num_aborted_requests")
            await asyncio.gather(*(vanish(http) for _ in range(100)))
            await until(lambda: queue_of(stack) == 0, 60)
            await until(lambda: of_engine(stack, "verbalizer", "num_aborted_requests") > ended + 50, 60)
            await until(lambda: running(verbalizer_of(stack)) == 0, 60)
        await until(lambda: stack.gateway().num_fds() <= files + IN_FLIGHT, 60)

    asyncio.run(run())
    assert texts_of(verbalize(stack, decode(known.vectors[0])[None]))[0] == known.texts[0]


def test_a_checkpoint_that_is_corrupt_at_the_restart_ends_the_service(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    stack = start(tmp_path / "log", "--only", "ar", "--ar", str(pair.ar), "--device", "cpu")
    try:
        stack.wait_ready()
        family = stack.family()
        (pair.ar / "value_head.safetensors").write_bytes(b"no weights")
        engine_of(stack, Role.AR).kill()
        assert stack.process.wait(120) == 1
        assert_gone(family)
        assert_port_free(stack.port)
    finally:
        kill(stack)
    log = stack.log_text()
    assert "restart 5 of at most 5" in log
    assert "value_head.safetensors is missing, or no file of safetensors" in log.splitlines()[-1]
    assert "Traceback" not in log
