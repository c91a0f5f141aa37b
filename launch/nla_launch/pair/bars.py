"""Bars of progress, as the hub's client wants them, that draw nothing: what they are told is for the log."""

from typing import Any

from tqdm import tqdm


class Bars:
    """Those of one fetch: of its files, of bytes that came, and of bytes that were written."""

    def __init__(self) -> None:
        self._of_bytes = list[Counter]()
        self.made = type("Made", (Counter,), {"told": self._of_bytes})
        """The class to hand to the client."""

    @property
    def received(self) -> float:
        """Bytes that have come."""
        return max([0.0, *(bar.came for bar in self._of_bytes)])


class Counter(tqdm):  # type: ignore[type-arg]
    """A bar that counts alone."""

    told: "list[Counter]"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.came = 0.0
        super().__init__(*arguments, **options | {"disable": True})
        if options.get("unit") == "B":
            self.told.append(self)

    def update(self, n: float | None = 1) -> None:
        """Count."""
        self.came += n or 0
