"""What the app is made of, built once from the settings: the parts, the queue, the metrics, the limits."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, Literal, TypeVar, assert_never

from nla_client.wire import Info, Limits, PairInfo, SourceInfo
from nla_gateway.deadlines import Deadlines
from nla_gateway.description import check_pair
from nla_gateway.engines.capacity import engine_info
from nla_gateway.engines.concurrency import Admission
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import EngineUnavailable
from nla_gateway.pair.fingerprint import fingerprint
from nla_gateway.pair.parts import Part, make_part
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.source import Source
from nla_gateway.pair.verbalizer import Verbalizer
from nla_gateway.roles import Role
from nla_gateway.settings import Settings
from nla_gateway.telemetry.metrics import Metrics
from nla_gateway.telemetry.tracing import Tracing

P = TypeVar("P", bound=Part)

logger = logging.getLogger(__name__)

PACKAGES: Final = ("nla-serve", "sglang", "transformers", "torch", "fastapi")
RESERVED_TOKENS: Final = 2
"""Places in its context that SGLang keeps for itself."""


@dataclass
class Gateway:
    """The parts that routes work with."""

    settings: Settings
    parts: list[Part]
    """What is served, in the order of the roles."""
    metrics: Metrics
    admission: Admission
    info: Info = field(init=False)
    deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        self.info = _info(self)
        self.deadlines = Deadlines(self.limits.request_timeout_s, self.limits.grace_s)

    @property
    def limits(self) -> Limits:
        """Limits in force."""
        return self.info.limits

    def info_now(self) -> Info:
        """Tell what is served, and what its engines have made of their plan so far."""
        reconstructor, limits = self.find(Reconstructor), self.limits
        if reconstructor is not None:  # its pool may have less room than the context
            limits = limits.model_copy(update={"max_text_tokens": reconstructor.max_text_tokens})
        engines = [
            engine_info(engine.label, engine.capacity, part.settings)
            for part in self.parts
            for engine in part.engines.engines
        ]
        source = _source_info(self.find(Source))
        return self.info.model_copy(update={"engines": engines, "limits": limits, "source": source})

    def leave(self) -> None:
        """Have all requests end within the grace time, and at once those that wait for an engine: the gateway stops."""
        self.deadlines.stop()
        for part in self.parts:
            part.engines.leave()

    def verbalizer(self) -> Verbalizer:
        """Return the verbalizer; EngineUnavailable while it is starting, failed, or not served."""
        return self._ready(Verbalizer)

    def reconstructor(self) -> Reconstructor:
        """Return the reconstructor; EngineUnavailable while it is starting, failed, or not served."""
        return self._ready(Reconstructor)

    def source(self) -> Source:
        """Return the source; EngineUnavailable while it is starting, failed, or not served."""
        return self._ready(Source)

    def tokenizer(self) -> Source:
        """Return the source for its tokenizer, which works without an engine; EngineUnavailable where it has none."""
        return self._served(Source)

    def find(self, kind: type[P]) -> P | None:
        """Return the part of a kind; None where it is not served."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    def _ready(self, kind: type[P]) -> P:
        part = self._served(kind)
        part.engines.require_ready()
        return part

    def _served(self, kind: type[P]) -> P:
        part = self.find(kind)
        if part is None:
            raise EngineUnavailable(f"this server has no {kind.role.label}: {self._why_not(kind.role)}")
        return part

    def _why_not(self, role: Role) -> str:
        match role:
            case Role.AV | Role.AR:
                return f"it was started with --only {self.parts[0].role}"
            case Role.SOURCE:
                return "start nla-serve with --source base, or with the model itself"
            case _:
                assert_never(role)


@asynccontextmanager
async def open_gateway(settings: Settings, metrics: Metrics, tracing: Tracing) -> AsyncIterator[Gateway]:
    """Load the prompts and open the connections to their engines.

    Raises:
        CheckpointError: a checkpoint that cannot be served, or two that are no pair.
    """
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tracing.close)
        parts = list[Part]()
        for role in Role:
            if role in settings.engines:
                pool = EnginePool(role.label, settings.engines[role], metrics, tracing)
                parts.append(make_part(role, await stack.enter_async_context(pool.open()), settings))
        check_pair({part.role: part.description for part in parts})
        yield Gateway(settings, parts, metrics, Admission(settings.limits.max_queue, metrics.queue.set))


def _info(gateway: Gateway) -> Info:
    settings, verbalizer, reconstructor = gateway.settings, gateway.find(Verbalizer), gateway.find(Reconstructor)
    limits = settings.limits.model_dump()
    if verbalizer is not None:
        room = verbalizer.settings.context_length - len(verbalizer.prompt.ids) - RESERVED_TOKENS
        limits["max_tokens"] = min(limits["max_tokens"], room)
    if reconstructor is not None:
        limits["max_text_tokens"] = reconstructor.max_text_tokens
    return Info(
        verbalizer=_part_info(verbalizer, "av"),
        reconstructor=_part_info(reconstructor, "ar"),
        base_model=settings.base_model,
        layer=next((part.description.layer for part in gateway.parts if part.description.layer is not None), None),
        d_model=gateway.parts[0].description.d_model,
        predict_mean_mse=settings.predict_mean_mse,
        limits=Limits(**limits),
        versions={name: version(name) for name in PACKAGES},
    )


def _part_info(part: Part | None, role: Literal["av", "ar"]) -> PairInfo | None:
    if part is None:
        return None
    return PairInfo(
        model=part.settings.model,
        revision=part.settings.revision,
        role=role,
        checkpoint_dtype=part.settings.dtype,
        injection_scale=part.description.injection_scale,
        mse_scale=part.description.mse_scale,
        fingerprint=fingerprint(part.settings.checkpoint, part.description, *part.settings.adapters),
    )


def _source_info(source: Source | None) -> SourceInfo | None:
    if source is None:
        return None
    return SourceInfo(
        model=source.settings.model,
        revision=source.settings.revision,
        layer=source.layer,
        context=source.max_tokens,
        checkpoint_dtype=source.settings.dtype,
        fingerprint=source.fingerprint,
        warning=source.warning,
    )
