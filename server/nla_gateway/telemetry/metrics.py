"""Prometheus metrics of the gateway; over all gateways, where there are several."""

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from nla_client.wire import Score, Usage
from nla_gateway.callers import exchange
from nla_gateway.settings import COUNTERS_VARIABLE
from nla_gateway.states import EngineState

M = TypeVar("M", Counter, Histogram)

KINDS: Final = ("prompt", "cached", "completion")

SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
UNEXPLAINED: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 4.0)


class Metrics:
    """What the gateway counts. Names here lack the `_total` that Prometheus shows counters with.

    Args:
        models: names of the pairs.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        own = CollectorRegistry()
        self._requests = Counter("nla_requests", "Requests answered.", ["model", "endpoint", "status"], registry=own)
        self._seconds = Histogram("nla_request_seconds", "Time to the last byte of the answer.",
                                  ["model", "endpoint"],
                                  buckets=SECONDS, registry=own)  # fmt: skip
        self.in_flight = Gauge("nla_requests_in_flight", "Requests not yet answered, but for those that ask how it is.",
                               registry=own, multiprocess_mode="livesum")  # fmt: skip
        self.queue = Gauge("nla_queue", "Samples and texts accepted and not yet answered.",
                           registry=own, multiprocess_mode="livesum")  # fmt: skip
        self._callers = Counter("nla_caller_requests", "Requests for work, by the name of the caller's key.",
                                ["caller", "status"], registry=own)  # fmt: skip
        self._used = Counter("nla_caller_tokens", "Tokens of the engines, by the name of the caller's key.",
                             ["caller", "kind"], registry=own)  # fmt: skip
        self._vectors = Counter(
            "nla_vectors", "Vectors verbalized, rebuilt or scored.", ["model", "endpoint"], registry=own
        )
        self._samples = Counter("nla_samples", "Texts sampled.", ["model", "complete"], registry=own)
        self._tokens = Counter("nla_tokens", "Tokens of the engines; those cached are among the prompt's.",
                               ["model", "engine", "kind"], registry=own)  # fmt: skip
        # Not fve itself: it may be negative, and a sum that falls is no counter. Mean fve is 1 less this one's mean.
        self._unexplained = Histogram("nla_unexplained", "Share of variance unexplained, 1 - fve, of each score.",
                                      ["model"],
                                      buckets=UNEXPLAINED, registry=own)  # fmt: skip
        # Each gateway watches the engines by itself: what they see is not added up.
        self._ready = Gauge("nla_engine_ready", "1 when all gateways have seen the self-test pass.", ["engine"],
                            registry=own, multiprocess_mode="livemin")  # fmt: skip
        self._states = Gauge("nla_engine_state", "1 for the state that a gateway sees the engine in.",
                             ["engine", "state"], registry=own, multiprocess_mode="livemax")  # fmt: skip
        self._restarts = Gauge("nla_engine_restarts", "Times that the engine came back after it was gone.", ["engine"],
                               registry=own, multiprocess_mode="livemax")  # fmt: skip
        self._shown = _of_all_gateways() if COUNTERS_VARIABLE in os.environ else own
        for model in models:  # so that shares of nothing are 0 and not absent
            for complete in ("true", "false"):
                self._samples.labels(model, complete)
            self._unexplained.labels(model)

    def request(self, model: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one finished request, for a pair or, where the model is empty, for none."""
        _of(self._requests, model, endpoint, str(status)).inc()
        _of(self._seconds, model, endpoint).observe(seconds)

    def vectors(self, endpoint: str, count: int) -> None:
        """Count the vectors of one answered request."""
        _of(self._vectors, exchange().model, endpoint).inc(count)

    def sample(self, *, complete: bool) -> None:
        """Count one sampled text."""
        _of(self._samples, exchange().model, str(complete).lower()).inc()

    def tokens(self, engine: str, usage: Usage) -> None:
        """Count what `verbalizer` or `reconstructor` has read and written, and for whom."""
        asked = exchange()
        asked.use(usage)
        for kind in KINDS:
            count = getattr(usage, f"{kind}_tokens")
            _of(self._tokens, asked.model, engine, kind).inc(count)
            if asked.caller.name:
                _of(self._used, asked.caller.name, kind).inc(count)

    def call(self, caller: str, status: int) -> None:
        """Count one request for work that has ended, by the caller's name."""
        _of(self._callers, caller, str(status)).inc()

    def used_by(self, caller: str) -> tuple[int, Usage]:
        """Tell how many requests for work a caller has sent, and what the engines read and wrote for them."""
        found: dict[str, int] = dict.fromkeys(("requests", *KINDS), 0)
        for family in self._shown.collect():
            for sample in family.samples:
                if sample.labels.get("caller") == caller and sample.name.endswith("_total"):
                    found[sample.labels.get("kind", "requests")] += int(sample.value)
        requests = found.pop("requests")
        return requests, Usage(**{f"{kind}_tokens": count for kind, count in found.items()})

    def scores(self, scores: Iterable[Score]) -> None:
        """Count scores that have an fve."""
        for score in scores:
            if score.fve is not None:
                _of(self._unexplained, exchange().model).observe(1 - score.fve)

    def engine_state(self, label: str, state: EngineState) -> None:
        """Note which state an engine is in."""
        for known in get_args(EngineState):
            self._states.labels(label, known).set(known == state)
        self._ready.labels(label).set(state == "ready")
        self._restarts.labels(label)

    def engine_restarted(self, label: str) -> None:
        """Count one return of an engine that was gone."""
        self._restarts.labels(label).inc()

    def text(self) -> bytes:
        """Render everything in Prometheus's text format."""
        return generate_latest(self._shown)


@lru_cache(maxsize=1024)
def _of(metric: M, *labels: str) -> M:
    """Return the metric with these labels; prometheus_client's own look-up costs more than to count."""
    return metric.labels(*labels)


def _of_all_gateways() -> CollectorRegistry:
    """Collect what all gateways have written; what dead ones last said of this moment is forgotten."""
    folder = os.environ[COUNTERS_VARIABLE]
    for gone in {file.stem.rpartition("_")[2] for file in Path(folder).glob("gauge_live*.db")}:
        if not Path("/proc", gone).exists():
            mark_process_dead(gone, folder)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return registry
