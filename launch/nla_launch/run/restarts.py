"""How often, and after what pause, a child that died is started again. Pure: knows no processes and no clock."""

from collections import deque
from typing import Final

LIMIT: Final = 5
WINDOW_S: Final = 600.0
FIRST_PAUSE_S: Final = 1.0


class Restarts:
    """The restarts of one child: up to 5 in 10 minutes, and up to 5 in a row that come to nothing."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self.in_vain = 0
        """Restarts since the child was last of use."""

    def next_pause(self, now: float) -> float | None:
        """Count one more restart; returns the seconds to wait before it, or None where it is one too many."""
        while self._times and now - self._times[0] > WINDOW_S:
            self._times.popleft()
        if max(len(self._times), self.in_vain) >= LIMIT:
            return None
        self._times.append(now)
        self.in_vain += 1
        return FIRST_PAUSE_S * 2.0 ** (self.count - 1)

    @property
    def count(self) -> int:
        """Restarts that count at the moment."""
        return max(len(self._times), self.in_vain)

    def worked(self) -> None:
        """Note that the child is of use again."""
        self.in_vain = 0
