"""How long a pair takes to start and to come back, and what memory it takes, with engines forked and not."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nla_gateway.roles import Role
from tests.benchmarks.figures import Figure, Scale, Target
from tests.load import noticed, restarts_of, until
from tests.stack import Stack, engine_of, serving, states_of, without_forks

FORKED: Final = "engines forked"
WAYS: Final = (FORKED, "engines importing for themselves")
TARGETS: Final = {
    "demo": {"ready": 25.0, "memory": 4.0, "again": 6.0},
    "toy": {"ready": 20.0, "memory": 2.6, "again": 6.0},
}
"""Three engines of a real model, two of a small one."""


def measure(folder: Path, scale: Scale, preset: str, *, ways: Sequence[str] = WAYS, warm: bool = False) -> list[Figure]:
    """Start a pair each way; the slow one once.

    Args:
        folder: for logs.
        scale: how often.
        preset: of the pair.
        ways: to start it.
        warm: whether all that is started finds its imports made, which is quick and gives no true figures.
    """
    found = {
        way: [
            _one(folder / f"{way} {turn}", preset, forked=way == FORKED, warm=warm)
            for turn in range(scale.starts if way == FORKED else 1)
        ]
        for way in ways
    }
    figures = []
    for key, name, unit in (
        ("ready", f"nla-serve --preset {preset}: ready, self-tests passed", "s"),
        ("memory", f"nla-serve --preset {preset}: memory of all processes, idle (PSS)", "GB"),
        ("again", f"nla-serve --preset {preset}: verbalizer killed, ready again", "s"),
    ):
        for way in ways:
            target = Target("at most", TARGETS[preset][key]) if way == FORKED else None
            figures.append(Figure(f"{name}, {way}", [one[key] for one in found[way]], unit, target))
    return figures


def _one(folder: Path, preset: str, *, forked: bool, warm: bool) -> dict[str, float]:
    folder.mkdir(parents=True)
    environment = {} if forked else without_forks(folder)
    began = time.monotonic()
    with serving(folder / "log", "--preset", preset, env=environment, warm=warm) as stack:
        ready = time.monotonic() - began
        memory = sum(process.memory_full_info().pss for process in stack.family()) / 1e9
        return {"ready": ready, "memory": memory, "again": asyncio.run(_killed(stack))}


async def _killed(stack: Stack) -> float:
    """Kill the verbalizer; returns the seconds until it is ready again."""
    before = restarts_of(stack, "verbalizer")
    engine_of(stack, Role.AV).kill()
    gone = await noticed(stack, "verbalizer", before)
    return gone + await until(lambda: states_of(stack).get("verbalizer") == "ready", 300)
