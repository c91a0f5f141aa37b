"""Each SGLang name that the plugin leans on still exists; the failure names what moved."""

import subprocess
import sys

import pytest

from nla_engine.names import NAMES
from nla_engine.plugin import hooks_for
from nla_gateway.roles import Role

# In a process of its own: SGLang warns at import, and warnings are errors here.
RESOLVE = """
import pkgutil, sys
for name in sys.argv[1:]:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        sys.stdout.write(f"MOVED {name}: {error}\\n")
"""


def test_names_resolve() -> None:
    run = subprocess.run([sys.executable, "-c", RESOLVE, *NAMES], capture_output=True, text=True, check=True)
    moved = [line for line in run.stdout.splitlines() if line.startswith("MOVED")]
    assert not moved, "SGLang moved names that the plugin hooks:\n" + "\n".join(moved)


@pytest.mark.parametrize("role", list(Role))
def test_every_hook_is_in_the_table(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLA_ENGINE_DEVICE", "cpu")
    assert {hook.target for hook in hooks_for(role)} <= NAMES.keys()


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="must be av, ar or source"):
        hooks_for("actor")
