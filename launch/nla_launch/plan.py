"""The plan: for each engine its checkpoint, device, memory and exact command. Pure: starts and downloads nothing."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from nla_launch.checkpoints import Checkpoint
from nla_launch.errors import LaunchError
from nla_launch.gpus import Gpu
from nla_launch.model_config import BYTES, ModelConfig
from nla_launch.preflight import Role

Device = Literal["cuda", "cpu"]
DType = Literal["bfloat16", "float32"]

LABELS: Final[dict[Role, str]] = {"av": "verbalizer", "ar": "reconstructor"}
OVERRIDES: Final[dict[Role, dict[str, dict[str, Any]]]] = {
    "av": {
        "Qwen2ForCausalLM": {},
        "LlamaForCausalLM": {},
        "Gemma3ForCausalLM": {},
        "Gemma3ForConditionalGeneration": {
            "architectures": ["Gemma3MultimodalVerbalizer", "Gemma3ForCausalLM"],
            "language_model_only": True,
        },
    },
    "ar": {
        "Qwen2ForCausalLM": {"architectures": ["Qwen2Reconstructor", "Qwen2ForCausalLM"]},
        "LlamaForCausalLM": {"architectures": ["LlamaReconstructor", "LlamaForCausalLM"]},
        "Gemma3ForCausalLM": {"architectures": ["Gemma3Reconstructor", "Gemma3ForCausalLM"]},
    },
}
"""Supported architectures, with what SGLang is to read instead of config.json's: of two architectures the first is
the class that runs, one of ours, and the second keeps SGLang's checks by name true."""

CONTEXT_LENGTH: Final = 2048
RUNNING_REQUESTS: Final[dict[Device, int]] = {"cuda": 256, "cpu": 64}
IN_FLIGHT: Final[dict[tuple[Device, Role], tuple[int, int]]] = {
    ("cuda", "av"): (RUNNING_REQUESTS["cuda"] + 32, 128),
    ("cuda", "ar"): (32, 8),
    ("cpu", "av"): (RUNNING_REQUESTS["cpu"] + 8, 8),
    ("cpu", "ar"): (8, 1),
}
"""Requests at an engine at a time: all that can run and the next few. More would only wait there, first come first
served, where the gateway's own line is fair. And, of them, those of large requests while small ones come in: on a CPU
every sample slows the others down, on a GPU the first hundred cost little. A reconstructor request has up to 8 texts.
"""
POOL_TOKENS: Final[dict[tuple[Device, Role], int]] = {
    ("cuda", "av"): 131_072,
    ("cuda", "ar"): 32_768,
    ("cpu", "av"): 32_768,
    ("cpu", "ar"): 16_384,
}
"""Tokens wanted in the KV pool: what the running requests can need, with room for a reused prefix."""
LEAST_SHARE: Final = 1 / 16
"""How far the pools may shrink where the weights leave little room; below it an engine would crawl."""
OVERHEAD_BYTES: Final = 2_000_000_000
"""What an engine takes on each GPU besides weights and KV pool: CUDA context, graphs, activations."""
MEMORY_SHARE: Final[dict[Device, float]] = {"cuda": 0.9, "cpu": 0.3}
"""SGLang's --mem-fraction-static; the pools' explicit sizes bind before it does."""
SMALL: Final = 1_500_000_000
"""Parameters up to which a CPU is a sensible place."""
KEY_SHOWN: Final = "<random>"


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    tp: int
    device: Literal["auto", "cuda", "cpu"]
    dtype: Literal["auto", "bfloat16", "float32"]
    attention_backend: str | None
    engine_args: Mapping[Role, Sequence[str]]


@dataclass(frozen=True)
class EnginePlan:
    """One engine: what it loads, where it runs, and how it is started."""

    role: Role
    checkpoint: Checkpoint
    config: ModelConfig | None
    device: Device
    dtype: DType
    tp: int
    gpus: tuple[int, ...]
    attention_backend: str | None
    pool_tokens: int
    """Tokens in the KV pool."""
    extra_arguments: tuple[str, ...]

    @property
    def label(self) -> str:
        """verbalizer or reconstructor."""
        return LABELS[self.role]

    @property
    def context_length(self) -> int:
        """Prompt and answer together, in tokens."""
        return CONTEXT_LENGTH if self.config is None else min(CONTEXT_LENGTH, self.config.max_positions)

    @property
    def max_in_flight(self) -> int:
        """Requests that the gateway may have at the engine at the same time."""
        return IN_FLIGHT[self.device, self.role][0]

    @property
    def shared_in_flight(self) -> int:
        """Those of them that large requests may have while small ones come in."""
        return IN_FLIGHT[self.device, self.role][1]

    @property
    def weight_bytes(self) -> int | None:
        """Weights on each GPU (or in all, on the CPU); None where config.json is not known."""
        return None if self.config is None else self.config.parameters * BYTES[self.dtype] // self.tp

    @property
    def pool_bytes(self) -> int | None:
        """KV pool on each GPU (or in all, on the CPU); None where config.json is not known."""
        return None if self.config is None else self.pool_tokens * self.config.kv_bytes_per_token(self.dtype) // self.tp

    def command(self, port: int, api_key: str) -> list[str]:
        """Form the engine's command line."""
        folder = self.checkpoint.folder or Path(self.checkpoint.source)
        # -P: a folder named `av` where nla-serve was started must not shadow the module PyAV.
        command = [sys.executable, "-P", "-m", "sglang.launch_server"]
        command += ["--model-path", str(folder), "--served-model-name", self.checkpoint.name]
        command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", api_key]
        command += ["--tp-size", str(self.tp), "--dtype", self.dtype, "--device", self.device]
        command += ["--context-length", str(self.context_length), "--max-total-tokens", str(self.pool_tokens)]
        command += ["--max-running-requests", str(RUNNING_REQUESTS[self.device])]
        command += ["--mem-fraction-static", str(MEMORY_SHARE[self.device])]
        # Per-request seeds work with this sampler alone.
        command += ["--sampling-backend", "pytorch", "--random-seed", "0"]
        # The gateway's self-test warms the engine up, and asks more of it.
        command += ["--skip-server-warmup", "--log-level-http", "warning"]
        return [*command, *self._device_arguments(), *self._role_arguments(), *self.extra_arguments]

    def _device_arguments(self) -> list[str]:
        # Requests with injected vectors never replay a prefill graph, so none is captured.
        arguments = ["--cuda-graph-backend-prefill", "disabled"]
        if self.device == "cpu":
            arguments += ["--attention-backend", "torch_native", "--sleep-on-idle"]
            return [*arguments, "--cuda-graph-backend-decode", "disabled"]
        if self.attention_backend is not None:
            arguments += ["--attention-backend", self.attention_backend]
        return arguments

    def _role_arguments(self) -> list[str]:
        arguments = []
        if self.role == "ar":
            arguments += ["--is-embedding", "--disable-radix-cache", "--chunked-prefill-size", "-1"]
        if self._override:
            arguments += ["--json-model-override-args", json.dumps(self._override)]
        return arguments

    @property
    def _override(self) -> dict[str, Any]:
        return {} if self.config is None else OVERRIDES[self.role][self.config.architecture]

    def environment(self) -> dict[str, str]:
        """Form the variables that the engine gets on top of ours."""
        variables = {"NLA_ENGINE_ROLE": self.role, "PYTHONUNBUFFERED": "1"}
        # Its processes meet on this machine alone, and would else listen where its name leads.
        variables |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        if self.role == "ar" or self._override:
            variables["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "nla_engine.models"
        if self.device == "cuda":
            # Both engines load at once, so that a GPU's free memory is not the same on all ranks for a while.
            return variables | {"SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "false"}
        cores = os.cpu_count() or 1
        variables |= {
            "SGLANG_PLATFORM": "nla_cpu",
            "NLA_ENGINE_DEVICE": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": str(max(1, cores // 2 // self.tp)),
        }
        if self.tp > 1:
            variables["SGLANG_CPU_OMP_THREADS_BIND"] = _core_ranges(cores, self.tp)
        return variables


def plan_engine(role: Role, checkpoint: Checkpoint, config: ModelConfig | None, request: Request,
                gpus: list[Gpu], *, dry_run: bool) -> EnginePlan:  # fmt: skip
    """Plan one engine.

    Raises:
        LaunchError: an unsupported architecture, a tp that does not divide, or no device for it.
    """
    if config is not None:
        _check_architecture(role, checkpoint, config)
        _check_tp(role, config, request.tp)
    device = _device(request, config, gpus, dry_run=dry_run)
    dtype: DType = request.dtype if request.dtype != "auto" else ("bfloat16" if device == "cuda" else "float32")
    if device == "cuda" and not dry_run and request.tp > len(gpus):
        raise LaunchError(f"--tp {request.tp} needs {request.tp} GPUs; this machine has {len(gpus)}")
    used = tuple(range(request.tp)) if device == "cuda" else ()
    pool = POOL_TOKENS[device, role]
    extra = tuple(request.engine_args.get(role, ()))
    return EnginePlan(role, checkpoint, config, device, dtype, request.tp, used, request.attention_backend, pool, extra)


def fit_memory(engines: list[EnginePlan], gpus: list[Gpu]) -> list[EnginePlan]:
    """Shrink the KV pools of engines that share the GPUs to what their weights leave.

    Raises:
        LaunchError: the weights leave too little.
    """
    weights = [engine.weight_bytes for engine in engines]
    pools = [engine.pool_bytes for engine in engines]
    if not gpus or any(engine.device != "cuda" or engine.config is None for engine in engines):
        return engines
    room = min(gpu.memory_bytes for gpu in gpus) * MEMORY_SHARE["cuda"] - OVERHEAD_BYTES * len(engines)
    share = (room - sum(filter(None, weights))) / sum(filter(None, pools))
    if share < LEAST_SHARE:
        parts = " + ".join(f"{engine.label} {(engine.weight_bytes or 0) / 1e9:.1f} GB" for engine in engines)
        least = sum(filter(None, pools)) * LEAST_SHARE / 1e9
        raise LaunchError(
            f"{parts} + KV {least:.1f} GB > {room / 1e9:.1f} GB a GPU: use more GPUs (a larger --tp) or --only av"
        )
    return [replace(engine, pool_tokens=int(engine.pool_tokens * min(1.0, share))) for engine in engines]


def describe(engine: EnginePlan) -> str:
    """Describe one engine for --dry-run."""
    per = "a GPU" if engine.device == "cuda" else "in all"
    memory = "unknown until config.json is there"
    if engine.weight_bytes is not None and engine.pool_bytes is not None:
        memory = f"{(engine.weight_bytes + engine.pool_bytes) / 1e9:.2f} GB {per}"
    environment = " ".join(f"{key}={shlex.quote(value)}" for key, value in engine.environment().items())
    return "\n".join(
        [
            f"{engine.label}",
            f"  checkpoint   {engine.checkpoint.source}",
            f"  device       {engine.device}, {engine.dtype}",
            f"  gpus         {', '.join(map(str, engine.gpus)) or 'none'}",
            f"  tp           {engine.tp}",
            f"  memory       {memory} (weights and a KV pool of {engine.pool_tokens} tokens)",
            f"  context      {engine.context_length} tokens",
            f"  environment  {environment}",
            f"  command      {shlex.join(engine.command(0, KEY_SHOWN)).replace('--port 0', '--port <free>')}",
        ]
    )


def _check_architecture(role: Role, checkpoint: Checkpoint, config: ModelConfig) -> None:
    supported = OVERRIDES[role]
    if config.architecture not in supported:
        raise LaunchError(
            f"{checkpoint.source}: a {LABELS[role]} of architecture {config.architecture} is not supported;"
            f" supported are {', '.join(supported)}"
        )


def _check_tp(role: Role, config: ModelConfig, tp: int) -> None:
    fits = [n for n in range(1, config.heads + 1) if config.heads % n == 0 and _kv_fits(config, n)]
    if tp not in fits:
        nearest = max(n for n in fits if n <= tp)
        raise LaunchError(
            f"--tp {tp} does not divide the {LABELS[role]}'s {config.heads} attention heads"
            f" ({config.kv_heads} KV heads): use --tp {nearest}"
        )


def _kv_fits(config: ModelConfig, tp: int) -> bool:
    return config.kv_heads % tp == 0 or tp % config.kv_heads == 0


def _device(request: Request, config: ModelConfig | None, gpus: list[Gpu], *, dry_run: bool) -> Device:
    if request.device == "cpu":
        return "cpu"
    if gpus or (request.device == "cuda" and dry_run):
        return "cuda"
    small = config is not None and config.parameters <= SMALL
    if request.device == "auto" and (small or dry_run):
        return "cpu" if small else "cuda"
    raise LaunchError("no CUDA GPU found: --preset demo runs on the CPU, and --device cpu serves small checkpoints")


def _core_ranges(cores: int, tp: int) -> str:
    share = max(1, cores // tp)
    starts = [(rank * share) % cores for rank in range(tp)]
    return "|".join(f"{start}-{start + share - 1}" if share > 1 else str(start) for start in starts)
