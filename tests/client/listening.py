"""A server on a real port that answers `/v1/info` and streams, in threads; it can hold its answers back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from tests.client.conftest import INFO

DELTA = b'event: sample.delta\ndata: {"index": 0, "sample": 0, "text": "a"}\n\n'


class Listening(ThreadingHTTPServer):
    """Counts its connections: all that there were, those that are open, and the most at once."""

    request_queue_size, daemon_threads = 1024, True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.connections: list[Any] = []
        self.open = self.most = self.gone = 0
        self.seconds = 0.0
        """How long an answer takes."""
        self.wanted = 0
        """How many connections there must have been at once before anything is answered."""
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listening

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.append(self.client_address)
            self.server.open += 1
            self.server.most = max(self.server.most, self.server.open)

    def finish(self) -> None:
        with self.server.lock:
            self.server.open -= 1
        super().finish()

    def do_GET(self) -> None:
        while self.server.most < self.server.wanted:
            threading.Event().wait(0.01)
        threading.Event().wait(self.server.seconds)
        body = orjson.dumps(INFO)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Stream for ever, until the client goes."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(f"{len(DELTA):x}\r\n".encode() + DELTA + b"\r\n")
                threading.Event().wait(0.02)
        except OSError:
            self.close_connection = True
            with self.server.lock:
                self.server.gone += 1

    def log_message(self, *_args: object) -> None: ...


@contextmanager
def listening() -> Iterator[Listening]:
    """Serve for the length of the block."""
    with Listening() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
