"""A hook on waiting, in the process that shares requests out over an engine's replicas: it sleeps while there are none.

SGLang's own asks again and again, which takes a whole core; on a CPU that is one that computes.
"""

from collections.abc import Callable
from typing import Any, Final

IDLE_MS: Final = 50
"""After so long it looks around, whether anything came or not: SGLang's watchdog wants to see it alive."""


def wait_for_a_request(original: Callable[..., Any], socket: Any, *args: Any, **kwargs: Any) -> Any:
    """Receive a request as SGLang does, once there is one, or after a while.

    Raises:
        zmq.ZMQError: there is none.
    """
    socket.poll(IDLE_MS)
    return original(socket, *args, **kwargs)
