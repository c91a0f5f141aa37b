"""How long a pair takes to start and to come back, and what memory it takes, with engines forked and not."""

import asyncio
import time
from pathlib import Path
from typing import Final

from nla_gateway.roles import Role
from tests.benchmarks.figures import Figure, Scale, Target
from tests.load import until
from tests.stack import Stack, engine_of, serving, states_of, without_forks

WAYS: Final = {"engines forked": True, "engines importing for themselves": False}
TARGETS: Final = {"ready": 25.0, "memory": 4.0, "again": 6.0}


def measure(folder: Path, scale: Scale, preset: str) -> list[Figure]:
    """Start a pair each way; the slow one once."""
    turns = {way: range(scale.starts if forked else 1) for way, forked in WAYS.items()}
    found = {way: [_one(folder / f"{way} {turn}", preset, forked=WAYS[way]) for turn in turns[way]] for way in WAYS}
    figures = []
    for key, name, unit in (
        ("ready", f"nla-serve --preset {preset}: ready, self-tests passed", "s"),
        ("memory", f"nla-serve --preset {preset}: memory of all processes, idle (PSS)", "GB"),
        ("again", "verbalizer killed: ready again", "s"),
    ):
        for way, forked in WAYS.items():
            target = Target("at most", TARGETS[key]) if forked else None
            figures.append(Figure(f"{name}, {way}", [one[key] for one in found[way]], unit, target))
    return figures


def _one(folder: Path, preset: str, *, forked: bool) -> dict[str, float]:
    folder.mkdir()
    environment = {} if forked else without_forks(folder)
    began = time.monotonic()
    with serving(folder / "log", "--preset", preset, env=environment, warm=False) as stack:
        ready = time.monotonic() - began
        memory = sum(process.memory_full_info().pss for process in stack.family()) / 1e9
        return {"ready": ready, "memory": memory, "again": asyncio.run(_killed(stack))}


async def _killed(stack: Stack) -> float:
    """Kill the verbalizer; returns the seconds until it is ready again."""
    engine_of(stack, Role.AV).kill()
    gone = await until(lambda: states_of(stack).get("verbalizer") != "ready", 60)
    return gone + await until(lambda: states_of(stack).get("verbalizer") == "ready", 300)
