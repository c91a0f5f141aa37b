"""The engines' own Prometheus metrics, each sample with a label that says whose it is. Knows none of them by name."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from nla_gateway.engines.engine import Engine

logger = logging.getLogger(__name__)

LABEL: Final = "engine"
TIMEOUT_S: Final = 2.0
"""Prometheus itself waits for 10 s by default."""


async def engine_metrics(engines: Iterable[Engine]) -> bytes:
    """Fetch the metrics of all engines at once; an engine that does not give them in time is left out."""
    texts = await asyncio.gather(*(_fetch(engine) for engine in engines))
    # In a thread: an engine has several hundred lines.
    return await asyncio.to_thread(render, {label: text for label, text in texts if text})


def render(texts: Mapping[str, str]) -> bytes:
    """Form one text from those of several engines.

    Args:
        texts: by the engine's label, in Prometheus's text format; one that is not is left out.
    """
    families: dict[str, Metric] = {}
    for label, text in texts.items():
        try:
            parsed = list(text_string_to_metric_families(text))
        except ValueError as error:
            logger.warning("the metrics of the %s make no sense: %s", label, error)
            continue
        for family in parsed:
            # A family may have one HELP and one TYPE line, whichever engines it is of.
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged.samples += [sample._replace(labels=_labelled(sample.labels, label)) for sample in family.samples]
    return generate_latest(_Families(list(families.values())))


@dataclass(frozen=True)
class _Families(Collector):
    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def _labelled(labels: Mapping[str, str], engine: str) -> dict[str, str]:
    """Add our label; one of that name becomes `exported_engine`, as in Prometheus."""
    return {f"exported_{LABEL}" if name == LABEL else name: value for name, value in labels.items()} | {LABEL: engine}


async def _fetch(engine: Engine) -> tuple[str, str | None]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return engine.label, await engine.metrics()
    except Exception as error:  # whatever it is, what there is is shown; /ready and the engine's state tell of trouble
        logger.debug("no metrics of the %s: %s", engine.label, error)
        return engine.label, None
