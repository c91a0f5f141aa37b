"""Spans of real requests, as a collector gets them over OTLP."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nla_gateway.settings import Settings
from tests.gateway.process import start
from tests.plain import LONG, encode

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
CALLER: Final = "b7ad6b7169203331"
START_S: Final = 60.0


class Collector(ThreadingHTTPServer):
    """Keeps what is exported to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.exports: list[ExportTraceServiceRequest] = []

    def spans(self) -> list[Span]:
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class CollectorHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        self.server.exports.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


@contextmanager
def traced_gateway(settings: Settings, collector: Collector) -> Iterator[httpx.Client]:
    """One more gateway before the toy pair's engines, told to export; all spans are out when the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        exporter = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        process = start(settings, listener, **exporter)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            deadline = time.monotonic() + START_S
            while client.get("/ready").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def attributes(span: Span) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}


def test_a_request_and_its_engine_calls(toy_settings: Settings, toy_vectors: NDArray[np.float32]) -> None:
    body = {"vectors": [encode(vector) for vector in toy_vectors[:3]], "dtype": "float32", "score": True}
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "mine"}
    with collecting() as collector:
        with traced_gateway(toy_settings, collector) as client:
            assert client.post("/verbalize", json=body, headers=headers).status_code == 200
            assert client.get("/metrics").status_code == 200
            assert client.post("/reconstruct", json={"texts": [1]}).status_code == 400
        spans = collector.spans()
    service = collector.exports[0].resource_spans[0].resource.attributes
    assert "nla-serve" in [pair.value.string_value for pair in service if pair.key == "service.name"]

    # Of the polling, the self-tests and /metrics there are none.
    traced = [span for span in spans if span.trace_id.hex() == TRACE]
    (refused,) = [span for span in spans if span not in traced]
    assert (refused.name, refused.parent_span_id) == ("POST /reconstruct", b"")

    (request,) = [span for span in traced if span.parent_span_id.hex() == CALLER]
    assert (request.name, request.kind) == ("POST /verbalize", Span.SPAN_KIND_SERVER)
    assert attributes(request)["nla.request_id"] == "mine"
    calls = [span for span in traced if span is not request]
    assert sorted(span.name for span in calls) == ["reconstructor /v1/embeddings"] * 3 + ["verbalizer /generate"] * 3
    for call in calls:
        assert (call.parent_span_id, call.kind) == (request.span_id, Span.SPAN_KIND_CLIENT)
        assert ".mine." in attributes(call)["nla.rid"]
        assert request.start_time_unix_nano <= call.start_time_unix_nano < call.end_time_unix_nano
        assert call.status.code == Status.STATUS_CODE_UNSET
    assert len({attributes(call)["nla.rid"] for call in calls}) == 6


def nanoseconds(span: Span) -> int:
    return span.end_time_unix_nano - span.start_time_unix_nano


def test_a_stream_is_traced_to_its_end(toy_settings: Settings, toy_vectors: NDArray[np.float32]) -> None:
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "stream": True}
    with collecting() as collector:
        with traced_gateway(toy_settings, collector) as client:
            client.post("/verbalize", json={**body, **LONG, "max_tokens": 100})
            with client.stream("POST", "/verbalize", json={**body, **LONG}) as reply:
                next(reply.iter_bytes())
        spans = collector.spans()
    calls = [span for span in spans if span.name == "verbalizer /generate"]
    ended, left = sorted(calls, key=lambda span: span.start_time_unix_nano)
    (request,) = [span for span in spans if span.span_id == ended.parent_span_id]
    assert 0.5 * nanoseconds(request) < nanoseconds(ended) <= nanoseconds(request)
    assert ended.status.code == Status.STATUS_CODE_UNSET
    assert left.status.code == Status.STATUS_CODE_ERROR
