"""A small hub for the hub's real client: repositories are folders, commits are made of what is in them.

It answers the paths that huggingface_hub asks: what a revision is, a commit's files, and the files themselves, behind a
redirect, with ETags and ranges. It can be told to refuse, to be too busy, and to break off.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from nla_launch.pair.hub import resolved
from tests.plain import wait_for

REPOSITORY: Final = r"(?P<repository>[\w.-]+/[\w.-]+)"
INFO: Final = re.compile(rf"/api/models/{REPOSITORY}(?:/revision/(?P<revision>[^/]+))?")
TREE: Final = re.compile(rf"/api/models/{REPOSITORY}/tree/(?P<revision>[^/]+)/?")
RESOLVE: Final = re.compile(rf"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
STORED: Final = re.compile(rf"/stored/{REPOSITORY}/(?P<file>.+)")
LARGE: Final = (".safetensors", ".bin")
"""Files that a real hub keeps elsewhere, and names by their SHA-256."""
PIECE: Final = 64 * 1024
"""What is sent at once."""
CHUNK: Final = 4096
"""What the client takes at once, and loses of a sending that breaks off."""


@dataclass
class Hub:
    """What it has, what it was asked for, and what it is to do wrong."""

    repositories: dict[str, Path]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Methods and paths, in turn."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of each file that were sent."""
    tags: dict[str, str] = field(default_factory=dict)
    """Names of commits."""
    refused: int | None = None
    """The status that all questions about repositories get."""
    gated: set[str] = field(default_factory=set)
    """Repositories whose files are not given."""
    busy: dict[str, int] = field(default_factory=dict)
    """How often files that end so are refused with 429."""
    unwell: dict[str, int] = field(default_factory=dict)
    """How often it says 503 of them."""
    cuts: dict[str, int] = field(default_factory=dict)
    """How often the sending of files that end so breaks off half way."""
    bytes_a_second: float | None = None
    meanwhile: Callable[[], bool] | None = None
    """What comes true before large files are sent: the hub waits for it."""

    def commit(self, repository: str) -> str:
        """Name the commit of what is there now."""
        told = hashlib.sha1(usedforsecurity=False)
        for path in self.files(repository):
            told.update(str(path).encode() + (self.repositories[repository] / path).read_bytes())
        return told.hexdigest()

    def came(self, repository: str) -> set[str]:
        """Name a repository's files of which bytes were sent."""
        return {name.removeprefix(f"{repository}/") for name in self.sent if name.startswith(f"{repository}/")}

    def files(self, repository: str) -> list[Path]:
        """List a repository's files."""
        root = self.repositories[repository]
        return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())

    def weights(self, repository: str) -> set[str]:
        """Name those of weights."""
        return set(filter(_is_large, self.came(repository)))

    def takes(self, store: dict[str, int], name: str) -> bool:
        """Whether it is one of those times; counts them."""
        for ending, count in store.items():
            if name.endswith(ending) and count:
                store[ending] = count - 1
                return True
        return False


@contextmanager
def running(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Run a hub."""
    hub = Hub(repositories)
    handler = type("Bound", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def at_hand(repositories: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub for the client of this process, which keeps what it fetches in a folder of its own."""
    constants, address = huggingface_hub.constants, "/{repo_id}/resolve/{revision}/{filename}"
    with running(repositories) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + address)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        resolved.cache_clear()
        yield hub
    resolved.cache_clear()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        for pattern, answer in ((TREE, self._tree), (INFO, self._info), (RESOLVE, self._resolve), (STORED, self._send)):
            match = pattern.fullmatch(path)
            if match is not None:
                if self.hub.refused is not None and path.startswith("/api/"):
                    self._refuse(self.hub.refused, None)
                elif match["repository"] not in self.hub.repositories:
                    self._refuse(404, "RepoNotFound")
                else:
                    answer(match.groupdict(), body=body)
                return
        self._refuse(404, "EntryNotFound")

    def _info(self, asked: dict[str, str], *, body: bool) -> None:
        if not self._is_known(asked):
            return self._refuse(404, "RevisionNotFound")
        name = asked["repository"]
        siblings = [{"rfilename": str(path)} for path in self.hub.files(name)]
        return self._json({"id": name, "modelId": name, "sha": self.hub.commit(name), "siblings": siblings}, body=body)

    def _tree(self, asked: dict[str, str], *, body: bool) -> None:
        if not self._is_known(asked):
            return self._refuse(404, "RevisionNotFound")
        root = self.hub.repositories[asked["repository"]]
        return self._json([_entry(root, path) for path in self.hub.files(asked["repository"])], body=body)

    def _resolve(self, asked: dict[str, str], *, body: bool) -> None:
        name = f"{asked['repository']}/{asked['file']}"
        file = self.hub.repositories[asked["repository"]] / asked["file"]
        if asked["repository"] in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        if not self._is_known(asked):
            return self._refuse(404, "RevisionNotFound")
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        facts = {"x-repo-commit": self.hub.commit(asked["repository"]), "etag": f'"{_etag(file)}"'}
        if not _is_large(name):
            return self._send(asked, body=body, facts=facts)
        size = str(file.stat().st_size)
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as a real hub has
        linked = {"x-linked-etag": f'"{_etag(file)}"', "x-linked-size": size, "location": f"{elsewhere}/stored/{name}"}
        return self._refuse(302, None, facts | linked)

    def _send(self, asked: dict[str, str], *, body: bool, facts: dict[str, str] | None = None) -> None:
        name, content = f"{asked['repository']}/{asked['file']}", self._content(asked)
        if body and self.hub.takes(self.hub.busy, name):
            self._refuse(429, None, {"retry-after": "1"})
        elif body and self.hub.takes(self.hub.unwell, name):
            self._refuse(503, None)
        else:
            self._give(name, content, facts or {}, body=body)

    def _give(self, name: str, content: bytes, facts: dict[str, str], *, body: bool) -> None:
        begun = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        first = int(begun[1]) if begun else 0
        self.send_response(206 if begun else 200)
        for key, value in facts.items():
            self.send_header(key, value)
        if begun:
            self.send_header("content-range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("content-length", str(len(content) - first))
        self.end_headers()
        if body:
            self._write(name, content[first:], cut=self.hub.takes(self.hub.cuts, name))

    def _write(self, name: str, content: bytes, *, cut: bool) -> None:
        last = len(content) // 2 if cut else len(content)
        if self.hub.meanwhile is not None and _is_large(name):
            wait_for(self.hub.meanwhile, 120)
        for start in range(0, last, PIECE):
            piece = content[start : min(start + PIECE, last)]
            try:
                self.wfile.write(piece)
            except OSError:  # who asked is gone
                self.close_connection = True
                return
            self.hub.sent[name] = self.hub.sent.get(name, 0) + len(piece)
            if self.hub.bytes_a_second is not None and _is_large(name):
                time.sleep(len(piece) / self.hub.bytes_a_second)
        self.close_connection |= cut

    def _content(self, asked: dict[str, str]) -> bytes:
        return (self.hub.repositories[asked["repository"]] / asked["file"]).read_bytes()

    def _is_known(self, asked: dict[str, str]) -> bool:
        commit = self.hub.commit(asked["repository"])
        return self.hub.tags.get(str(asked["revision"]), asked["revision"]) in (None, "main", commit)

    def _json(self, answer: Any, *, body: bool) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _refuse(self, status: int, code: str | None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if code is not None:
            self.send_header("x-error-code", code)
        self.send_header("content-length", "0")
        self.end_headers()


def _entry(root: Path, path: Path) -> dict[str, Any]:
    size, etag = (root / path).stat().st_size, _etag(root / path)
    kept = {"lfs": {"oid": etag, "size": size, "pointerSize": 134}} if _is_large(str(path)) else {}
    return {"type": "file", "path": str(path), "size": size, "oid": etag, **kept}


def _etag(file: Path) -> str:
    content = file.read_bytes()
    if _is_large(file.name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith(LARGE)
