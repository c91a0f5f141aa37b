"""Engines that share GPUs with tp > 1: what the plan says of it, and whether CUDA's MPS runs."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from nla_gateway.roles import Role
from nla_launch.cli import main
from nla_launch.plan.describe import describe
from nla_launch.plan.placement import GpuChoice, Request, plan_pair
from nla_launch.plan.plan import EnginePlan
from nla_launch.plan.sharing import describe_sharing, mps_folder, mps_runs, shared_gpus
from tests.launch.shapes import gpus, pair


def planned(request: Request, *roles: Role) -> Sequence[EnginePlan]:
    return plan_pair(pair("qwen2.5-7b-l20", *roles), request, gpus(8, 80))


SHARED = Request(tp=4)
OWN = {Role.AV: (0, 1), Role.AR: (2, 3)}
HALF = {Role.AV: (0, 1), Role.AR: (1, 2)}


def test_shared_gpus() -> None:
    assert [gpu.index for gpu in shared_gpus(planned(SHARED))] == [0, 1, 2, 3]
    assert [gpu.index for gpu in shared_gpus(planned(Request(tp=2, gpus=GpuChoice(own=HALF))))] == [1]


@pytest.mark.parametrize(
    ("request_", "roles"),
    [
        (Request(tp=1), ()),
        (Request(tp=1, dp=4), ()),
        (Request(tp=2, gpus=GpuChoice(own=OWN)), ()),
        (SHARED, (Role.AV,)),
        (Request(tp=2, device="cpu"), ()),
    ],
    ids=["one GPU", "replicas", "GPUs of their own", "one engine", "CPU"],
)
def test_nothing_to_say(request_: Request, roles: tuple[Role, ...]) -> None:
    engines = planned(request_, *roles)
    assert shared_gpus(engines) == []
    assert describe_sharing(engines, mps=False) == []
    assert "MPS" not in describe(engines, mps=False)


def test_what_is_said() -> None:
    plan = describe(planned(SHARED), mps=False)
    assert "engines that share GPUs 0-3, each with tp > 1" in plan
    assert "not measured here" in plan
    assert "does not run here: start it before nla-serve" in plan
    assert "nvidia-cuda-mps-control -d" in plan
    running = describe(planned(SHARED), mps=True)
    assert "Its daemon runs here, and engines use it by themselves." in running
    assert "nvidia-cuda-mps-control" not in running
    elsewhere = describe(planned(SHARED))
    assert "where its daemon runs; else start it" in elsewhere


def test_where_cuda_looks() -> None:
    assert mps_folder({}) == mps_folder({"CUDA_MPS_PIPE_DIRECTORY": ""}) == Path("/tmp/nvidia-mps")  # noqa: S108
    assert mps_folder({"CUDA_MPS_PIPE_DIRECTORY": "/run/mps"}) == Path("/run/mps")


def test_a_daemon_runs_while_its_socket_takes_connections(tmp_path: Path) -> None:
    assert not mps_runs(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.bind(str(tmp_path / "control"))
        daemon.listen()
        assert mps_runs(tmp_path)
    assert (tmp_path / "control").is_socket()
    assert not mps_runs(tmp_path), "the daemon has gone, and its socket is what is left"
    assert not mps_runs(tmp_path / ("long" * 50))


def test_a_dry_run_looks_for_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    flags = ["--preset", "qwen2.5-7b-l20", "--device", "cuda", "--tp", "2", "--dry-run"]
    assert main(flags) == 0
    assert "does not run here" in capsys.readouterr().out
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.bind(str(tmp_path / "control"))
        daemon.listen()
        assert main(flags) == 0
        assert "engines use it by themselves" in capsys.readouterr().out
