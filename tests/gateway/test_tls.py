"""https, with a certificate of an authority of one's own, between the real gateway and the clients."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from nla_client import APIConnectionError, AsyncNLACritic, NLACritic
from nla_gateway.limits import GatewayLimits
from nla_gateway.settings import Tls
from tests.gateway.process import Running, gateway


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    with gateway(GatewayLimits(), Tls(certificate=folder / "cert.pem", key=folder / "key.pem")) as running:
        yield running


def test_clients_trust_the_authority_of_ssl_cert_file(
    secure: Running, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def layer() -> int:
        async with AsyncNLACritic(secure.url) as critic:
            return (await critic.info()).layer

    with NLACritic(secure.url) as critic:
        assert critic.info().layer == asyncio.run(layer())


def test_without_it_they_refuse_the_certificate(secure: Running) -> None:
    with NLACritic(secure.url, max_retries=0) as critic, pytest.raises(APIConnectionError, match="CERTIFICATE_VERIFY"):
        critic.info()


def test_plain_http_is_not_spoken(secure: Running) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{secure.port}/health", trust_env=False)
