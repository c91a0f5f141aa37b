"""Traces are off, and the SDK not even imported, unless the environment asks for them and they are installed."""

import os
import subprocess
import sys

import pytest

from nla_gateway.telemetry import tracing
from nla_gateway.telemetry.tracing import ENDPOINTS, UNTRACED, start_tracing

IMPORTED = """
import sys
from nla_gateway.api.app import create_app
from nla_gateway.settings import Settings
create_app(Settings(pairs=()))
print("opentelemetry.sdk" in sys.modules)
"""


@pytest.mark.parametrize(("endpoint", "imported"), [("", "False"), ("http://127.0.0.1:9", "True")])
def test_the_sdk_is_imported_only_where_it_is_asked_for(endpoint: str, imported: str) -> None:
    environment = {**os.environ, ENDPOINTS[0]: endpoint}
    done = subprocess.run([sys.executable, "-c", IMPORTED], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == imported, done.stderr


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(ENDPOINTS[1], "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "PACKAGES", ("opentelemetry.sdk", "absent_parent.child"))
    assert start_tracing() is UNTRACED
    assert [record.getMessage() for record in caplog.records if "nla-serve[otel]" in record.getMessage()]
