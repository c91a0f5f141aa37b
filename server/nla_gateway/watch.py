"""An engine's states over its life: waited for, proved, watched, and proved again after each restart."""

import asyncio
import logging
import time
from typing import Any, Final

from nla_gateway.engines.capacity import Capacity, shortfall
from nla_gateway.engines.engine import Engine, EngineLostError
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import RequestError
from nla_gateway.pair.parts import Part
from nla_gateway.pair.proof import ProofError, prove
from nla_gateway.states import EngineState

logger = logging.getLogger(__name__)

STARTING_POLL_S: Final = 0.5
READY_POLL_S: Final = 2.0
ASKED: Final = 8
"""So often, in the time for which it may make none, an engine is asked for progress, which idle it has to compute."""
PROOF_S: Final = 300.0
"""For a self-test, in which kernels may be compiled."""
EXPECTED: Final = (ProofError, RequestError, TimeoutError)
PROVE_AGAIN_S: Final = 30.0
"""After a failed self-test, where nobody ends the engine."""


async def watch(part: Part, engine: Engine, hung_after_s: float) -> None:
    """Keep an engine's state true, for ever. Nothing is sent to an engine that has not passed its self-test.

    Args:
        part: what the engine serves.
        engine: one of its engines.
        hung_after_s: how long it may make no progress.
    """
    pool = part.engines
    while True:
        info = await _wait_until_up(pool, engine, hung_after_s)
        try:
            await _prove_twice(part, engine, info, max(PROOF_S, hung_after_s))
        except EngineLostError:
            continue
        except Exception as error:  # whatever it was, an engine that cannot be tested is not ready
            reason = _reason(error)
            expected = isinstance(error, EXPECTED)
            logger.error("the %s failed its self-test: %s", engine.label, reason, exc_info=None if expected else error)
            pool.set_state(engine, "failed", reason)
            await _doubt_or(PROVE_AGAIN_S, engine)
            continue
        logger.info("the %s passed its self-test", engine.label)
        engine.capacity = Capacity.read(info)
        if (problem := shortfall(engine.label, engine.capacity, part.settings)) is not None:
            logger.warning("%s", problem)
        pool.set_state(engine, "ready")
        what = await _until_lost(engine, hung_after_s)
        logger.warning("the %s is %s", engine.label, "gone" if what == "restarting" else what)
        pool.set_state(engine, what)
        engine.drop_requests()


async def _prove_twice(part: Part, engine: Engine, info: dict[str, Any], limit_s: float) -> None:
    """Run the self-test, and once more where it fails: what is wrong is so twice."""
    for last in (False, True):
        try:
            async with asyncio.timeout(limit_s):
                await prove(part, engine, info)
                await engine.freeze_gc()
                return
        except EXPECTED as error:
            if last:
                raise
            logger.warning("the %s is tested again, for it failed: %s", engine.label, _reason(error))


def _reason(error: Exception) -> str:
    return "it took too long" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


async def _wait_until_up(pool: EnginePool, engine: Engine, hung_after_s: float) -> dict[str, Any]:
    """Wait until it gives its account of itself; one that takes connections and does not is hung."""
    silent_since: float | None = None
    while True:
        try:
            return await engine.server_info()
        except EngineLostError:
            silent_since = None
            if engine.state != "starting":
                pool.set_state(engine, "restarting")
        except TimeoutError:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > hung_after_s:
                pool.set_state(engine, "hung")
        except Exception as error:  # whatever it is, it may come right; should it not, this tells why
            if str(error) != engine.reason:
                logger.warning("the %s cannot be asked what it is: %s", engine.label, error)
                pool.set_state(engine, engine.state, str(error))
        await asyncio.sleep(STARTING_POLL_S)


async def _until_lost(engine: Engine, hung_after_s: float) -> EngineState:
    """Wait until its connections break, or until it has made no progress for so long."""
    progress, failures = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(hung_after_s / 2):
                good = await engine.makes_progress()
            if good:
                progress, failures = time.monotonic(), 0
                await _rest(engine, hung_after_s / ASKED)
                continue
        except EngineLostError:
            return "restarting"
        except TimeoutError:
            logger.debug("the %s has not said in time that it makes progress", engine.label)
        failures += 1
        # Asked twice: after a pause of this process itself, the first answer may have come too late for no fault of it.
        if failures > 1 and time.monotonic() - progress > hung_after_s:
            return "hung"
        await _doubt_or(READY_POLL_S, engine)


async def _rest(engine: Engine, seconds: float) -> None:
    """Ask nothing of an engine that costs it anything, while it is there and no request is lost.

    Raises:
        EngineLostError: it is gone.
    """
    until = time.monotonic() + seconds
    while not await _doubt_or(READY_POLL_S, engine) and time.monotonic() < until:
        try:
            async with asyncio.timeout(READY_POLL_S):
                there = await engine.is_there()
        except TimeoutError:
            return
        if not there:
            return


async def _doubt_or(seconds: float, engine: Engine) -> bool:
    """Sleep for so long, or until a request is lost (True)."""
    try:
        async with asyncio.timeout(seconds):
            await engine.doubted.wait()
    except TimeoutError:
        return False
    engine.doubted.clear()
    return True
