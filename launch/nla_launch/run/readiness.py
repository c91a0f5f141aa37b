"""What the gateways say of the engines, taken together: an engine is ready when it is for all of them."""

from dataclasses import dataclass
from typing import Final

import httpx

BEST_TO_WORST: Final = ("ready", "starting", "restarting", "hung", "failed")


@dataclass(frozen=True)
class EngineReport:
    """One engine's state, and why it failed."""

    label: str
    state: str
    reason: str | None
    given_up: bool
    """Whether all gateways say that it fails or hangs: one that others use is left alone."""


class Readiness:
    """The engines' last known states.

    Args:
        urls: each gateway's `/ready`.
    """

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._known: dict[str, EngineReport] = {}
        self.answered = False
        """Whether the last time all gateways answered."""
        self.all_ready = False
        """Whether, by the last answer, all gateways can serve all calls."""

    async def changes(self, http: httpx.AsyncClient) -> list[EngineReport]:
        """Ask the gateways, and return the engines whose state is another than before; none while one is silent."""
        if not self._urls:
            return []
        try:
            answers = [(await http.get(url)).json() for url in self._urls]
            reports = [
                _worst(label, [answer["engines"][label] for answer in answers]) for label in answers[0]["engines"]
            ]
            self.all_ready = all(answer["ready"] for answer in answers)
        except (httpx.HTTPError, ValueError, KeyError):
            self.answered = False
            return []
        self.answered = True
        changed = [report for report in reports if self._differs(report)]
        self._known = {report.label: report for report in reports}
        return changed

    def waiting(self, engines: list[str]) -> list[str]:
        """Return those of the engines that are not ready."""
        known = dict.fromkeys([*engines, *self._known]) if self._urls else {}
        return [label for label in known if self._state(label) != "ready"]

    def _differs(self, report: EngineReport) -> bool:
        known = self._known.get(report.label)
        return known is None or (known.state, known.given_up) != (report.state, report.given_up)

    def _state(self, label: str) -> str | None:
        return self._known[label].state if label in self._known else None


def _worst(label: str, states: list[dict[str, str | None]]) -> EngineReport:
    worst = max(states, key=lambda engine: BEST_TO_WORST.index(str(engine["state"])))
    given_up = all(engine["state"] in ("failed", "hung") for engine in states)
    return EngineReport(label, str(worst["state"]), worst["reason"], given_up)
