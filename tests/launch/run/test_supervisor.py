"""Whatever tells nla-serve to stop, its children are stopped in order."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

PROGRAM = """
import asyncio, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
from nla_launch.run.forking import ForkServer
from nla_launch.run.process import ChildProcess
from nla_launch.run.supervisor import Supervisor

code = "import time; print('up', flush=True); time.sleep(600)"
child = ChildProcess("engine", [sys.executable, "-c", code], {})
asyncio.run(Supervisor([child], {}, listeners=[], url="", grace_s=0, forks=ForkServer()).run())
print("stopped in order")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_stops_it(number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            children, deadline = list[psutil.Process](), time.monotonic() + 60
            while not children:
                assert process.poll() is None
                assert time.monotonic() < deadline, "it starts nothing"
                time.sleep(0.05)
                children = psutil.Process(process.pid).children()
            process.send_signal(number)
            told, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, told, errors) == (0, "stopped in order\n", "")
    assert not psutil.wait_procs(children, timeout=0)[1]
