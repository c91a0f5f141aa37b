"""What `nla info` prints of a server's warnings."""

from typing import Any

import pytest

from nla_data.cli import main
from tests.data.gateway import SOURCE, FakeGateway

NORMS = "vectors of [base] at layer 20 have norms about 3"
ENGINE: dict[str, Any] = {
    "engine": "verbalizer",
    "pool_tokens": 1,
    "planned_pool_tokens": 2,
    "running_requests": 1,
    "planned_running_requests": 1,
}


def shown(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["info", "--url", gateway.url]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_warnings_come_where_there_are_some(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert "warning" not in shown(gateway, capsys)
    gateway.served["source"] = SOURCE | {"warning": NORMS}
    gateway.served["engines"] = [
        ENGINE | {"warning": "the verbalizer is smaller than planned"},
        ENGINE | {"warning": None},
    ]
    told = shown(gateway, capsys)
    assert told.endswith(f"warning: {NORMS} warning: the verbalizer is smaller than planned")
