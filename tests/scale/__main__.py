"""`make scale`: many engines behind several gateways; a third of them vanishes under load.

Gateways and clients are real. Engines are stand-ins, with fewer places than a GPU has and slower samples, so that this
machine can ask as many of them as are to be asked. Prints what callers got and how even the load was; ends with 1 where
an answer was lost or wrong.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from nla_gateway.pair.injection import injection, rescale
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings, PairSettings, Settings
from nla_launch.run.service import listen
from tests.descriptions import described
from tests.gateway.process import start
from tests.plain import TOY
from tests.scale.engines import TOKENS, said_of

CHECKPOINT: Final = TOY / "verbalizer"
KNOWN: Final = 512
"""Vectors that are asked about."""
READY_S: Final = 300.0
DRAIN_S: Final = 120.0


@dataclass(frozen=True)
class Scale:
    """How large, and how long.

    Attributes:
        engines: Stand-ins.
        gateways: Each knows all engines, and nothing of the other gateways.
        places: Samples at the same time in an engine.
        sample_s: What a sample takes there.
        share: Of all engines' places, how many are asked for on average.
        phase_s: Each of: to get going, undisturbed, and with a third of the engines gone.
    """

    engines: int = 64
    gateways: int = 8
    places: int = 16
    sample_s: float = 5.0
    share: float = 0.5
    phase_s: float = 40.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.share * self.engines * self.places / self.sample_s

    @property
    def vanishing(self) -> int:
        """Engines that vanish."""
        return self.engines // 3


@dataclass
class Report:
    """What was found."""

    scale: Scale
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"all there": [], "a third gone": []})
    """Of requests that began in a phase, how long each took."""
    served: dict[str, list[int]] = field(default_factory=dict)
    """Samples of each engine that is there, by phase."""
    idle_cpu: float = 0.0
    """Of a gateway that does nothing but watch its engines, in cores."""
    cpu_ms: float = 0.0
    """Of a gateway for a request, watching included."""
    memory_mb: float = 0.0
    """Of a gateway (USS), the most."""
    noticed_s: float = 0.0
    """Until all gateways had noticed."""
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether every request was answered rightly."""
        return set(self.outcomes) == {"right"}

    def as_json(self) -> str:
        return json.dumps(
            asdict(self) | {"outcomes": dict(self.outcomes)}, indent=2
        )  # a Counter is not copied as it is

    def table(self) -> str:
        scale = self.scale
        rows = {
            "engines, gateways": f"{scale.engines}, {scale.gateways}",
            "requests a second, and at the same time": f"{scale.rate:.0f}, {scale.rate * scale.sample_s:.0f}",
            "requests, answered rightly": f"{sum(self.outcomes.values()):,}, {self.outcomes['right']:,}",
            "anything else": ", ".join(f"{n} x {what}" for what, n in self.outcomes.items() if what != "right") or "0",
            "until all gateways had noticed that processes were gone": f"{self.noticed_s:.1f} s",
            "CPU of a gateway that only watches its engines": f"{self.idle_cpu:.1%} of a core",
            "CPU of a gateway for a request": f"{self.cpu_ms:.1f} ms",
            "memory of a gateway of its own (USS), most": f"{self.memory_mb:.0f} MB",
        }
        for phase, seconds in self.seconds.items():
            p50, p99 = np.percentile(seconds, (50, 99)) / scale.sample_s
            rows[f"{phase}: p50 and p99, in the time that a sample takes"] = f"{p50:.2f}, {p99:.2f}"
            counts = np.array(self.served[phase])
            rows[f"{phase}: samples of an engine, least, mean and most"] = (
                f"{counts.min()}, {counts.mean():.1f}, {counts.max()}"
            )
        return "\n".join(["| what | found |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


@contextmanager
def engines(ports: Sequence[int], scale: Scale) -> Iterator[subprocess.Popen[str]]:
    """Run stand-ins in a process of their own."""
    flags = ("--places", str(scale.places), "--sample-s", str(scale.sample_s))
    command = [sys.executable, "-m", "tests.scale.engines", *flags, *map(str, ports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Gateway:
    """One that runs."""

    url: str
    process: psutil.Process

    @property
    def cpu_s(self) -> float:
        """Processor time so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def gateway(settings: Settings) -> Iterator[Gateway]:
    """Run one gateway."""
    with listen("127.0.0.1", 0) as listener:
        process = start(settings, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield Gateway(url, psutil.Process(process.pid))
    finally:
        process.kill()
        process.wait()


def settings_of(ports: Sequence[int], scale: Scale) -> Settings:
    """What each gateway is told."""
    engine = EngineSettings(
        urls=tuple(f"http://127.0.0.1:{port}" for port in ports),
        api_key="unused",
        checkpoint=CHECKPOINT,
        model="stand-in",
        dtype="float32",
        context_length=1024,
        running_requests=scale.places,
        max_in_flight=scale.places + scale.places // 8,
        shared_in_flight=max(1, scale.places // 8),
        description=described(Role.AV, CHECKPOINT),
    )
    return Settings(pairs=(PairSettings(name="stand-in", engines={Role.AV: engine}),), log_level="error")


def vectors_and_texts(scale: float | None) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors, and what stand-ins say of them once they are injected."""
    vectors = np.random.default_rng(0).standard_normal((KNOWN, 256)).astype(np.float32)
    sent = [injection(rescale(vector, scale), 0, "float32") for vector in vectors]
    return vectors, [said_of(one["embeds"]) for one in sent]


async def ready(urls: Sequence[str], count: int) -> None:
    """Wait until each gateway has so many engines that are ready."""
    deadline = time.monotonic() + READY_S
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        for url in urls:
            while await _ready_at(http, url) != count:
                assert time.monotonic() < deadline, f"{url} does not come to {count} engines that are ready"
                await asyncio.sleep(0.2)


async def _ready_at(http: httpx.AsyncClient, url: str) -> int:
    try:
        told = (await http.get(f"{url}/ready")).json()["engines"]
    except httpx.TransportError:
        return -1
    return sum(engine["state"] == "ready" for engine in told.values())


async def served(ports: Sequence[int]) -> list[int]:
    """How many samples each engine has served."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        texts = [(await http.get(f"http://127.0.0.1:{port}/metrics")).text for port in ports]
    return [int(text.split()[-1]) for text in texts]


class Callers:
    """Ask at random moments, without waiting for answers, each time another gateway: as many callers would."""

    def __init__(
        self, clients: Sequence[AsyncNLAClient], known: tuple[NDArray[np.float32], list[str]], report: Report
    ) -> None:
        self._clients, self._known, self._report = clients, known, report
        self._draw, self.asked = np.random.default_rng(1), 0
        self._running: set[asyncio.Task[None]] = set()

    async def ask_for(self, seconds: float, phase: str | None) -> None:
        """Ask at the scale's rate for so long."""
        due = time.monotonic()
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(self.asked, due, phase))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            self.asked += 1
            due += self._draw.exponential(1 / self._report.scale.rate)

    async def answered(self) -> None:
        """Wait for all answers."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_S)

    async def drain(self) -> None:
        """The same, and note how many there are none of."""
        await self.answered()
        self._report.outcomes["no answer"] += self.asked - self._report.outcomes.total()
        self._report.outcomes += Counter()  # what there is none of goes

    async def _ask(self, number: int, due: float, phase: str | None) -> None:
        vectors, texts = self._known
        client, which = self._clients[number % len(self._clients)], number % KNOWN
        try:
            told = await client.verbalize(vectors[which], dtype="float32", max_tokens=TOKENS)
        except Exception as error:  # whatever it is, a caller has no answer
            outcome = type(error).__name__
            self._report.examples[outcome] = str(error)
        else:
            outcome = "right" if told.text == texts[which] else "wrong"
        self._report.outcomes[outcome] += 1
        if phase is not None:
            self._report.seconds[phase].append(time.monotonic() - due)


def free_ports(count: int) -> list[int]:
    """Find so many, none of them twice."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


async def simulate(scale: Scale) -> Report:
    """Run it."""
    report, ports = Report(scale), free_ports(scale.engines)
    staying, leaving = ports[scale.vanishing :], ports[: scale.vanishing]
    settings = settings_of([*staying, *leaving], scale)
    with ExitStack() as running:
        running.enter_context(engines(staying, scale))
        mortal = running.enter_context(engines(leaving, scale))
        gateways = [running.enter_context(gateway(settings)) for _ in range(scale.gateways)]
        urls = [one.url for one in gateways]
        await ready(urls, scale.engines)
        report.idle_cpu = await cpu_of(gateways, asyncio.sleep(scale.phase_s / 4)) / (scale.phase_s / 4)
        async with AsyncExitStack() as connections:
            options: dict[str, Any] = {"max_retries": 0, "max_connections": 4096, "timeout": DRAIN_S}
            clients = [await connections.enter_async_context(AsyncNLAClient(url, **options)) for url in urls]
            scaled = settings.pairs[0].engines[Role.AV].described().injection_scale
            callers = Callers(clients, vectors_and_texts(scaled), report)
            await callers.ask_for(scale.phase_s, None)
            before = await served(ports)
            used = await cpu_of(gateways, callers.ask_for(scale.phase_s, "all there"))
            report.cpu_ms = 1000 * used * len(gateways) / (scale.rate * scale.phase_s)
            await callers.answered()  # after a pause of this process all may have been asked at the end
            all_there = _grown(before, await served(ports))
            await callers.ask_for(2 * scale.sample_s, None)  # they are as busy again
            between = await served(staying)
            mortal.kill()
            gone = time.monotonic()

            async def notice() -> None:
                await ready(urls, len(staying))
                report.noticed_s = time.monotonic() - gone

            noticing = asyncio.create_task(notice())
            await callers.ask_for(scale.phase_s, "a third gone")
            await noticing
            await callers.drain()
            after = await served(staying)
        report.memory_mb = max(one.process.memory_full_info().uss for one in gateways) / 1e6
    report.served = {"all there": all_there, "a third gone": _grown(between, after)}
    return report


async def cpu_of(gateways: Sequence[Gateway], work: Awaitable[None]) -> float:
    """Processor time of a gateway, on average, while work is done."""
    before = sum(one.cpu_s for one in gateways)
    await work
    return (sum(one.cpu_s for one in gateways) - before) / len(gateways)


def _grown(before: Sequence[int], after: Sequence[int]) -> list[int]:
    return [now - then for then, now in zip(before, after, strict=True)]


def main() -> int:
    """Run it as large as it is, and write what was found."""
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    report = asyncio.run(simulate(Scale()))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "scale.json").write_text(report.as_json())
    sys.stdout.write(f"{report.table()}\n")
    for outcome, example in report.examples.items():
        sys.stdout.write(f"{outcome}: {example}\n")
    return 0 if report.fine else 1


if __name__ == "__main__":
    sys.exit(main())
