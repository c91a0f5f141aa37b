"""The gateway's process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from nla_gateway.__main__ import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000))
allow_open_files({wanted})
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("wanted", "allowed"), [(1000, 1000), (65_536, 2000), (100, 256)])
def test_open_files_are_allowed_as_far_as_the_system_lets(wanted: int, allowed: int) -> None:
    command = [sys.executable, "-c", PROGRAM.format(wanted=wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == allowed
