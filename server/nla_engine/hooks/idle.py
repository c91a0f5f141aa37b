"""A hook on waiting, in the process that shares requests out over an engine's replicas: it sleeps while there are none.

SGLang's own asks again and again, which takes a whole core; on a CPU that is one that computes.
"""

from collections.abc import Callable
from typing import Any, Final

IDLE_MS: Final = 50
"""After so long it looks around, whether anything came or not: SGLang's watchdog wants to see it alive."""


def sleep_between_requests(original: Callable[..., Any], controller: Any) -> Any:
    """Share requests out as SGLang does, from a socket on which looking for one takes a while.

    Its function that receives is not hooked: the schedulers look with the same one, between any two tokens.
    """
    controller.recv_from_tokenizer = PatientSocket(controller.recv_from_tokenizer)
    return original(controller)


class PatientSocket:
    """A ZeroMQ socket that is asked once there is something, or after a while."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def recv(self, *args: Any, **kwargs: Any) -> Any:
        """Receive bytes.

        Raises:
            zmq.ZMQError: there are none.
        """
        self._socket.poll(IDLE_MS)
        return self._socket.recv(*args, **kwargs)

    def recv_pyobj(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a pickled object.

        Raises:
            zmq.ZMQError: there is none.
        """
        self._socket.poll(IDLE_MS)
        return self._socket.recv_pyobj(*args, **kwargs)
