"""One pair as the routes work with it: its parts, and what it shares with the other pairs of the gateway."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, Literal, TypeVar, assert_never

from nla_client.wire import Info, Limits, ModelInfo, PairInfo, SourceInfo
from nla_gateway.deadlines import Deadlines
from nla_gateway.description import check_pair
from nla_gateway.engines.capacity import engine_info
from nla_gateway.engines.concurrency import Admission
from nla_gateway.engines.engine import Engine
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import EngineUnavailable
from nla_gateway.limits import GatewayLimits
from nla_gateway.pair.parts import Part, make_part
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.source import Source
from nla_gateway.pair.verbalizer import Verbalizer
from nla_gateway.roles import Role
from nla_gateway.settings import PairSettings
from nla_gateway.telemetry.metrics import Metrics
from nla_gateway.telemetry.tracing import Tracing

P = TypeVar("P", bound=Part)

PACKAGES: Final = ("nla-serve", "sglang", "transformers", "torch", "fastapi")
RESERVED_TOKENS: Final = 2
"""Places in its context that SGLang keeps for itself."""


@dataclass(frozen=True)
class Shared:
    """What the pairs of a gateway have in common."""

    limits: GatewayLimits
    metrics: Metrics
    admission: Admission
    deadlines: Deadlines
    tracing: Tracing


@dataclass
class ServedPair:
    """One pair."""

    settings: PairSettings
    parts: list[Part]
    """What is served of it, in the order of the roles."""
    shared: Shared
    info: Info = field(init=False)

    def __post_init__(self) -> None:
        self.info = _info(self)

    @property
    def name(self) -> str:
        """As `model` in requests has it."""
        return self.settings.name

    @property
    def limits(self) -> Limits:
        """Limits in force."""
        return self.info.limits

    @property
    def metrics(self) -> Metrics:
        """Those of all pairs."""
        return self.shared.metrics

    @property
    def admission(self) -> Admission:
        """The queue of all pairs."""
        return self.shared.admission

    @property
    def deadlines(self) -> Deadlines:
        """Those of all requests."""
        return self.shared.deadlines

    @property
    def engines(self) -> list[Engine]:
        """All that serve it."""
        return [engine for part in self.parts for engine in part.engines.engines]

    def problems(self) -> list[EngineUnavailable]:
        """Tell why calls for it have to wait, or fail; nothing where all its parts take requests."""
        found = (part.engines.unavailable() for part in self.parts)
        return [problem for problem in found if problem is not None]

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
        update = {
            "engines": engines,
            "limits": limits,
            # An engine elsewhere may have told its fingerprint meanwhile.
            "verbalizer": _part_info(self.find(Verbalizer), "av"),
            "reconstructor": _part_info(reconstructor, "ar"),
            "source": _source_info(self.find(Source)),
        }
        return self.info.model_copy(update=update)

    def model_info(self, created: int) -> ModelInfo:
        """Describe it as OpenAI's servers describe a model."""
        return ModelInfo(
            id=self.name,
            created=created,
            ready=not self.problems(),
            serves=[part.role.value for part in self.parts],
            base_model=self.info.base_model,
            layer=self.info.layer,
            d_model=self.info.d_model,
        )

    def leave(self) -> None:
        """Wait for no engine any more: the gateway stops."""
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
            raise EngineUnavailable(f"pair {self.name} has no {kind.role.label}: {self._why_not(kind.role)}")
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
async def open_pair(settings: PairSettings, shared: Shared) -> AsyncIterator[ServedPair]:
    """Load a pair's prompts and open the connections to its engines.

    Raises:
        CheckpointError: a checkpoint that cannot be served, or two that are no pair.
    """
    async with AsyncExitStack() as stack:
        parts = list[Part]()
        for role in Role:
            if role in settings.engines:
                label = settings.engines[role].label or role.label
                pool = EnginePool(label, settings.engines[role], shared.metrics, shared.tracing)
                engines = await stack.enter_async_context(pool.open())
                parts.append(make_part(role, engines, settings, shared.limits))
        check_pair({part.role: part.description for part in parts})
        yield ServedPair(settings, parts, shared)


def _info(pair: ServedPair) -> Info:
    settings, verbalizer, reconstructor = pair.settings, pair.find(Verbalizer), pair.find(Reconstructor)
    limits = pair.shared.limits.model_dump()
    if verbalizer is not None:
        room = verbalizer.settings.context_length - len(verbalizer.prompt.ids) - RESERVED_TOKENS
        limits["max_tokens"] = min(limits["max_tokens"], room)
    if reconstructor is not None:
        limits["max_text_tokens"] = reconstructor.max_text_tokens
    return Info(
        name=settings.name,
        verbalizer=_part_info(verbalizer, "av"),
        reconstructor=_part_info(reconstructor, "ar"),
        base_model=settings.base_model,
        layer=next((part.description.layer for part in pair.parts if part.description.layer is not None), None),
        d_model=pair.parts[0].description.d_model,
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
        fingerprint=_fingerprint(part),
    )


def _fingerprint(part: Part) -> str | None:
    """Of a part's files and of what is stated of them elsewhere; None until its engine has told that of the files."""
    files, stated = part.engines.fingerprint, part.description.stated
    if files is None or not stated:
        return files
    return hashlib.sha256(f"{files}\0{stated}".encode()).hexdigest()


def _source_info(source: Source | None) -> SourceInfo | None:
    if source is None:
        return None
    return SourceInfo(
        model=source.settings.model,
        revision=source.settings.revision,
        layer=source.layer,
        context=source.max_tokens,
        checkpoint_dtype=source.settings.dtype,
        fingerprint=source.engines.fingerprint,
        warning=source.warning,
    )
