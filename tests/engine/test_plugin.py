"""The plugin does nothing in an SGLang that nla-serve did not start."""

import os
import subprocess
import sys

import pytest

from nla_engine import plugin
from nla_engine.cpu import platform

STOCK = """
import sys
from nla_engine.cpu import platform
from nla_engine import plugin
plugin.activate()
print(platform.activate(), any(name.split(".")[0] in ("sglang", "torch") for name in sys.modules))
"""


def test_inert_and_light_without_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugin.ROLE_VARIABLE, raising=False)
    monkeypatch.delenv(platform.DEVICE_VARIABLE, raising=False)
    run = subprocess.run([sys.executable, "-c", STOCK], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["None", "False"]


ON_CPU = """
import sys, torch
from nla_engine.cpu import platform

name = platform.activate()

@torch.compile(dynamic=True)
def after(x):
    return x + 1

print(name, after(1), type(after).__name__, sys.modules["flashinfer"])
"""


def test_platform_is_offered_on_request() -> None:
    """In a process of its own, for it changes torch."""
    environment = {**os.environ, platform.DEVICE_VARIABLE: "cpu"}
    run = subprocess.run([sys.executable, "-c", ON_CPU], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == ["nla_engine.cpu.runtime.CpuPlatform", "2", "function", "None"]
