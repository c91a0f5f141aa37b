"""`make soak`: all kinds of calls, bad ones and callers that leave, 50 in flight, and one engine killed on the way.

Prints what callers got and how memory and open files of gateway and launcher went; ends with 1 where an answer was
lost or wrong.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from nla_gateway.roles import Role
from tests.load import Known, Load, noticed, restarts_of, until
from tests.plain import load_toy_vectors
from tests.stack import STAND_IN, Stack, engine_of, serving, states_of

IN_FLIGHT: Final = 50
SAMPLE_S: Final = 2.0
BACK_S: Final = 300.0
EXCUSED: Final = ("429", "503", "504")
EXPECTED: Final = ("right", "refused", "left", "nothing", "wrong", *EXCUSED)


@dataclass(frozen=True)
class Reading:
    """Resources at one moment."""

    seconds: float
    gateway_mb: float
    launcher_mb: float
    gateway_files: int
    launcher_files: int


@dataclass(frozen=True)
class Report:
    """What a soak found."""

    minutes: float
    outcomes: dict[str, int]
    examples: dict[str, str]
    back_after_s: float
    readings: list[Reading]

    def count(self, outcome: str) -> int:
        return self.outcomes.get(outcome, 0)

    @property
    def lost(self) -> int:
        return self.count("nothing")

    @property
    def wrong(self) -> int:
        return self.count("wrong")

    @property
    def unexpected(self) -> dict[str, int]:
        """Errors that nothing here should lead to."""
        return {outcome: n for outcome, n in self.outcomes.items() if outcome not in EXPECTED}

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def slope(self, name: str) -> float:
        """Growth a minute of one of the readings, over the second half, by least squares."""
        half = self.readings[len(self.readings) // 2 :]
        minutes = [reading.seconds / 60 for reading in half]
        return float(np.polyfit(minutes, [getattr(reading, name) for reading in half], 1)[0])

    def _growth(self, name: str) -> str:
        return f"{getattr(self.readings[-1], name):.0f} MB, {self.slope(name):+.2f} MB a minute"

    def table(self) -> str:
        calls = sum(self.outcomes.values())
        last = self.readings[-1]
        errors = {status: n for status, n in self.outcomes.items() if status in EXCUSED}
        rows = {
            f"calls in {self.minutes:g} minutes, {IN_FLIGHT} in flight": f"{calls:,}",
            "answered right": f"{self.count('right'):,}",
            "answered with the contract's error": ", ".join(f"{n} x {s}" for s, n in sorted(errors.items())) or "0",
            "wrong requests, refused": f"{self.count('refused'):,}",
            "left by their callers": f"{self.count('left'):,}",
            "lost": str(self.lost),
            "wrong": str(self.wrong),
            "other errors": ", ".join(f"{n} x {s}" for s, n in self.unexpected.items()) or "0",
            "verbalizer killed, ready again after": f"{self.back_after_s:.0f} s",
            "gateway memory, growth in the second half": self._growth("gateway_mb"),
            "launcher memory, growth in the second half": self._growth("launcher_mb"),
            "open files, gateway and launcher, at the end": f"{last.gateway_files} and {last.launcher_files}",
        }
        return "\n".join(["| what | found |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


async def soak(stack: Stack, minutes: float) -> Report:
    """Load the stack for so long; the verbalizer is killed after a quarter of it."""
    load = Load(stack, Known.of(stack, load_toy_vectors()), IN_FLIGHT, mischief=True)
    readings: list[Reading] = []
    started = time.monotonic()
    async with load.running():
        reader = asyncio.create_task(_read(stack, readings, started))
        await asyncio.sleep(15 * minutes)
        before = restarts_of(stack, "verbalizer")
        engine_of(stack, Role.AV).kill()
        killed = time.monotonic()
        await noticed(stack, "verbalizer", before)
        await until(lambda: set(states_of(stack).values()) == {"ready"}, BACK_S)
        back = time.monotonic() - killed
        await asyncio.sleep(max(5.0, 60 * minutes - (time.monotonic() - started)))
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    await asyncio.sleep(3)
    readings.append(_reading(stack, started))
    return Report(minutes, dict(load.outcomes), load.examples, back, readings)


async def _read(stack: Stack, readings: list[Reading], started: float) -> None:
    while True:
        with suppress(psutil.Error, StopIteration):  # a process that comes or goes just now
            readings.append(_reading(stack, started))
        await asyncio.sleep(SAMPLE_S)


def _reading(stack: Stack, started: float) -> Reading:
    gateway, launcher = stack.gateway(), psutil.Process(stack.process.pid)
    megabytes = [process.memory_info().rss / 1e6 for process in (gateway, launcher)]
    return Reading(time.monotonic() - started, *megabytes, gateway.num_fds(), launcher.num_fds())


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    flags = ("--preset", "toy", "--source", STAND_IN)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log", *flags, warm=False) as stack:
        report = asyncio.run(soak(stack, arguments.minutes))
    (arguments.out / "soak.json").write_text(report.as_json())
    sys.stdout.write(f"{report.table()}\n\n{report.examples}\n")
    return 1 if report.lost or report.wrong or report.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
