"""What ends a run early.

DataError
├─ UsageError    the input, the output or the settings are wrong: running it again changes nothing
└─ StoppedError  it cannot go on now: the same command goes on where it was
"""


class DataError(Exception):
    """Base of what ends a run; its text is one line that names the cause and the mend."""


class UsageError(DataError):
    """The input, the output or the settings are wrong."""


class StoppedError(DataError):
    """The run cannot go on now. What is done is kept, and the same command goes on from there."""
