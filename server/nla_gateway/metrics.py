"""Prometheus metrics of the gateway, in a registry of their own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nla_client.wire import Usage


class Metrics:
    """What the gateway counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("nla_requests", "Requests answered.", ["endpoint", "status"], registry=self._registry)
        self._seconds = Histogram(
            "nla_request_seconds",
            "Time to the last byte of the answer.",
            ["endpoint"],
            registry=self._registry,
        )
        self._tokens = Counter("nla_tokens", "Verbalizer tokens.", ["kind"], registry=self._registry)
        self._samples = Counter("nla_samples", "Texts sampled.", ["complete"], registry=self._registry)
        self.queue = Gauge("nla_queue", "Samples and texts accepted and not yet answered.", registry=self._registry)
        self.ready = Gauge("nla_engine_ready", "1 when the self-test has passed.", ["engine"], registry=self._registry)

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

    def text(self) -> bytes:
        """Render everything in Prometheus's text format."""
        return generate_latest(self._registry)
