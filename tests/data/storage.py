"""An object storage on this machine that speaks S3, of which single requests can be made to hang."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

DRIP_S = 0.2
"""A client gives up on a server that sends nothing, so that what hangs sends a byte now and then."""


@dataclass
class Storage:
    """One, and the requests that came, such as "PUT /bucket/key?query"; those that hang get no answer."""

    endpoint: str = ""
    """Host and port."""
    hangs: Callable[[str, Sequence[str]], bool] = lambda _request, _before: False
    """Whether one does; is given it, and all that came before."""
    seen: list[str] = field(default_factory=list)
    hung: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _app: Any = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        hangs = self.hangs(request, self.seen)
        self.seen.append(request)
        return self._drip(start_response) if hangs else self._app(environ, start_response)

    def _drip(self, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "application/xml")])
        self.hung.set()
        while not self._over.wait(DRIP_S):
            yield b" "

    def restart(self, hangs: Callable[[str, Sequence[str]], bool]) -> None:
        """Let requests hang from now on; none has come."""
        self.hangs, self.seen, self.hung, self._over = hangs, [], threading.Event(), threading.Event()

    def recover(self) -> None:
        """Nothing hangs any more; what has hung is never done."""
        self.hangs = lambda _request, _before: False
        self._over.set()


@contextmanager
def served() -> Iterator[Storage]:
    """Serve one for the length of the block."""
    storage = Storage()
    server = make_server("127.0.0.1", 0, storage, threaded=True, request_handler=MotoRequestHandler)
    storage.endpoint = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield storage
    finally:
        storage.recover()
        server.shutdown()
        thread.join()
        server.server_close()
