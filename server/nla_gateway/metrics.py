"""Prometheus metrics of the gateway; over all gateways, where there are several."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from nla_client.wire import Usage
from nla_gateway.engine import EngineState
from nla_gateway.settings import COUNTERS_VARIABLE


class Metrics:
    """What the gateway counts."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self._requests = Counter("nla_requests", "Requests answered.", ["endpoint", "status"], registry=own)
        self._seconds = Histogram(
            "nla_request_seconds", "Time to the last byte of the answer.", ["endpoint"], registry=own
        )
        self._tokens = Counter("nla_tokens", "Verbalizer tokens.", ["kind"], registry=own)
        self._samples = Counter("nla_samples", "Texts sampled.", ["complete"], registry=own)
        self.queue = Gauge(
            "nla_queue", "Samples and texts accepted and not yet answered.", registry=own, multiprocess_mode="livesum"
        )
        self._ready = Gauge(
            "nla_engine_ready", "1 when the self-test has passed.", ["engine"], registry=own,
            multiprocess_mode="livemin",
        )  # fmt: skip
        self._shown = own
        if COUNTERS_VARIABLE in os.environ:
            self._shown = CollectorRegistry()
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one finished request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def sample(self, usage: Usage, *, complete: bool) -> None:
        """Count one sampled text and its tokens."""
        self._samples.labels(str(complete).lower()).inc()
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)

    def engine_state(self, label: str, state: EngineState) -> None:
        """Note what has become of an engine."""
        self._ready.labels(label).set(state == "ready")

    def text(self) -> bytes:
        """Render everything in Prometheus's text format."""
        return generate_latest(self._shown)
