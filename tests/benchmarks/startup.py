"""Start-up by phase, read from the log of a stack that was started with --log-level debug."""

import re
from datetime import datetime, timedelta
from typing import Final

from tests.benchmarks.figures import Figure
from tests.stack import Stack

LINE: Final = re.compile(r"^(\d\d:\d\d:\d\d) ([\w -]+) \| (.*)$", re.MULTILINE)
PHASES: Final = (
    ("imports", r"server_args=|Attention backend|Load weight begin"),
    ("processes and tokenizer", r"Load weight begin"),
    ("weights", r"Load weight end"),
    ("KV pool and HTTP", r"Application startup complete|fired up|Uvicorn running"),
)
"""Each phase with the engine's line that ends it."""


def measure(stack: Stack) -> list[Figure]:
    """Seconds of each phase of each engine, in order."""
    lines = [(datetime.strptime(when, "%H:%M:%S"), who, what) for when, who, what in LINE.findall(stack.log_text())]
    figures = []
    for engine in ("verbalizer", "reconstructor"):
        last = next(when for when, who, what in lines if who == "nla-serve" and what == f"{engine}: starting")
        own = [(when, what) for when, who, what in lines if who == engine]
        ready = next(when for when, who, what in lines if who == "nla-serve" and what.startswith(f"{engine}: ready"))
        for phase, pattern in PHASES:
            end = next((when for when, what in own if re.search(pattern, what)), last)
            figures.append(Figure(f"start of the {engine}: {phase}", [_seconds(end - last)], "s"))
            last = max(last, end)
        figures.append(Figure(f"start of the {engine}: self-test", [_seconds(ready - last)], "s"))
    return figures


def _seconds(span: timedelta) -> float:
    return span.total_seconds() % 86400
