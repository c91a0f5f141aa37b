"""The plan of one engine: its checkpoint, device, memory and exact command. Pure: starts and downloads nothing."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, assert_never

from nla_gateway.description import Description
from nla_gateway.roles import Role
from nla_launch.pair.architectures import override
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.fingerprint import fingerprint_of
from nla_launch.pair.model_config import ModelConfig
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.memory import PREFILL_TOKENS, DType, Load, Quantization
from nla_launch.plan.nodes import Nodes
from nla_launch.plan.served import VARIABLE, told
from nla_launch.plan.source import SOURCE_CONTEXT

Device = Literal["cuda", "cpu"]

CONTEXT_LENGTH: Final = 2048
"""Of the pair's engines: prompts are short."""
CPU_ENVIRONMENT: Final = {"SGLANG_PLATFORM": "nla_cpu", "NLA_ENGINE_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
"""What makes SGLang run on any CPU."""
SHARED_PARTS: Final[dict[Role, dict[Device, int]]] = {
    Role.AV: {"cuda": 2, "cpu": 8},
    Role.AR: {"cuda": 32, "cpu": 64},
    Role.SOURCE: {"cuda": 32, "cpu": 64},
}
"""One in so many of an engine's places is for large requests."""


@dataclass(frozen=True)
class EnginePlan:
    """One engine: what it loads, where it runs, and how it is started."""

    role: Role
    checkpoint: Checkpoint
    config: ModelConfig | None
    device: Device
    dtype: DType
    tp: int
    """Ranks of each replica, over all machines."""
    dp: int
    """Replicas, SGLang's own."""
    gpus: tuple[Gpu, ...]
    """Those of this machine, in the order of the ranks."""
    nodes: Nodes | None
    quantization: Quantization | None
    attention_backend: str | None
    trust_remote_code: bool
    context_length: int
    """Prompt and answer together, in tokens."""
    concurrency: int
    """Samples at the same time, over all replicas."""
    pool_tokens: int
    """Tokens in the KV pool of each replica."""
    memory_share: float
    """SGLang's --mem-fraction-static."""
    extra_arguments: tuple[str, ...]
    description: Description | None = None
    """How the checkpoint is used; None where its sidecar is not there, in a dry run."""
    pair: str | None = None
    """The pair's name, where there are several."""

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.role.of(self.pair)

    @cached_property
    def fingerprint(self) -> str | None:
        """What tells the checkpoint from others of its name, when it is first asked for; None where it is not there."""
        return None if self.description is None else fingerprint_of(self.checkpoint, self.description)

    @property
    def running_requests(self) -> int:
        """Requests that each replica computes at the same time."""
        return running_requests(self.concurrency, self.dp)

    @property
    def max_in_flight(self) -> int:
        """Requests that the gateway may have at the engine at the same time."""
        return max_in_flight(self.role, self.concurrency)

    @property
    def shared_in_flight(self) -> int:
        """Those of them that large requests may have while small ones come in."""
        return shared_in_flight(self.role, self.device, self.concurrency)

    @property
    def load(self) -> Load | None:
        """What it takes of each GPU's memory; None where config.json is not known."""
        if self.config is None:
            return None
        return Load(self.role, self.config, self.dtype, self.quantization, self.tp, self.context_length)

    def command(self, port: int, api_key: str, host: str = "127.0.0.1") -> list[str]:
        """Form the engine's command line."""
        # -P: a folder named `av` where nla-serve was started must not shadow the module PyAV.
        command = [sys.executable, "-P", "-m", "sglang.launch_server"]
        command += ["--model-path", str(self.checkpoint.model_path), "--served-model-name", self.checkpoint.name]
        if self.checkpoint.tokenizer_folder != self.checkpoint.model_path:
            command += ["--tokenizer-path", str(self.checkpoint.tokenizer_folder)]
        command += ["--host", host, "--port", str(port), "--api-key", api_key]
        command += ["--dtype", self.dtype, "--device", self.device]
        command += ["--context-length", str(self.context_length), "--max-total-tokens", str(self.pool_tokens)]
        command += ["--max-running-requests", str(self.running_requests)]
        command += ["--mem-fraction-static", str(self.memory_share)]
        # Per-request seeds work with this sampler alone.
        command += ["--sampling-backend", "pytorch", "--random-seed", "0"]
        # The gateway's self-test warms the engine up, and asks more of it.
        command += ["--skip-server-warmup", "--log-level-http", "warning", "--enable-metrics"]
        if self.trust_remote_code:
            command += ["--trust-remote-code"]
        return [
            *command,
            *self._parallel_arguments(),
            *self._device_arguments(),
            *self._role_arguments(),
            *self.extra_arguments,
        ]

    def _parallel_arguments(self) -> list[str]:
        arguments = ["--tp-size", str(self.tp)]
        if self.dp > 1:
            arguments += ["--dp-size", str(self.dp)]
        if self.nodes is not None:
            arguments += ["--nnodes", str(self.nodes.count), "--node-rank", str(self.nodes.rank)]
            arguments += ["--dist-init-addr", self.nodes.address(self.role)]
        return arguments

    def _device_arguments(self) -> list[str]:
        # Requests with injected vectors never replay a prefill graph, so none is captured.
        arguments = ["--cuda-graph-backend-prefill", "disabled"]
        if self.device == "cpu":
            arguments += ["--attention-backend", "nla_cpu", "--sleep-on-idle"]
            return [*arguments, "--cuda-graph-backend-decode", "disabled"]
        arguments += ["--max-prefill-tokens", str(PREFILL_TOKENS)]
        if self.attention_backend is not None:
            arguments += ["--attention-backend", self.attention_backend]
        if self.quantization is not None:
            arguments += ["--quantization", self.quantization]
        return arguments

    def _role_arguments(self) -> list[str]:
        arguments = []
        match self.role:
            case Role.AV:
                if self.device == "cuda":
                    arguments += ["--chunked-prefill-size", str(PREFILL_TOKENS)]
            case Role.AR | Role.SOURCE:
                arguments += ["--is-embedding", "--disable-radix-cache", "--chunked-prefill-size", "-1"]
            case _:
                assert_never(self.role)
        if self.config is not None and (changed := override(self.config.architecture) | dict(self.config.changed)):
            arguments += ["--json-model-override-args", json.dumps(changed)]
        return arguments

    def import_environment(self) -> dict[str, str]:
        """Form those of its variables that SGLang and torch read while they are imported, on any engine of a plan."""
        variables = {"PYTHONUNBUFFERED": "1", "SGLANG_EXTERNAL_MODEL_PACKAGE": "nla_engine.models"}
        if self.tp > 1:
            variables |= {"SYNC_TOKEN_IDS_ACROSS_TP": "1"}  # sums over a vocabulary may differ from GPU to GPU
        return variables | (CPU_ENVIRONMENT if self.device == "cpu" else {})

    def environment(self) -> dict[str, str]:
        """Form the variables that the engine gets on top of ours."""
        variables = self.import_environment() | {"NLA_ENGINE_ROLE": self.role.value}
        if self.config is not None and self.description is not None:
            variables |= {VARIABLE: json.dumps(told(self.config, self.checkpoint, self.description))}
        if self.nodes is None:
            # Its processes meet on this machine alone, and would else listen where its name leads.
            variables |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        return variables | (self._gpu_environment() if self.device == "cuda" else self._cpu_environment())

    def _gpu_environment(self) -> dict[str, str]:
        return {
            # Any list can be written so; SGLang's --base-gpu-id and --gpu-id-step know evenly spaced GPUs alone.
            # As numbers, in the driver's order, for SGLang's all-reduce reads them so.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.visible_device for gpu in self.gpus),
            # Engines load at the same time, so that a GPU's free memory is not the same on all ranks for a while.
            "SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "false",
        }

    def _cpu_environment(self) -> dict[str, str]:
        cores = os.cpu_count() or 1
        processes = self.tp * self.dp // (1 if self.nodes is None else self.nodes.count)
        variables = {"OMP_NUM_THREADS": str(max(1, cores // 2 // processes))}
        if self.tp * self.dp > 1:
            variables["SGLANG_CPU_OMP_THREADS_BIND"] = _core_ranges(cores, processes)
        return variables


def import_environment(engines: Sequence[EnginePlan]) -> dict[str, str]:
    """Form those variables for all engines of a plan together: one process imports for them all."""
    return {name: value for engine in engines for name, value in engine.import_environment().items()}


def context_length(role: Role, config: ModelConfig | None, of_source: int | None = None) -> int:
    """Prompt and answer together, in tokens.

    Args:
        role: whose.
        config: the model's; None where it is not known.
        of_source: a source's, as the user gave it; None: as usual.
    """
    match role:
        case Role.AV | Role.AR:
            wanted = CONTEXT_LENGTH
        case Role.SOURCE:
            wanted = of_source or SOURCE_CONTEXT
        case _:
            assert_never(role)
    return wanted if config is None else min(wanted, config.max_positions)


def running_requests(concurrency: int, dp: int) -> int:
    """Requests that each of several replicas computes at the same time."""
    return -(-concurrency // dp)


def max_in_flight(role: Role, concurrency: int) -> int:
    """Requests that a gateway may have at an engine at the same time.

    All that can run and the next few: more would only wait there, first come first served, where the gateway's own
    line is fair. A reconstructor's or a source's request has up to 8 texts.
    """
    several = max(1, concurrency // 8)
    match role:
        case Role.AV:
            return concurrency + several
        case Role.AR | Role.SOURCE:
            return several
        case _:
            assert_never(role)


def shared_in_flight(role: Role, device: Device, concurrency: int) -> int:
    """Those of them that large requests may have while small ones come in.

    On a CPU every sample slows the others down, on a GPU the first hundred cost little.
    """
    return max(1, concurrency // SHARED_PARTS[role][device])


def _core_ranges(cores: int, processes: int) -> str:
    share = max(1, cores // processes)
    starts = [(rank * share) % cores for rank in range(processes)]
    return "|".join(f"{start}-{start + share - 1}" if share > 1 else str(start) for start in starts)
