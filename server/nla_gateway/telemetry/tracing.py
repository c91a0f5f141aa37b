"""OpenTelemetry traces: one span a request, and below it one for each call of an engine.

Made where an OTLP endpoint is named by OpenTelemetry's own variables and the extra `otel` is installed; elsewhere
its SDK is not imported. All else that those variables set (names, headers, sampling) is left to it.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PACKAGES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.asgi")
SERVICE: Final = "nla-serve"
POLLED: Final = "/health$,/ready$,/metrics$"
"""Polled, every few seconds."""


class Tracing:
    """Makes spans; does nothing without a provider of tracers."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("nla_gateway")

    def trace_requests(self, app: FastAPI) -> None:
        """Add the middleware that makes a span of each request, below the caller's `traceparent`.

        To be added before the edge, so that it stands inside: requests have their ids there and have shown their keys.
        """
        if self._provider is None:
            return
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        app.add_middleware(
            OpenTelemetryMiddleware,
            excluded_urls=POLLED,
            server_request_hook=_name_request,
            tracer_provider=self._provider,
            exclude_spans=["receive", "send"],
        )

    @contextmanager
    def call(self, engine: str, path: str, rid: str) -> Iterator[None]:
        """Make a span of what the block asks of an engine, where that is part of a traced request.

        It is not made the current one: a stream may be ended from elsewhere, where that could not be undone.
        """
        if self._tracer is None or not _in_a_trace():
            yield
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        attributes = {"nla.engine": engine, "nla.rid": rid, "url.path": path}
        span = self._tracer.start_span(f"{engine} {path}", kind=SpanKind.CLIENT, attributes=attributes)
        try:
            yield
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            raise
        finally:
            span.end()

    async def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


UNTRACED: Final = Tracing()


def start_tracing() -> Tracing:
    """Set up tracing as the environment has it."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return UNTRACED
    if not all(_is_installed(package) for package in PACKAGES):
        logger.warning("no traces, though %s is set: pip install 'nla-serve[otel]'", " or ".join(ENDPOINTS))
        return UNTRACED
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _in_a_trace() -> bool:
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context().is_valid


def _name_request(span: "Span", scope: Any) -> None:
    span.set_attribute("nla.request_id", scope["state"]["request_id"])
