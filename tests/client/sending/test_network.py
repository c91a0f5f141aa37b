"""Proxies and certificates of the environment: none bars a server on this machine, and elsewhere each is told."""

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from nla_client import APIConnectionError, AsyncNLAClient, InvalidArgumentError, NLAClient
from nla_client.sending.network import Way, is_direct, is_loopback
from nla_client.synchronous.places import Connections
from tests.client.listening import Listening, listening

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
NOWHERE = "http://127.0.0.1:9"
HARMLESS_HERE: list[dict[str, str]] = [
    {"NO_PROXY": "localhost,[::1]"},
    {"NO_PROXY": "::1,fe80::/10,[fd00::1]:8000", "HTTP_PROXY": NOWHERE},
    {"NO_PROXY": "http://[::1]:8000,[,]:,*.[x]", "HTTP_PROXY": NOWHERE},
    {"ALL_PROXY": "socks5://127.0.0.1:1080"},
    {"ALL_PROXY": "socks5h://[::1]:1080"},
    {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE},
    {"http_proxy": "nonsense://"},
    {"HTTP_PROXY": "http://[broken"},
    {"ALL_PROXY": "http://host:port"},
    {"SSL_CERT_FILE": "/nowhere/ca.pem"},
    {"SSL_CERT_DIR": "/nowhere"},
    {"SSLKEYLOGFILE": "/nowhere/keys"},
    {"SSLKEYLOGFILE": "/"},
]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def served() -> Iterator[Listening]:
    with listening() as server:
        yield server


def set_all(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("environment", HARMLESS_HERE, ids=str)
def test_a_server_on_this_machine_is_reached_whatever_the_environment_says(
    served: Listening, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    set_all(monkeypatch, environment)
    for host in ("127.0.0.1", "localhost", "127.1", "0.0.0.0"):  # noqa: S104 - asked, not listened on
        with NLAClient(f"http://{host}:{served.server_port}", max_retries=0) as nla:
            assert nla.info().layer == 1


@pytest.mark.parametrize("environment", HARMLESS_HERE, ids=str)
def test_so_is_one_by_the_asynchronous_client(
    served: Listening, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    import asyncio

    set_all(monkeypatch, environment)

    async def ask() -> int:
        async with AsyncNLAClient(served.url, max_retries=0) as nla:
            return (await nla.info()).layer

    assert asyncio.run(ask()) == 1


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"ALL_PROXY": "socks5://user:secret@127.0.0.1:1080"}, "ALL_PROXY.*socksio"),
        ({"all_proxy": "socks5h://127.0.0.1:1080"}, "all_proxy.*socksio"),
        ({"ALL_PROXY": "socks4://127.0.0.1:1080"}, "ALL_PROXY.*must look like"),
        ({"HTTPS_PROXY": "http://user:secret@[broken"}, "HTTPS_PROXY"),
        ({"https_proxy": "http://host:port"}, "https_proxy"),
        ({"HTTPS_PROXY": "http://host:70000"}, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://"}, "HTTPS_PROXY"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE=/nowhere/ca.pem: no certificates there: No such file"),
        ({"SSL_CERT_FILE": "/"}, "SSL_CERT_FILE=/: no certificates there"),
        ({"SSL_CERT_FILE": __file__}, "SSL_CERT_FILE=.*no certificates there"),
        ({"SSL_CERT_DIR": "/nowhere"}, "SSL_CERT_DIR=/nowhere: there is no such folder"),
        ({"SSLKEYLOGFILE": "/nowhere/keys"}, "SSLKEYLOGFILE=/nowhere/keys: cannot be written: No such file"),
        ({"SSLKEYLOGFILE": "/"}, "SSLKEYLOGFILE=/: cannot be written"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem", "SSLKEYLOGFILE": "/nowhere/keys"}, "SSL_CERT_FILE"),
    ],
    ids=str,
)
def test_elsewhere_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    set_all(monkeypatch, environment)
    for cls in (NLAClient, AsyncNLAClient):
        with pytest.raises(InvalidArgumentError, match=named) as caught:
            cls("https://nla.example:8443")
        assert "secret" not in str(caught.value)


def test_elsewhere_plain_http_is_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(InvalidArgumentError, match="SSL_CERT_FILE"):
        NLAClient("http://10.0.0.1:8000")


def test_a_transport_of_the_callers_needs_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    NLAClient("https://nla.example", transport=httpx.MockTransport(lambda _: httpx.Response(200)))


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://nla.example:8000", {"HTTP_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("http://nla.example:8000", {"HTTP_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ("https://nla.example", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("https://nla.example", {"ALL_PROXY": "https://proxy:3128"}, "https://proxy:3128"),
        ("http://nla.example", {"HTTP_PROXY": "http://a:1", "http_proxy": "http://b:2"}, "http://b:2"),
        ("http://nla.example", {"ALL_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "http://b:2"),
        ("http://nla.example", {"ALL_PROXY": "http://a:1", "NO_PROXY": "example"}, None),
        ("http://[fd00::1]:8000", {"ALL_PROXY": "http://a:1", "NO_PROXY": "[fd00::1]"}, None),
        ("http://[::1]:8000", {"ALL_PROXY": "http://a:1"}, None),
        ("http://[::1]:8000", {"ALL_PROXY": "socks5://a:1", "NO_PROXY": ""}, None),
        ("http://nla.localhost", {"ALL_PROXY": "http://a:1"}, None),
        ("http://LOCALHOST.:8000", {"ALL_PROXY": "http://a:1"}, None),
        ("http://[::ffff:127.0.0.1]", {"ALL_PROXY": "http://a:1"}, None),
    ],
)
def test_which_proxy_is_taken(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], proxy: str | None
) -> None:
    set_all(monkeypatch, environment)
    way = Way.to(httpx.URL(url))
    assert (str(way.proxy.url) if way.proxy else None) == proxy
    Connections.along(way).close()


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("127.9.8.7", True),
        ("::1", True),
        ("0.0.0.0", True),  # noqa: S104
        ("::", True),
        ("2130706433", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("notlocalhost", False),
        ("127.0.0.1.example", False),
        ("fe80::1", False),
        ("ключ", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) == here


@pytest.mark.parametrize(
    ("entries", "host", "direct"),
    [
        ("*", "a.example", True),
        ("example", "a.example", True),
        (".example", "a.example", True),
        ("*.example", "a.example", True),
        ("EXAMPLE", "a.example.", True),
        ("b.example, a.example", "a.example", True),
        ("b.example a.example", "a.example", True),
        ("ample", "a.example", False),
        ("a.example:8000", "a.example", True),
        ("a.example:9000", "a.example", False),
        ("https://a.example", "a.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3:8000", "10.1.2.3", True),
        ("fd00::/8", "fd00::5", True),
        ("[fd00::5]", "fd00::5", True),
        ("[fd00::5]:8000", "fd00::5", True),
        ("[fd00::5]:9000", "fd00::5", False),
        ("fd00:0:0::5", "fd00::5", True),
        ("[::1", "fd00::5", False),
        ("", "a.example", False),
        (",, ,", "a.example", False),
    ],
)
def test_what_no_proxy_leaves_out(entries: str, host: str, direct: bool) -> None:
    assert is_direct(host, 8000, entries) == direct


def test_https_here_needs_its_authority_and_no_key_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    for keys in ("", "/nowhere/keys"):
        monkeypatch.setenv("SSLKEYLOGFILE", keys)
        with listening() as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            with NLAClient(f"https://127.0.0.1:{server.server_port}", max_retries=0) as nla:
                assert nla.info().layer == 1
            monkeypatch.setenv("SSL_CERT_FILE", "")
            with (
                NLAClient(f"https://127.0.0.1:{server.server_port}", max_retries=0) as nla,
                pytest.raises(APIConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
            ):
                nla.info()
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@pytest.mark.parametrize("environment", [{"NO_PROXY": "[::1]"}, {"ALL_PROXY": "socks5://127.0.0.1:1"}], ids=str)
def test_so_does_the_command(served: Listening, environment: dict[str, str]) -> None:
    import os

    command = [sys.executable, "-m", "nla_data", "info", "--url", served.url]
    done: Any = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    assert (done.returncode, done.stderr) == (0, "")
