"""A stack with unusual settings: tiny limits, https, a log of JSON that shows all but the keys."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from numpy.typing import NDArray

from nla_client import NLAClient, NLACritic, PayloadTooLargeError
from tests.plain import encode, texts_of, verbalize, wait_for
from tests.stack import Stack, serving

KEY = "ada-has-this"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder, authority = tmp_path_factory.mktemp("small"), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "keys.yaml").write_text(f"ada: {KEY}\n")
    flags = ["--preset", "toy", "--api-keys", "keys.yaml", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    flags = [str(folder / flag) if "." in flag else flag for flag in flags]
    flags += ["--log-format", "json", "--log-level", "debug"]
    flags += ["--max-batch", "1", "--max-body-bytes", "2000", "--max-held-bytes", "2000000", "--max-tokens", "30"]
    with serving(folder / "log", *flags, warm=False) as stack:
        stack.http.headers["authorization"] = f"Bearer {KEY}"
        yield stack


@pytest.fixture(autouse=True)
def _trusting(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(stack.log.parent / "ca.pem"))
    monkeypatch.setenv("NLA_API_KEY", KEY)


def test_clients_do_with_little(stack: Stack, toy_vectors: NDArray[np.float32]) -> None:
    expected = [texts_of(verbalize(stack, toy_vectors[k : k + 1], max_tokens=30))[0] for k in range(10)]
    with NLAClient(stack.url) as nla, NLACritic(stack.url) as critic:
        told = [str(one) for one in nla.verbalize(toy_vectors[:10], dtype="float32", temperature=0, max_tokens=30)]
        assert told == expected
        assert [str(one) for one in nla.verbalize(toy_vectors[:10], dtype="float32", temperature=0)] == expected
        assert critic.reconstruct(told).shape == (10, 256)
        assert len(critic.score(told, toy_vectors[:10])) == 10
        with pytest.raises(PayloadTooLargeError, match="over 2000 bytes"):
            critic.reconstruct("a" * 3000)


def test_the_limits_are_shown(stack: Stack) -> None:
    limits = stack.http.get("/v1/info").json()["limits"]
    assert (limits["max_batch"], limits["max_body_bytes"], limits["max_tokens"]) == (1, 2000, 30)


def records(log: Path, request_id: str) -> list[dict[str, Any]]:
    """The log's records up to that of a request, which is written a moment after the answer."""

    def told() -> list[dict[str, Any]]:
        whole, _, _ = log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    wait_for(lambda: any(record.get("request_id") == request_id for record in told()))
    return told()


def test_every_line_of_the_log_is_json_that_says_who_speaks(stack: Stack) -> None:
    started = time.monotonic()
    stack.http.get("/v1/info", headers={"x-request-id": "mine"})
    seconds = time.monotonic() - started
    told = records(stack.log, "mine")
    assert all({"time", "level", "who", "message"} <= record.keys() for record in told)
    assert {record["who"] for record in told} == {"nla-serve", "fork server", "verbalizer", "reconstructor", "gateway"}
    assert all(str(datetime.fromisoformat(record["time"]).utcoffset()) == "0:00:00" for record in told)
    mine = next(record for record in told if record.get("request_id") == "mine")
    assert (mine["method"], mine["path"], mine["status"], mine["caller"]) == ("GET", "/v1/info", 200, "ada")
    assert 0 <= mine["seconds"] <= seconds + 0.001  # it is rounded


def test_the_log_tells_whose_tokens_they_are(stack: Stack, toy_vectors: NDArray[np.float32]) -> None:
    body = {"vectors": [encode(toy_vectors[0])], "dtype": "float32", "max_tokens": 5}
    usage = stack.http.post("/verbalize", json=body, headers={"x-request-id": "counted"}).json()["usage"]
    mine = next(record for record in records(stack.log, "counted") if record.get("request_id") == "counted")
    read = usage["prompt_tokens"] - usage["cached_tokens"]
    assert (mine["caller"], mine["tokens"]) == ("ada", read + usage["completion_tokens"])


def test_no_key_is_in_the_log(stack: Stack) -> None:
    settings, log = stack.settings(), stack.log_text()
    assert "api_key" in log  # SGLang shows its arguments
    assert not any(key in log for key in (KEY, *(engine.api_key for engine in settings.pairs[0].engines.values())))


def test_nothing_listens_beyond_loopback(stack: Stack) -> None:
    ports = [c.laddr for process in stack.family() for c in process.net_connections() if c.status == "LISTEN"]
    assert len(ports) >= 4
    assert {address.ip for address in ports} == {"127.0.0.1"}
