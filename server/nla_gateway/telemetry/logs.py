"""Log lines, and a way to write them on which nobody who logs ever waits for whoever reads the log."""

import json
import logging
import os
import queue
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from typing import Any, Final

STDERR: Final = 2
MOST_LINES: Final = 4096
"""Lines that may wait to be written; more are dropped, and counted."""
GATHER_S: Final = 0.02
"""How long lines are gathered to be written together: a thread that wakes up for each slows all others down."""
FLUSH_S: Final = 2.0
"""How long the end of the process waits for the last lines to be written."""


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (ISO 8601, UTC), level, who, message, and the record's own `fields`.

    Args:
        who: speaks where the record does not say.
    """

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        """Form the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "who": getattr(record, "who", self._who),
            "message": super().format(record),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line)


def read_json(line: str) -> dict[str, Any] | None:
    """Read a line of JsonFormatter's; None for any other."""
    if not line.startswith('{"time": '):
        return None
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return fields


class StderrHandler(QueueHandler):
    """Writes to stderr from a thread of its own. A reader that stalls costs lines, never time."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._lines: queue.Queue[str | threading.Event | None] = queue.Queue(MOST_LINES)
        super().__init__(self._lines)
        self.setFormatter(formatter)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> str:
        """Format at once: what a record refers to may change."""
        return self.format(record)

    def enqueue(self, line: str) -> None:  # type: ignore[override]
        """Leave a line to the thread, or drop it."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def drain(self) -> None:
        """Wait until what was logged is written, for as long as that takes no time to speak of."""
        written = threading.Event()
        with suppress(queue.Full):
            self._lines.put(written, timeout=FLUSH_S)
            written.wait(FLUSH_S)

    def close(self) -> None:
        """Write what is left, for as long as that takes no time to speak of."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_S)
            self._thread.join(FLUSH_S)
        super().close()

    def _write_all(self) -> None:
        reported, goes_on = 0, True
        while goes_on:
            lines = [self._lines.get()]
            time.sleep(GATHER_S)
            lines += [self._lines.get_nowait() for _ in range(self._lines.qsize())]
            goes_on = None not in lines
            _write("\n".join(line for line in lines if isinstance(line, str)))
            for asked in lines:
                if isinstance(asked, threading.Event):
                    asked.set()
            if lost := self._dropped - reported:
                reported += lost
                message = f"{lost} log lines were lost here: nobody read them in time"
                record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None)
                _write(self.format(record))


def _write(line: str) -> None:
    if not line:
        return
    # Not sys.stderr: its lock, held by a write that nobody reads, would keep the process from ending.
    data = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError):  # nobody is there to read, or to tell
        while data:
            data = data[os.write(STDERR, data) :]
