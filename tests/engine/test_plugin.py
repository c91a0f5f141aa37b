"""The plugin does nothing in an SGLang that nla-serve did not start."""

import subprocess
import sys

import pytest

from nla_engine import platform, plugin

STOCK = """
import sys
from nla_engine import platform, plugin
plugin.activate()
print(platform.activate(), any(name.split(".")[0] in ("sglang", "torch") for name in sys.modules))
"""


def test_inert_and_light_without_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugin.ROLE_VARIABLE, raising=False)
    monkeypatch.delenv(platform.DEVICE_VARIABLE, raising=False)
    run = subprocess.run([sys.executable, "-c", STOCK], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["None", "False"]


def test_platform_is_offered_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(platform.DEVICE_VARIABLE, "cpu")
    assert platform.activate() == "nla_engine.cpu.CpuPlatform"
