"""How long a string of a body may be: as long as any that is not refused for its length by what reads it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
from pydantic import BaseModel

from nla_client.wire import (
    AblateRequest,
    CriticRequest,
    ExplainRequest,
    ExtractRequest,
    ReconstructRequest,
    TokenizeRequest,
    VerbalizeRequest,
    encode_vector,
)
from nla_gateway.api.bodies import ALWAYS_TAKEN, longest_string
from nla_gateway.description import Description, SourceDescription
from nla_gateway.errors import InvalidRequest
from nla_gateway.gateway import Gateway, open_gateway
from nla_gateway.limits import GatewayLimits
from nla_gateway.pair.prompt import load_tokenizer
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.source import Source
from nla_gateway.roles import Role
from nla_gateway.settings import PairSettings, Settings
from nla_gateway.telemetry.metrics import Metrics
from nla_gateway.telemetry.tracing import Tracing
from tests.gateway.process import NOBODY
from tests.plain import TOY

T = TypeVar("T")
CONTEXT = 20_000
"""Tokens: enough that texts may be longer than what is always taken."""


RECONSTRUCTOR = NOBODY.model_copy(update={"context_length": CONTEXT})
SOURCE = RECONSTRUCTOR.model_copy(
    update={
        "checkpoint": TOY / "verbalizer",
        "description": Description(role=Role.SOURCE, d_model=64, layer=0, source=SourceDescription(blocks=1)),
    }
)
SMALL = PairSettings(name="small", engines={Role.AR: NOBODY})
LARGE = PairSettings(name="large", engines={Role.AR: RECONSTRUCTOR})
READ = PairSettings(name="read", engines={Role.SOURCE: SOURCE})


def opened(read: Callable[[Gateway], T], *pairs: PairSettings) -> T:
    """What is read of a gateway with these pairs."""
    settings = Settings(pairs=pairs, limits=GatewayLimits(max_text_tokens=2 * CONTEXT))

    async def run() -> T:
        async with open_gateway(settings, Metrics(pair.name for pair in pairs), Tracing()) as gateway:
            return read(gateway)

    return asyncio.run(run())


def longest(call: type[BaseModel], *pairs: PairSettings) -> int:
    return opened(lambda gateway: longest_string(call, gateway.pairs), *pairs)


@pytest.mark.parametrize("call", [ReconstructRequest, CriticRequest, AblateRequest])
def test_a_text_of_as_many_characters_as_any_may_be_all_escapes(call: type[BaseModel]) -> None:
    def refused(gateway: Gateway) -> int:
        """Characters from which on a text is refused for its length alone."""
        part = gateway.pairs[0].find(Reconstructor)
        assert part is not None
        most = part.max_text_tokens * part.prompt.longest_token
        with pytest.raises(InvalidRequest, match=f"the text has {most + 1} characters"):
            part.prompt.encode_checked("a" * (most + 1), part.max_text_tokens, None)
        return most

    characters = opened(refused, LARGE)
    assert longest(call, LARGE) == longest(call, SMALL, LARGE) == 12 * characters > ALWAYS_TAKEN
    assert longest(call, SMALL) == ALWAYS_TAKEN


def test_a_text_for_the_source_too() -> None:
    def most(gateway: Gateway) -> int:
        part = gateway.pairs[0].find(Source)
        assert part is not None
        return part.max_tokens * max(map(len, load_tokenizer(TOY / "verbalizer", trust_remote_code=False).get_vocab()))

    characters = opened(most, READ)
    for call in (ExtractRequest, ExplainRequest):
        assert longest(call, READ) >= 12 * characters > ALWAYS_TAKEN
    # What is only taken apart may be longer.
    assert longest(TokenizeRequest, READ) > 2 * longest(ExtractRequest, READ)


@pytest.mark.parametrize("call", [VerbalizeRequest, CriticRequest])
def test_a_vector_too(call: type[BaseModel]) -> None:
    def widened(gateway: Gateway) -> int:
        pair = gateway.pairs[0]
        pair.info = pair.info.model_copy(update={"d_model": 2**18})
        return longest_string(call, gateway.pairs)

    assert opened(widened, SMALL) == 12 * len(encode_vector(np.ones(2**18), "float32"))
