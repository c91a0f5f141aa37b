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
    """Runs a gateway and its engines until told to stop, or until one of them fails.

    Args:
        engines: the engines' processes.
        gateway: the gateway's process.
        url: where the gateway listens, for users.
        ready_url: the gateway's `/ready`, for us.
        grace_s: how long requests in flight may take to finish at a stop.
    """

    def __init__(
        self, engines: list[ChildProcess], gateway: ChildProcess, *, url: str, ready_url: str, grace_s: float
    ) -> None:
        self._engines, self._gateway = engines, gateway
        self._url, self._ready_url, self._grace_s = url, ready_url, grace_s
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
            for child in [*self._engines, self._gateway]:
                await child.start()
                logger.info("%s: starting", child.label)
            await self._watch()
        finally:
            await self._shut_down()

    async def _watch(self) -> None:
        stop = asyncio.create_task(self._stop.wait())
        ready = asyncio.create_task(self._until_ready())
        deaths = {asyncio.create_task(child.wait()): child for child in [*self._engines, self._gateway]}
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
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
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
        """Report engines that have become ready; return those that have not, or None while nobody answers."""
        try:
            engines = (await http.get(self._ready_url)).json()["engines"]
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        for label, engine in engines.items():
            if engine["state"] == "failed":
                raise ServiceError(f"the {label} failed its self-test: {engine['reason']}")
            if engine["state"] == "ready" and label not in seen:
                seen.add(label)
                logger.info("%s: ready after %.0f s, self-test passed", label, seconds)
        return [label for label in engines if label not in seen]

    async def _shut_down(self) -> None:
        """Stop the gateway first, so that it can finish what its engines are doing; then the engines."""
        logger.info("stopping")
        await self._gateway.stop(self._grace_s + 5.0)
        await asyncio.gather(*(engine.stop(ENGINE_GRACE_S) for engine in self._engines))
        logger.info("stopped")

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for child in [self._gateway, *self._engines]:
                child.kill()
        self._stop.set()


def _obituary(child: ChildProcess, code: int) -> str:
    how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
    lines = "\n".join(f"  {line}" for line in list(child.last_lines)[-LINES_SHOWN:])
    return f"the {child.label} {how}; its last lines:\n{lines}"
