"""Which signals stop nla-serve."""

import signal


def stopping() -> list[signal.Signals]:
    """SIGINT, SIGTERM and, where the terminal is closed, SIGHUP; but not under nohup, which has that ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    return numbers if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*numbers, signal.SIGHUP]
