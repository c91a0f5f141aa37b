"""A process that ends with the one that started it."""

import ctypes
import os
import signal
from typing import Final

PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel end this process when its parent is gone, even by SIGKILL.

    Args:
        parent: its process id; where that is not the parent any more, the process ends at once.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
