"""An engine's states over its life: waited for, proved, watched, and proved again after each restart."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from nla_gateway.engine import Engine, EngineLostError, EngineState
from nla_gateway.errors import RequestError
from nla_gateway.proof import ProofError, prove
from nla_gateway.reconstructor import Reconstructor
from nla_gateway.verbalizer import Verbalizer

logger = logging.getLogger(__name__)

STARTING_POLL_S: Final = 0.5
READY_POLL_S: Final = 2.0


async def watch(part: Verbalizer | Reconstructor, engine: Engine, hung_after_s: float) -> None:
    """Keep an engine's state true, for ever. Nothing is sent to an engine that has not passed its self-test.

    Args:
        part: what the engine serves.
        engine: one of its engines.
        hung_after_s: how long it may make no progress.
    """
    pool = part.engines
    while True:
        info = await _wait_until_up(engine, lambda state: pool.set_state(engine, state))
        try:
            await prove(part, engine, info)
        except EngineLostError:
            continue
        except Exception as error:  # whatever it was, an engine that cannot be tested is not ready
            expected = isinstance(error, ProofError | RequestError)
            logger.error("the %s failed its self-test: %s", engine.label, error, exc_info=None if expected else error)
            pool.set_state(engine, "failed", str(error) or type(error).__name__)
        else:
            logger.info("the %s passed its self-test", engine.label)
            pool.set_state(engine, "ready")
        what = await _until_lost(engine, hung_after_s)
        logger.warning("the %s is %s", engine.label, "gone" if what == "restarting" else what)
        pool.set_state(engine, what)
        engine.drop_requests()


async def _wait_until_up(engine: Engine, set_state: Callable[[EngineState], None]) -> dict[str, Any]:
    while True:
        try:
            return await engine.server_info()
        except EngineLostError:
            if engine.state != "starting":
                set_state("restarting")
        except Exception:  # not there yet, whatever it says; should it never be, its death will tell
            logger.debug("the %s gives no information yet", engine.label)
        await asyncio.sleep(STARTING_POLL_S)


async def _until_lost(engine: Engine, hung_after_s: float) -> EngineState:
    """Wait until its connections break, or until it has made no progress for so long."""
    progress = time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(hung_after_s):
                if await engine.makes_progress():
                    progress = asked
        except EngineLostError:
            return "restarting"
        except (TimeoutError, RequestError):
            return "hung"
        if time.monotonic() - progress > hung_after_s:
            return "hung"
        await _doubt_or(READY_POLL_S, engine)


async def _doubt_or(seconds: float, engine: Engine) -> None:
    """Sleep for so long, or until a request is lost."""
    try:
        async with asyncio.timeout(seconds):
            await engine.doubted.wait()
    except TimeoutError:
        return
    engine.doubted.clear()
