"""What the app is made of, built once from the settings: the two parts, the queue, the metrics, the limits."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from nla_client.wire import Info, Limits, PairInfo
from nla_gateway.deadlines import Deadlines
from nla_gateway.engines.concurrency import Admission
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import EngineUnavailable
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.sidecar import check_pair
from nla_gateway.pair.verbalizer import Verbalizer
from nla_gateway.settings import EngineSettings, Settings
from nla_gateway.telemetry.metrics import Metrics
from nla_gateway.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

PACKAGES: Final = ("nla-serve", "sglang", "transformers", "torch", "fastapi")
RESERVED_TOKENS: Final = 2
"""Places in its context that SGLang keeps for itself."""


@dataclass
class Gateway:
    """The parts that routes work with."""

    settings: Settings
    maybe_verbalizer: Verbalizer | None
    maybe_reconstructor: Reconstructor | None
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

    def leave(self) -> None:
        """Have all requests end within the grace time, and at once those that wait for an engine: the gateway stops."""
        self.deadlines.stop()
        for part in self.parts:
            part.engines.leave()

    @property
    def parts(self) -> list[Verbalizer | Reconstructor]:
        """What is served."""
        return [part for part in (self.maybe_verbalizer, self.maybe_reconstructor) if part is not None]

    def verbalizer(self) -> Verbalizer:
        """Return the verbalizer; EngineUnavailable while it is starting, failed, or not served."""
        if self.maybe_verbalizer is None:
            raise EngineUnavailable("this server has no verbalizer: it was started with --only ar")
        self.maybe_verbalizer.engines.require_ready()
        return self.maybe_verbalizer

    def reconstructor(self) -> Reconstructor:
        """Return the reconstructor; EngineUnavailable while it is starting, failed, or not served."""
        if self.maybe_reconstructor is None:
            raise EngineUnavailable("this server has no reconstructor: it was started with --only av")
        self.maybe_reconstructor.engines.require_ready()
        return self.maybe_reconstructor


@asynccontextmanager
async def open_gateway(settings: Settings, metrics: Metrics, tracing: Tracing) -> AsyncIterator[Gateway]:
    """Read the checkpoints and open the connections to their engines.

    Raises:
        CheckpointError: a checkpoint that cannot be served, or two that are no pair.
    """
    limits = settings.limits
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tracing.close)

        async def engines(label: str, part: EngineSettings) -> EnginePool:
            return await stack.enter_async_context(EnginePool(label, part, metrics, tracing).open())

        verbalizer = reconstructor = None
        if settings.verbalizer is not None:
            verbalizer = Verbalizer(await engines("verbalizer", settings.verbalizer), settings.verbalizer)
        if settings.reconstructor is not None:
            reconstructor = Reconstructor(
                await engines("reconstructor", settings.reconstructor),
                settings.reconstructor,
                max_text_tokens=limits.max_text_tokens,
                baseline=settings.predict_mean_mse,
            )
        if verbalizer and reconstructor:
            check_pair(verbalizer.sidecar, reconstructor.sidecar)
        yield Gateway(settings, verbalizer, reconstructor, metrics, Admission(limits.max_queue, metrics.queue.set))


def _info(gateway: Gateway) -> Info:
    settings, verbalizer, reconstructor = (
        gateway.settings,
        gateway.maybe_verbalizer,
        gateway.maybe_reconstructor,
    )
    sidecar = gateway.parts[0].sidecar
    limits = settings.limits.model_dump()
    if verbalizer is not None:
        room = verbalizer.settings.context_length - len(verbalizer.prompt.ids) - RESERVED_TOKENS
        limits["max_tokens"] = min(limits["max_tokens"], room)
    if reconstructor is not None:
        limits["max_text_tokens"] = reconstructor.max_text_tokens
    return Info(
        verbalizer=_part_info(verbalizer),
        reconstructor=_part_info(reconstructor),
        base_model=settings.base_model,
        layer=sidecar.layer,
        d_model=sidecar.d_model,
        predict_mean_mse=settings.predict_mean_mse,
        limits=Limits(**limits),
        versions={name: version(name) for name in PACKAGES},
    )


def _part_info(part: Verbalizer | Reconstructor | None) -> PairInfo | None:
    if part is None:
        return None
    return PairInfo(
        model=part.settings.model,
        role=part.sidecar.role,
        checkpoint_dtype=part.settings.dtype,
        injection_scale=part.sidecar.injection_scale,
        mse_scale=part.sidecar.mse_scale,
    )
