"""Stands in for Slurm's `srun`, and for `scontrol show hostnames`: every node is this machine."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import takewhile


def main() -> int:
    """Run the command once a node, and end all once one has ended; or name the nodes."""
    name, *words = sys.argv[1:]
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    if name == "scontrol":
        sys.stdout.write("127.0.0.1\n" * nodes)
        return 0
    flags = dict(flag.split("=") for flag in takewhile(lambda word: word.startswith("--"), words))
    if "--cpus-per-task" not in flags:
        raise SystemExit("each task would have one CPU")  # srun takes none of the batch file's since Slurm 22.05
    command = words[len(flags) :]
    tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)}) for node in range(nodes)]

    def end(*_: object) -> None:
        for task in tasks:
            task.kill()  # as the real one: it asks nobody to end

    signal.signal(signal.SIGTERM, end)
    _, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        ended = time.monotonic() + float(flags["--wait"])
        while time.monotonic() < ended and any(task.poll() is None for task in tasks):
            time.sleep(0.1)
    end()
    with suppress(ChildProcessError):
        while True:
            _, status = os.wait()
            code = code or os.waitstatus_to_exitcode(status)
    return abs(code)


if __name__ == "__main__":
    sys.exit(main())
