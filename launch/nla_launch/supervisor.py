"""The policy over the processes: start all, wait until ready, watch, stop in order."""

import asyncio
import logging
import signal
import sys
import time
from typing import Any, Final

import httpx

from nla_launch.errors import ServiceError
from nla_launch.process import ChildProcess

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5
HEARTBEAT_S: Final = 10.0
ENGINE_GRACE_S: Final = 15.0
"""SGLang looks for a SIGTERM every 5 s and then ends its processes in order; killed, it leaves semaphores behind."""
LINES_SHOWN: Final = 20


class Supervisor:
    """Runs gateways and their engines until told to stop, or until one of them fails.

    Args:
        engines: the engines' processes.
        gateways: the gateways' processes, by the URL of each one's `/ready`.
        url: where they listen, for users.
        grace_s: how long requests in flight may take to finish at a stop.
    """

    def __init__(
        self, engines: list[ChildProcess], gateways: dict[str, ChildProcess], *, url: str, grace_s: float
    ) -> None:
        self._engines, self._gateways, self._ready_urls = engines, list(gateways.values()), list(gateways)
        self._children = [*self._engines, *self._gateways]
        self._url, self._grace_s = url, grace_s
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            ServiceError: a process died or an engine failed its self-test.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            for child in self._children:
                await child.start()
                logger.info("%s: starting", child.label)
            await self._watch()
        finally:
            await self._shut_down()

    async def _watch(self) -> None:
        stop = asyncio.create_task(self._stop.wait())
        ready = asyncio.create_task(self._until_ready())
        deaths = {asyncio.create_task(child.wait()): child for child in self._children}
        waiting: set[asyncio.Task[Any]] = {stop, ready, *deaths}
        try:
            while not stop.done():
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for death, child in deaths.items():
                    if death in done and not stop.done():
                        raise ServiceError(_obituary(child, death.result()))
                if ready in done:
                    ready.result()
                    waiting.discard(ready)
                    sys.stdout.write(f"nla-serve ready on {self._url}\n")
                    sys.stdout.flush()
        finally:
            for task in (stop, ready, *deaths):
                task.cancel()
            await asyncio.gather(stop, ready, *deaths, return_exceptions=True)

    async def _until_ready(self) -> None:
        started = spoken = time.monotonic()
        seen: set[str] = set()
        # The gateways' own sockets on loopback, opened by us: whatever its certificate says, nobody else is there.
        async with httpx.AsyncClient(trust_env=False, timeout=5.0, verify=False) as http:  # noqa: S501
            while True:
                waiting = await self._newly_ready(http, seen, time.monotonic() - started)
                if waiting is not None and not waiting:
                    return
                if time.monotonic() - spoken > HEARTBEAT_S:
                    spoken = time.monotonic()
                    names = " and ".join(waiting or [child.label for child in self._engines])
                    logger.info("%s: still loading (%.0f s)", names, spoken - started)
                await asyncio.sleep(POLL_S)

    async def _newly_ready(self, http: httpx.AsyncClient, seen: set[str], seconds: float) -> list[str] | None:
        """Report engines that are ready for all gateways; return those that are not, None while one gives no answer."""
        try:
            answers = [(await http.get(url)).json()["engines"] for url in self._ready_urls]
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        for label in answers[0]:
            engines = [answer[label] for answer in answers]
            for engine in engines:
                if engine["state"] == "failed":
                    raise ServiceError(f"the {label} failed its self-test: {engine['reason']}")
            if label not in seen and all(engine["state"] == "ready" for engine in engines):
                seen.add(label)
                logger.info("%s: ready after %.0f s, self-test passed", label, seconds)
        return [label for label in answers[0] if label not in seen]

    async def _shut_down(self) -> None:
        """Stop the gateways first, so that they can finish what the engines are doing; then the engines."""
        logger.info("stopping")
        await asyncio.gather(*(gateway.stop(self._grace_s + 5.0) for gateway in self._gateways))
        await asyncio.gather(*(engine.stop(ENGINE_GRACE_S) for engine in self._engines))
        logger.info("stopped")

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for child in self._children:
                child.kill()
        self._stop.set()


def _obituary(child: ChildProcess, code: int) -> str:
    how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
    lines = "\n".join(f"  {line}" for line in list(child.last_lines)[-LINES_SHOWN:])
    return f"the {child.label} {how}; its last lines:\n{lines}"
