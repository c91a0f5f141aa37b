"""Bars of progress, as the hub's client wants them, that draw nothing: what they are told is for the log."""

from threading import Event
from typing import Any

from tqdm import tqdm


class Stopped(Exception):
    """A fetch was told to stop."""


class Bars:
    """Those of one fetch: of its files, of bytes that came, and of bytes that were written."""

    def __init__(self, stopped: Event | None = None) -> None:
        self.of_bytes = list[Counter]()
        self.stopped = stopped or Event()
        """Set where the next bytes that come are to be the last."""
        self.made = type("Made", (Counter,), {"bars": self})
        """The class to hand to the client."""

    @property
    def received(self) -> float:
        """Bytes that have come."""
        return max([0.0, *(bar.came for bar in self.of_bytes)])


class Counter(tqdm):  # type: ignore[type-arg]
    """A bar that counts alone."""

    bars: Bars

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.came = 0.0
        super().__init__(*arguments, **options | {"disable": True})
        if options.get("unit") == "B":
            self.bars.of_bytes.append(self)

    def update(self, n: float | None = 1) -> None:
        """Count.

        Raises:
            Stopped: nothing more is to come.
        """
        if self.bars.stopped.is_set():
            raise Stopped
        self.came += n or 0
