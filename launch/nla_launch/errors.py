"""What ends `nla-serve`, with the exit code that goes with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class LaunchError(Exception):
    """Wrong usage or a wrong checkpoint; the text is the one line that the user sees."""

    exit_code: ClassVar[int] = 2


class ServiceError(LaunchError):
    """The service failed: an engine could not start, died, or failed its self-test."""

    exit_code = 1


class PlanError(LaunchError):
    """A plan that cannot work on these GPUs; the text is the cause, and advice.py adds what would work."""


@contextmanager
def naming(prefix: str) -> Iterator[None]:
    """Have errors begin with what they are of."""
    try:
        yield
    except LaunchError as error:
        error.args = (f"{prefix}{error}",)
        raise
