"""The batch files for Slurm, with a stand-in for it: all nodes are this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_launch.flags import build_parser
from nla_launch.run.process import GONE_S
from nla_launch.run.supervisor import ENGINE_GRACE_S
from tests.checkpoints import D_MODEL, make_pair
from tests.pages import ROOT, of_kind, run
from tests.plain import encode, wait_for
from tests.stack import assert_gone, free_port

SLURM: Final = ROOT / "docker" / "slurm"
BATCHES: Final = sorted(SLURM.glob("*.sbatch"))
BIN: Final = Path(sys.executable).parent
STAND_IN: Final = Path(__file__).with_name("srun.py")
WAIT_S: Final = 420.0
pytestmark = pytest.mark.timeout(1200)  # several nla-serve, each with imports of its own


class Job:
    """One batch file as Slurm runs it."""

    def __init__(self, folder: Path, batch: str, *arguments: str, **variables: str) -> None:
        stand_ins, self.port = folder / "bin", free_port()
        stand_ins.mkdir(exist_ok=True)
        for name in ("srun", "scontrol"):
            (stand_ins / name).write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {name} "$@"\n')
            (stand_ins / name).chmod(0o755)
        self.home, self.log = folder / "home", folder / f"{batch}-{self.port}.log"
        environment = {
            **os.environ,
            "PATH": f"{stand_ins}:{BIN}:{os.environ['PATH']}",
            "NLA_HOME": str(self.home),
            "NLA_HOST": "127.0.0.1",
            "NLA_LISTEN": "127.0.0.1",
            "NLA_PORT": str(self.port),
            "NLA_ENGINE_PORT": str(free_port()),
            "SLURM_JOB_ID": str(self.port),
            "SLURM_GPUS_ON_NODE": "1",
            "SLURM_CPUS_PER_TASK": "1",
            **variables,
        }
        with self.log.open("w") as log:
            command = ["bash", str(SLURM / batch), *arguments]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    @property
    def key(self) -> dict[str, str]:
        """What callers show."""
        return {"authorization": f"Bearer {(self.home / 'api-key').read_text().strip()}"}

    def wait_ready(self) -> str:
        """Wait until it serves where it said; returns the address."""
        told = self.home / "addresses" / str(self.port)
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if told.exists() and httpx.get(f"{told.read_text().strip()}/ready").status_code == 200:
                    return told.read_text().strip()
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError(self.log.read_text()[-3000:])

    def end(self, *codes: int) -> None:
        """End it as Slurm does before its time is up; with code 0, or one of these."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(90) in (codes or (0,)), self.log.read_text()[-3000:]
        assert_gone(family)


@contextmanager
def job(folder: Path, batch: str, *arguments: str, **variables: str) -> Iterator[Job]:
    """Run one, and leave nothing of it behind."""
    started = Job(folder, batch, *arguments, **variables)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            for process in psutil.Process(started.process.pid).children(recursive=True):
                process.kill()
            started.process.kill()
        started.process.wait(60)


@pytest.mark.parametrize("path", [*BATCHES, SLURM / "setup.sh"], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([BIN / "shellcheck", "-x", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", BATCHES, ids=lambda path: path.name)
def test_each_ends_well_before_its_time_is_up(path: Path) -> None:
    """The shell is told so long before; nla-serve takes half a minute, and its engines some seconds more."""
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --signal=B:TERM@120" in lines
    grace_s = GatewayLimits.model_fields["grace_s"].default + 5.0
    assert grace_s + ENGINE_GRACE_S + 2 * GONE_S < 120


@pytest.mark.parametrize("command", [it.text for it in of_kind("slurm")])
def test_the_lines_of_the_page_are_what_the_files_take(command: str, tmp_path: Path) -> None:
    """Each file that is submitted is there, and what is handed on are flags of nla-serve, or a command of nla."""
    stand_in = tmp_path / "sbatch"
    stand_in.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" '' >> {tmp_path / 'asked'}\necho 7\n")
    stand_in.chmod(0o755)
    run(command, PATH=f"{tmp_path}:{os.environ['PATH']}")
    for asked in (tmp_path / "asked").read_text().strip("\n").split("\n\n"):
        words = [word for word in asked.split("\n") if not re.match(r"--(parsable|array|nodes)", word)]
        batch, *arguments = words
        assert ROOT / batch in BATCHES
        if batch.endswith("engines.sbatch"):
            assert arguments.pop(0) in list(Role)
        if batch.endswith("gateway.sbatch"):
            assert arguments[:2] == ["7", "4"]
            assert arguments[3] == "nla"
            arguments = arguments[2].split()
        assert build_parser().parse_args(arguments).preset


SHOW: Final = """
cd docker/slurm && . ./setup.sh && echo "$NLA_PORT $NLA_ENGINE_PORT" &&
for name in HF_HOME TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR FLASHINFER_WORKSPACE_BASE NLA_API_KEY; do
    echo "${!name}"
done
"""


def test_jobs_share_keys_and_checkpoints_and_have_ports_and_what_is_compiled_for_themselves(tmp_path: Path) -> None:
    """Of two jobs on one node, and one on another: nothing is said but where the shared disk is."""
    known = {name: os.environ[name] for name in ("PATH",)}
    told = []
    for job, node in (("71", "one"), ("72", "one"), ("71", "two")):
        variables = {"NLA_HOME": str(tmp_path / "shared"), "SLURM_TMPDIR": str(tmp_path / node), "SLURM_JOB_ID": job}
        shown = subprocess.run(
            ["bash", "-c", SHOW], cwd=ROOT, env=known | variables, capture_output=True, text=True, check=True
        )
        told.append(shown.stdout.splitlines())
    first, second, third = told
    ports = [int(port) for one in (first, second) for port in one[0].split()]
    assert len({*ports}) == 4
    assert all(1024 < port < 65536 for port in ports)
    assert {one[1] for one in told} == {str(tmp_path / "shared" / "huggingface")}
    for place in (2, 3, 4):
        assert first[place].startswith(str(tmp_path / "one" / "nla-serve-"))
        assert first[place] == second[place] != third[place]
    assert len(first[5]) == 64
    assert {one[5] for one in told} == {first[5]}
    assert (tmp_path / "shared" / "api-key").stat().st_mode & 0o777 == 0o600


def test_one_node(tmp_path: Path, toy_vectors: NDArray[np.float32]) -> None:
    with job(tmp_path, "node.sbatch", "--preset", "toy") as node:
        url = node.wait_ready()
        body = {"vectors": [encode(toy_vectors[0])], "dtype": "float32", "max_tokens": 8}
        assert httpx.post(f"{url}/verbalize", json=body, timeout=60).status_code == 401
        assert httpx.post(f"{url}/verbalize", json=body, headers=node.key, timeout=60).status_code == 200
        assert (node.home / "api-key").stat().st_mode & 0o077 == 0
        node.end()
        assert list((node.home / "addresses").iterdir()) == []


def test_engines_over_two_nodes(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "llama")
    flags = ("--av", str(pair.av), "--ar", str(pair.ar), "--device", "cpu", "--dtype", "float32")
    with job(tmp_path, "nodes.sbatch", *flags, SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="here[1-2]") as nodes:
        url = nodes.wait_ready()
        answer = httpx.post(f"{url}/reconstruct", json={"texts": ["a"]}, headers=nodes.key, timeout=60)
        assert answer.status_code == 200
        family = psutil.Process(nodes.process.pid).children(recursive=True)
        ranks = [words[words.index("--node-rank") + 1] for one in family if "--node-rank" in (words := one.cmdline())]
        assert sorted(ranks) == ["0", "1"]
        body = {"vectors": [encode(np.ones(D_MODEL, np.float32))] * 16, "dtype": "float32", "max_tokens": 300}
        with ThreadPoolExecutor(1) as thread:
            long = thread.submit(httpx.post, f"{url}/verbalize", json=body, headers=nodes.key, timeout=120)
            wait_for(lambda: "nla_queue 16.0" in httpx.get(f"{url}/metrics", headers=nodes.key, timeout=60).text)
            nodes.end(0, signal.SIGKILL)  # the second part is ended once the first has answered all
            assert long.result().status_code == 200
    assert list((nodes.home / "addresses").iterdir()) == []


def test_engines_of_an_array_behind_one_gateway(tmp_path: Path, toy_vectors: NDArray[np.float32]) -> None:
    np.save(tmp_path / "in.npy", toy_vectors)
    out = tmp_path / "out.parquet"
    command = ("nla", "verbalize", str(tmp_path / "in.npy"), str(out), "--max-tokens", "8", "--progress", "quiet")
    with (
        job(
            tmp_path, "engines.sbatch", "av", "--preset", "toy", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="0"
        ) as one,
        job(
            tmp_path, "engines.sbatch", "av", "--preset", "toy", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="1"
        ) as two,
        job(tmp_path, "gateway.sbatch", "5", "2", "--preset toy", *command) as gateway,
    ):
        assert gateway.process.wait(WAIT_S) == 0, gateway.log.read_text()[-3000:]
        assert pq.read_table(out)["explanation"].null_count == 0
        assert len(pq.read_table(out)) == len(toy_vectors)
        assert "verbalizer 2: ready" in gateway.log.read_text()
        for engine in (one, two):
            engine.end()
        assert list((gateway.home / "addresses").iterdir()) == []
