"""The way to a server: which proxy, which certificates. From the URL and the environment; it opens no connection.

All that httpx would read of the environment by itself is read here instead: a server on this machine is reached
whatever the environment says, and for any other each variable that is wrong is named.
"""

import importlib.util
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote
from urllib.request import getproxies, getproxies_environment, proxy_bypass

import certifi
import httpx

from nla_client.errors import InvalidArgumentError
from nla_client.sending.idle import IDLE_S

_LOCAL_NAMES: Final = frozenset(
    {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
)
_PROXY_SCHEMES: Final = ("http", "https", "socks5", "socks5h")
LIMITS: Final = httpx.Limits(keepalive_expiry=IDLE_S)
"""Of one connection."""
_PORTS: Final = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a server.

    Attributes:
        tls: Whom to trust; without any authority where nothing is encrypted.
        proxy: What to go through; None to go straight.
    """

    tls: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    proxy: httpx.Proxy | None = None

    @classmethod
    def to(cls, url: httpx.URL) -> "Way":
        """Find the way to a URL.

        Raises:
            InvalidArgumentError: a variable of the environment that the way depends on makes no sense.
        """
        host = url.host.rstrip(".")
        if is_loopback(host):
            return cls(_tls(may_log=False)) if url.scheme == "https" else cls()
        tls = _tls(may_log=True)
        return cls(tls, _proxy(url.scheme, host, url.port or _PORTS[url.scheme], tls))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, as far as its name tells."""
    name = host.lower()
    address = _address(name)
    if address is None:
        return name in _LOCAL_NAMES or name.endswith(".localhost")
    return address.is_loopback or address.is_unspecified  # what is sent to 0.0.0.0 stays here, too


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # short forms, such as 127.1
        except (OSError, UnicodeEncodeError):
            return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _tls(*, may_log: bool) -> ssl.SSLContext:
    """Trust whom SSL_CERT_FILE or SSL_CERT_DIR names, else the usual authorities."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
    if folder and not file and not any(Path(one).is_dir() for one in folder.split(os.pathsep)):
        raise InvalidArgumentError(f"SSL_CERT_DIR={folder}: there is no such folder")
    trusted = (None, folder) if folder and not file else (file or certifi.where(), None)
    try:
        return ssl.create_default_context(cafile=trusted[0], capath=trusted[1])
    except OSError as error:
        failure = error
    # Which of two variables was at fault: this does all of it but log keys.
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        plain.load_verify_locations(*trusted)
    except OSError as error:
        raise InvalidArgumentError(f"{name}={file or folder}: no certificates there: {_why(error)}") from error
    if may_log:
        log = os.environ.get("SSLKEYLOGFILE")
        raise InvalidArgumentError(f"SSLKEYLOGFILE={log}: cannot be written: {_why(failure)}") from failure
    return plain


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _proxy(scheme: str, host: str, port: int, tls: ssl.SSLContext) -> httpx.Proxy | None:
    known = getproxies()  # of the environment, or where that has none of the system
    given = known.get(scheme) or known.get("all")
    if not given or is_direct(host, port, known.get("no", "")):
        return None
    if not getproxies_environment() and proxy_bypass(host):
        return None
    name = _variable(scheme if known.get(scheme) else "all")
    wrong = f"{name} names no proxy that can be used to reach {host}"  # never the proxy itself: it may hold a password
    try:
        url = httpx.URL(given if "://" in given else f"http://{given}")
    except httpx.InvalidURL as error:
        raise InvalidArgumentError(f"{wrong}: {error}") from error
    if url.scheme not in _PROXY_SCHEMES or not url.host or "[" in unquote(url.host) or (url.port or 0) > 65535:
        raise InvalidArgumentError(f"{wrong}: it must look like http://host:3128, or begin with https:// or socks5://")
    if url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise InvalidArgumentError(f"{wrong}: for {url.scheme} the package socksio is missing: pip install socksio")
    return httpx.Proxy(url, ssl_context=tls if url.scheme == "https" else None)


def _variable(scheme: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), "the system's settings")


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY leaves a host out: by name with all below it, by address, network or port; `*` is all."""
    name = host.lower().rstrip(".")
    return any(_names(entry, name, port) for entry in no_proxy.replace(",", " ").split())


def _names(entry: str, host: str, port: int) -> bool:
    entry = entry.lower().rpartition("://")[2]
    has_port = entry.count(":") == 1 or "]:" in entry
    name, _, wanted = entry.rpartition(":") if has_port else (entry, "", "")
    if wanted and wanted != str(port):
        return False
    name = name.replace("[", "").replace("]", "")
    address = _address(host)
    if name == "*" or address is None:
        suffix = name.lstrip("*").strip(".")
        return name == "*" or (bool(suffix) and (host == suffix or host.endswith(f".{suffix}")))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
