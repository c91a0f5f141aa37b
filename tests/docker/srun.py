"""Stands in for Slurm's `srun`, and for `scontrol show hostnames`: every node is this machine."""

import os
import signal
import subprocess
import sys
from itertools import dropwhile


def main() -> int:
    """Run the command once a node, and end all when one ends badly; or name the nodes."""
    name, *words = sys.argv[1:]
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    if name == "scontrol":
        sys.stdout.write("127.0.0.1\n" * nodes)
        return 0
    command = list(dropwhile(lambda word: word.startswith("--"), words))
    tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)}) for node in range(nodes)]

    def end(*_: object) -> None:
        for task in tasks:
            task.terminate()

    signal.signal(signal.SIGTERM, end)
    for _ in tasks:
        _, status = os.wait()
        if code := os.waitstatus_to_exitcode(status):
            end()
            return abs(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
