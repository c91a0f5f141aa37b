"""The one log of all processes: who speaks stands before each line, in text or JSON."""

import logging
from typing import Final

from nla_gateway.telemetry.logs import JsonFormatter, StderrHandler, read_json

FORMATS: Final = ("text", "json")
OURS: Final = "nla-serve"
NOISY: Final = ("httpx", "httpcore", "asyncio", "huggingface_hub", "filelock")


class TextFormatter(logging.Formatter):
    """`TIME WHO | MESSAGE`, for every line of the message; a user's error is one plain line, `nla-serve: MESSAGE`."""

    def format(self, record: logging.LogRecord) -> str:
        """Form the line or lines."""
        message = super().format(record)
        if getattr(record, "plain", False):
            return f"{OURS}: {message}"
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        start = f"{self.formatTime(record, '%H:%M:%S')} {getattr(record, 'who', OURS)} | {level}"
        return "\n".join(start + line for line in message.splitlines() or [""])


def set_up_logs(level: str, form: str) -> None:
    """Send all log records to stderr.

    Args:
        level: least one that is shown.
        form: one of FORMATS.
    """
    formatter = JsonFormatter(OURS) if form == "json" else TextFormatter()
    logging.basicConfig(level=level.upper(), handlers=[StderrHandler(formatter)])
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def drain_logs() -> None:
    """Wait until what was logged is written."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, StderrHandler):
            handler.drain()


def pass_on(logger: logging.Logger, who: str, line: str, level: int) -> str:
    """Log a line of a child's output, which may be a record of its own, and return its message."""
    fields = read_json(line)
    if fields is None:
        logger.log(level, "%s", line, extra={"who": who})
        return line
    message, named = str(fields.pop("message", "")), str(fields.pop("level", "")).upper()
    own = {name: value for name, value in fields.items() if name not in ("time", "who")}
    logger.log(logging.getLevelNamesMapping().get(named, level), "%s", message, extra={"who": who, "fields": own})
    return message
