"""The policy over the processes: start all, wait until ready, start again what dies or hangs, stop in order."""

import asyncio
import logging
import socket
import sys
import time
import webbrowser
from collections.abc import Sequence
from typing import Final

import httpx

from nla_launch.errors import LaunchError, ServiceError
from nla_launch.logs import drain_logs
from nla_launch.run.forking import ForkServer
from nla_launch.run.process import ChildProcess
from nla_launch.run.readiness import EngineReport, Readiness
from nla_launch.run.restarts import LIMIT, WINDOW_S, Restarts
from nla_launch.signals import stopping

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5
HEARTBEAT_S: Final = 10.0
ENGINE_GRACE_S: Final = 15.0
"""SGLang ends its processes in order; killed, it leaves semaphores behind."""
LINES_SHOWN: Final = 20


class Supervisor:
    """Runs gateways and their engines until told to stop, or until one of them fails for good.

    Args:
        engines: the engines' processes.
        gateways: the gateways' processes, by the URL of each one's `/ready`; without any, nobody tells whether the
            engines are ready.
        listeners: sockets that the gateways share; closed here at a stop.
        url: where they listen, for users.
        grace_s: how long requests in flight may take to finish at a stop.
        forks: what forks the engines; ended at a stop.
        key: a caller's, where the gateways want one: only callers are told why an engine failed.
    """

    def __init__(
        self,
        engines: list[ChildProcess],
        gateways: dict[str, ChildProcess],
        *,
        listeners: Sequence[socket.socket],
        url: str,
        grace_s: float,
        forks: ForkServer,
        key: str | None = None,
        open_page: bool = False,
    ) -> None:
        self._engines, self._gateways = {engine.label: engine for engine in engines}, list(gateways.values())
        self._restarts = {child: Restarts() for child in (*engines, *self._gateways)}
        self._readiness = Readiness(list(gateways))
        self._listeners, self._url, self._grace_s = listeners, url, grace_s
        self._was_ready = not gateways
        self._forks = forks
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._open_page = open_page
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal says to stop.

        Raises:
            ServiceError: a process could not start or kept dying, or an engine failed its self-test.
        """
        loop = asyncio.get_running_loop()
        for number in stopping():
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self._watch()
        finally:
            await self._shut_down()

    async def _start(self, child: ChildProcess) -> None:
        logger.info("%s: starting", child.label)
        await child.start()

    async def _watch(self) -> None:
        """Keep everything going until the stop, or until something fails for good."""
        work = (self._stop.wait(), self._follow(), *(self._keep(child) for child in self._restarts))
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in () if self._stop.is_set() else done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, child: ChildProcess) -> None:
        """Start a child, and again whenever it has died.

        Raises:
            ServiceError: it did before all were ready once, or too often.
        """
        await self._start(child)
        while True:
            obituary = _obituary(child, await child.wait())
            await child.stop(0)  # what it left behind still holds memory
            if time.monotonic() - child.started_at > WINDOW_S:
                self._restarts[child].worked()
            if not self._was_ready:
                raise ServiceError(obituary)
            await self._start_again(child, obituary)

    async def _start_again(self, child: ChildProcess, why: str) -> None:
        """Start a child after a pause, and after a longer one where it cannot start.

        Raises:
            ServiceError: once too often.
        """
        restarts = self._restarts[child]
        while (pause := restarts.next_pause(time.monotonic())) is not None:
            which = f"restart {restarts.count} of at most {LIMIT} in {WINDOW_S / 60:.0f} minutes"
            logger.warning("%s", why)
            logger.warning("%s: starts again in %.0f s (%s)", child.label, pause, which)
            await asyncio.sleep(pause)
            try:
                await asyncio.to_thread(child.check)
            except LaunchError as error:
                why = f"the {child.label} cannot start again: {error}"
            else:
                await self._start(child)
                return
        logger.error("%s: given up after %d restarts", child.label, LIMIT)
        raise ServiceError(why)

    async def _follow(self) -> None:
        """Follow what the gateways say of the engines: tell the user, and end engines that are no good.

        Raises:
            ServiceError: an engine failed its self-test before all were ready once.
        """
        spoken = time.monotonic()
        # The gateways' own sockets on loopback, opened by us: whatever its certificate says, nobody else is there.
        async with httpx.AsyncClient(headers=self._headers, trust_env=False, timeout=5.0, verify=False) as http:  # noqa: S501
            while True:
                for report in await self._readiness.changes(http):
                    self._on_change(report)
                if self._readiness.answered:
                    for gateway in self._gateways:
                        self._restarts[gateway].worked()
                if self._readiness.all_ready and not self._was_ready:
                    self._was_ready = True
                    await asyncio.to_thread(drain_logs)  # the address is the last line of a start
                    sys.stdout.write(f"nla-serve ready on {self._url}\n")
                    sys.stdout.flush()
                    if self._open_page and not await asyncio.to_thread(webbrowser.open, self._url):
                        logger.warning("no browser could be opened: open %s yourself", self._url)
                if time.monotonic() - spoken > HEARTBEAT_S:
                    spoken = time.monotonic()
                    self._show_progress(spoken)
                await asyncio.sleep(POLL_S)

    def _on_change(self, report: EngineReport) -> None:
        engine = self._engines.get(report.label)
        if report.state == "ready":
            after = "" if engine is None else f" after {time.monotonic() - engine.started_at:.0f} s"
            logger.info("%s: ready%s, self-test passed", report.label, after)
            if engine is not None:
                self._restarts[engine].worked()
        elif report.state == "failed":
            message = f"the {report.label} failed its self-test: {report.reason}"
            if report.given_up and not self._was_ready and engine is not None:
                raise ServiceError(message)
            logger.error("%s%s", message, "" if report.given_up else "; other gateways go on with it")
        elif report.state == "hung" and report.given_up:
            logger.error("%s: hangs%s", report.label, "" if engine is None else ", and is ended")
        if report.given_up and engine is not None:
            engine.kill()

    def _show_progress(self, now: float) -> None:
        waiting = self._readiness.waiting(list(self._engines))
        if ours := [label for label in waiting if label in self._engines]:
            since = now - min(self._engines[label].started_at for label in ours)
            logger.info("%s: still loading (%.0f s)", " and ".join(ours), since)
        if elsewhere := [label for label in waiting if label not in self._engines]:
            logger.info("%s: waited for", " and ".join(elsewhere))

    async def _shut_down(self) -> None:
        """Stop the gateways first, so that they can finish what the engines are doing; then the engines."""
        logger.info("stopping")
        for listener in self._listeners:
            listener.close()
        await asyncio.gather(*(gateway.stop(self._grace_s + 5.0) for gateway in self._gateways))
        await asyncio.gather(*(engine.stop(ENGINE_GRACE_S) for engine in self._engines.values()))
        self._forks.close()
        logger.info("stopped")

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for child in self._restarts:
                child.kill()
        self._stop.set()


def _obituary(child: ChildProcess, code: int) -> str:
    how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
    lines = "\n".join(f"  {line}" for line in list(child.last_lines)[-LINES_SHOWN:])
    return f"the {child.label} {how}; its last lines:\n{lines}"
