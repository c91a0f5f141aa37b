"""Which engine goes on which GPUs: from what the user asked for to a plan for each engine."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from nla_gateway.description import Description
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError, PlanError
from nla_launch.pair.architectures import attention_backend, backends_in, check_architecture, check_backend
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.model_config import ModelConfig
from nla_launch.plan.fitting import CONCURRENCY, fit
from nla_launch.plan.gpus import Gpu, in_ranges
from nla_launch.plan.memory import DType, Quantization
from nla_launch.plan.nodes import Nodes
from nla_launch.plan.plan import Device, EnginePlan, context_length

SMALL: Final = 1_500_000_000
"""Parameters up to which a CPU is a sensible place."""
CAPABILITIES: Final[dict[str, tuple[int, int]]] = {"bfloat16": (8, 0), "fp8": (8, 0)}
"""The least CUDA compute capability that computes in it."""


@dataclass(frozen=True)
class Target:
    """What an engine is to serve; config None where config.json is not there yet."""

    checkpoint: Checkpoint
    config: ModelConfig | None
    description: Description | None = None
    """None where its sidecar is not there yet."""


@dataclass(frozen=True)
class GpuChoice:
    """GPUs by index: for all engines together, or for each its own; not named: as many as it takes, from the first."""

    shared: tuple[int, ...] | None = None
    own: Mapping[Role, tuple[int, ...]] = field(default_factory=dict)

    @property
    def named(self) -> list[int]:
        """All that are named."""
        return [*(self.shared or ()), *itertools.chain(*self.own.values())]

    def of(self, role: Role) -> tuple[int, ...] | None:
        """Those named for one engine."""
        return self.own.get(role) if self.shared is None else self.shared

    def flag(self, role: Role) -> str:
        """The flag that named them."""
        return f"--{role}-gpus" if self.shared is None else "--gpus"


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    tp: int | None = None
    """None: all GPUs that are named, or 1."""
    dp: int = 1
    device: Literal["auto", "cuda", "cpu"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    quantization: Quantization | None = None
    concurrency: int | None = None
    """None: as many as usual, or as fit."""
    gpus: GpuChoice = GpuChoice()
    nodes: Nodes | None = None
    trust_remote_code: bool = False
    attention_backend: str | None = None
    source_context: int | None = None
    """Tokens of the longest text that a source takes; None: as many as usual."""
    engine_args: Mapping[Role, Sequence[str]] = field(default_factory=dict)

    def dtype_on(self, device: Device) -> DType:
        """Tell what an engine computes in."""
        if self.dtype == "auto":
            return "bfloat16" if device == "cuda" else "float32"
        return self.dtype


def plan_pair(targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu]) -> list[EnginePlan]:
    """Plan the engines.

    Args:
        targets: what to serve.
        request: how.
        gpus: those of this machine; none for a CPU.

    Raises:
        PlanError: these GPUs cannot do it so.
        LaunchError: nothing can.
    """
    return fit(place_pair(targets, request, gpus), request.concurrency)


def place_pair(targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu]) -> list[EnginePlan]:
    """Find the engines' GPUs, not yet how much memory of them is whose.

    Raises:
        PlanError: these GPUs cannot do it so.
        LaunchError: nothing can.
    """
    _check_choice(targets, request.gpus)
    for role, target in targets.items():
        if target.config is not None:
            check_architecture(role, target.checkpoint, target.config)
    return [_place(role, target, request, gpus) for role, target in targets.items()]


def tp_of(role: Role, request: Request) -> int:
    """Tell how many GPUs each replica of an engine is spread over."""
    named = request.gpus.of(role)
    if request.tp is not None or named is None:
        return request.tp or 1
    nodes = 1 if request.nodes is None else request.nodes.count
    return max(1, len(named) * nodes // request.dp)


def _place(role: Role, target: Target, request: Request, gpus: Sequence[Gpu]) -> EnginePlan:
    device = _device(request, target.config, gpus)
    dtype = request.dtype_on(device)
    if device == "cpu" and request.gpus.of(role) is not None:
        raise LaunchError(f"{request.gpus.flag(role)} is given, but the {role.label} runs on the CPU: see --device")
    tp, config = tp_of(role, request), target.config
    if config is not None and not config.takes_tp(tp):
        raise PlanError(
            f"--tp {tp} does not divide the {role.label}'s {config.heads} attention heads"
            f" ({config.kv_heads} KV heads, MLP of {config.intermediate})"
        )
    extra = tuple(request.engine_args.get(role, ()))
    if config is not None:
        stated = [request.attention_backend] if request.attention_backend and device == "cuda" else []
        float32 = device == "cuda" and dtype == "float32"
        check_backend(target.checkpoint, config, [*stated, *backends_in(extra)], float32=float32)
    count = _count_here(tp, request)
    used = _choose(role, count, request, gpus) if device == "cuda" else ()
    _check_capability(used, dtype, request.quantization, device)
    capability = min((gpu.capability for gpu in used if gpu.capability is not None), default=None)
    return EnginePlan(
        role=role,
        checkpoint=target.checkpoint,
        config=config,
        device=device,
        dtype=dtype,
        tp=tp,
        dp=request.dp,
        gpus=used,
        nodes=request.nodes,
        quantization=request.quantization,
        attention_backend=request.attention_backend or attention_backend(config, dtype, device, capability),
        context_length=context_length(role, config, request.source_context),
        trust_remote_code=request.trust_remote_code,
        concurrency=request.concurrency or CONCURRENCY[device] * request.dp,
        pool_tokens=0,
        memory_share=0.0,
        extra_arguments=extra,
        description=target.description,
    )


def _count_here(tp: int, request: Request) -> int:
    """Count an engine's ranks on this machine."""
    if request.nodes is None:
        return tp * request.dp
    if request.dp > 1:
        raise LaunchError("SGLang keeps its replicas on one machine: give --dp or --nnodes, not both")
    if tp % request.nodes.count:
        raise PlanError(f"--tp {tp} cannot be shared out over --nnodes {request.nodes.count}")
    return tp // request.nodes.count


def _choose(role: Role, count: int, request: Request, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    named, by_index = request.gpus.of(role), {gpu.index: gpu for gpu in gpus}
    wanted = f"--tp {tp_of(role, request)}" + (f" x --dp {request.dp}" if request.dp > 1 else "")
    here = "" if request.nodes is None else " here"
    if named is None:
        if count > len(gpus):
            raise PlanError(f"{wanted} needs {count} GPUs{here}; this machine has {len(gpus)}")
        return tuple(gpus[:count])
    flag = request.gpus.flag(role)
    missing = [index for index in named if index not in by_index]
    if missing:
        raise LaunchError(f"{flag} {in_ranges(named)}: this machine has GPUs {in_ranges(sorted(by_index))}")
    if len(named) != count:
        raise PlanError(f"{flag} {in_ranges(named)} names {len(named)} GPUs; {wanted} takes {count}{here}")
    return tuple(by_index[index] for index in named)


def _check_choice(targets: Mapping[Role, Target], choice: GpuChoice) -> None:
    flags = " and ".join(f"--{role}-gpus" for role in Role if role in choice.own or role in targets)
    if choice.shared is not None and choice.own:
        raise LaunchError(f"--gpus is for all engines together, {flags} for each its own: give either")
    if choice.own and choice.own.keys() != targets.keys():
        raise LaunchError(f"{flags} go together: give one for each engine that is served")


def _check_capability(gpus: Sequence[Gpu], dtype: DType, quantization: Quantization | None, device: Device) -> None:
    if quantization is not None and device == "cpu":
        raise LaunchError(f"--quantization {quantization} needs CUDA GPUs")
    if quantization is not None and dtype != "bfloat16":
        raise LaunchError(f"--quantization {quantization} needs --dtype bfloat16")
    for gpu in gpus:
        for what in (dtype, quantization):
            if what in CAPABILITIES and gpu.capability is not None and gpu.capability < CAPABILITIES[what]:
                major, minor = gpu.capability
                raise LaunchError(f"GPU {gpu.index} ({gpu.name}, compute capability {major}.{minor}) has no {what}")


def _device(request: Request, config: ModelConfig | None, gpus: Sequence[Gpu]) -> Device:
    if request.device == "cpu":
        return "cpu"
    if any(gpu.memory_bytes is not None for gpu in gpus) or (request.device == "cuda" and gpus):
        return "cuda"
    if request.device == "auto" and config is not None and config.parameters <= SMALL:
        return "cpu"
    if gpus:
        return "cuda"
    raise LaunchError("no CUDA GPU found: --preset demo runs on the CPU, and --device cpu serves small checkpoints")
