"""A hook on stopping: an engine that is told to end begins at once. SGLang's own looks for a SIGTERM every 5 s."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

LOOK_S: Final = 0.1


async def stop_at_once(original: Callable[[Any], Awaitable[None]], manager: Any) -> None:
    """Wait for a SIGTERM, then end the engine's processes in order, as SGLang does."""
    while not manager.gracefully_exit:  # noqa: ASYNC110 - a plain flag, that SGLang's handler of the signal sets
        await asyncio.sleep(LOOK_S)
    await original(manager)
