"""What a child process prints: passed on to the log line by line, the last lines kept."""

import asyncio
import logging
import os
from collections import deque
from typing import Final

from nla_launch.logs import pass_on

logger = logging.getLogger(__name__)

KEPT_LINES: Final = 40
LINE_LIMIT: Final = 2**16


class Output:
    """One child's lines, over all its lives.

    Args:
        label: who it is.
        level: logging level at which its lines are passed on.
        hides: what no log line may show.
    """

    def __init__(self, label: str, level: int = logging.DEBUG, hides: str | None = None) -> None:
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._label, self._level, self._hides = label, level, hides

    async def read(self, pipe: int) -> None:
        """Read a pipe to its end, and close it."""
        stream = asyncio.StreamReader(limit=LINE_LIMIT)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb", buffering=0)
        )
        try:
            while line := await _line(stream):
                text = line.decode(errors="replace").rstrip()
                if self._hides is not None:
                    text = text.replace(self._hides, "***")
                self.last_lines.append(pass_on(logger, self._label, text, self._level))
        finally:
            transport.close()


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the limit, and dropped
        return b"(a line too long to keep)\n"
