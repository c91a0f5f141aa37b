"""Vector -> text: what is asked of the verbalizer engine, and what its answer means."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import FinishReason, SamplingRequest, Usage
from nla_gateway.description import ADD, Description
from nla_gateway.engines.concurrency import Owner
from nla_gateway.engines.engine import RETRY_AFTER_S, Engine, EngineLostError
from nla_gateway.engines.pool import EnginePool, Mark
from nla_gateway.errors import EngineUnavailable, InvalidRequest, RequestError
from nla_gateway.pair.injection import Injection, injection, rescale
from nla_gateway.pair.parsing import DeltaParser, Form, parse
from nla_gateway.pair.prompt import VerbalizerPrompt
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings

SEEDS: Final = 2**31
"""After the last comes the first, as where clients move seeds on."""
ONE_TOKEN: Final = {"temperature": 0.0, "max_new_tokens": 1}


@dataclass(frozen=True)
class Generated:
    """One finished sample, before scoring."""

    text: str
    complete: bool
    finish_reason: FinishReason
    usage: Usage


@dataclass(frozen=True)
class Ticket:
    """Which sample is asked for, of which request."""

    owner: Owner
    rid: str
    """The sample's id in the engine."""
    seed: int


def ticket(owner: Owner, seed: int, index: int, sample: int) -> Ticket:
    """Form the ticket of one sample of one vector.

    Its seed depends on seed + index alone, so that a batch split over requests with seeds moved on samples the same.
    """
    own_seed = int(np.random.SeedSequence([(seed + index) % SEEDS, sample]).generate_state(1)[0]) >> 1
    # The last dot matters: SGLang aborts every request whose id starts with the given one.
    return Ticket(owner, f"{owner.name}.{index}.{sample}.", own_seed)


class Verbalizer:
    """The verbalizer's engines with their prompt and scales."""

    role: ClassVar = Role.AV

    def __init__(self, engines: EnginePool, settings: EngineSettings) -> None:
        self.engines = engines
        self.settings = settings
        self.description: Description = settings.described()
        self._rules = self.description.of_verbalizer()
        trust = settings.trust_remote_code
        self.prompt = VerbalizerPrompt.load(
            settings.checkpoint, self.description, tokens_of=settings.tokenizer, trust_remote_code=trust
        )
        self._warming: dict[Engine, asyncio.Task[None]] = {}
        self._caching: set[Engine] = set()
        """Engines that have answered from their cache since they were warmed."""

    async def _warm(self, engine: Engine) -> None:
        """Put the prompt into an engine's prefix caches, which requests with vectors read and never fill."""
        with contextlib.suppress(RequestError, EngineLostError):  # gone, and proved anew once it is back
            for replica in self.replicas:
                await engine.generate(self.payload(None, ONE_TOKEN, f"warm.{uuid.uuid4().hex}.") | replica)

    def _keep_warm(self, engine: Engine, usage: Usage) -> None:
        """Warm again after an answer that found nothing cached, where others did: the cache was flushed."""
        if usage.cached_tokens:
            self._caching.add(engine)
        elif engine in self._caching:  # not where the cache's pages end behind the marker, and nothing ever is cached
            self._caching.discard(engine)
            self._warming[engine] = asyncio.create_task(self._warm(engine))

    @property
    def replicas(self) -> list[dict[str, int]]:
        """What to add to a payload to have it reach each of an engine's replicas, which have a cache of their own."""
        count = self.settings.replicas
        return [{}] if count == 1 else [{"routed_dp_rank": rank} for rank in range(count)]

    def inject(self, vector: NDArray[np.float32], param: str | None = None) -> Injection:
        """Scale a vector [d] and encode it for the engine, once for all its samples.

        Raises:
            InvalidRequest: unscaled, it overflows the engine's dtype.
        """
        try:
            # Where it is added, its direction alone counts: of norm 1 it overflows nothing.
            adds = self._rules.injection.rule == ADD
            scaled = rescale(vector, 1.0 if adds else self._rules.injection.scale)
            return injection(scaled, self.prompt.position, self.settings.dtype)
        except ValueError as error:
            raise InvalidRequest(f"{param}: {error}", param=param) from None

    async def sample(self, injected: Injection, call: SamplingRequest, ticket: Ticket) -> Generated:
        """Sample one text for one injected vector."""

        async def attempt(engine: Engine, number: int) -> Generated:
            generated = self._generated(await engine.generate(self._payload_of(injected, call, ticket, number)))
            self.engines.used(generated.usage, self.role)
            self._keep_warm(engine, generated.usage)
            return generated

        async with self.engines.turn(ticket.owner):
            return await self.engines.run(attempt)

    async def stream(
        self, injected: Injection, call: SamplingRequest, ticket: Ticket
    ) -> AsyncGenerator[str | Generated, None]:
        """Sample one text, yielding its pieces as they come and last the whole.

        Raises:
            EngineUnavailable: the engine was lost in mid-sample, and the sample came out otherwise the second time.
        """

        async def attempt(engine: Engine, number: int) -> AsyncGenerator[str | Generated, None]:
            answer: dict[str, Any] = {}
            try:
                async with aclosing(engine.stream(self._payload_of(injected, call, ticket, number))) as answers:
                    async for answer in answers:
                        if answer["meta_info"]["finish_reason"] is None and (delta := deltas.feed(answer["text"])):
                            yield delta
            except EngineLostError:
                answer = {}  # what is lost is nobody's
                raise
            finally:  # of a stream that is left, too, it was read and written
                if meta := answer.get("meta_info"):
                    self.engines.used(_usage_of(meta), self.role)
            generated = self._generated(answer)
            self._keep_warm(engine, generated.usage)
            yield generated

        deltas, again = DeltaParser(self.prompt.form), False
        async with self.engines.turn(ticket.owner), aclosing(self.engines.stream(attempt)) as pieces:
            async for piece in pieces:
                if piece is Mark.ANEW:
                    again = True
                elif isinstance(piece, str):
                    yield piece
                else:
                    if again and not piece.text.startswith(deltas.given):
                        message = "the verbalizer was lost in mid-sample, and the sample came out otherwise: ask again"
                        raise EngineUnavailable(message, retry_after_s=RETRY_AFTER_S)
                    if rest := deltas.finish(piece.text):
                        yield rest
                    yield piece

    def _payload_of(self, injected: Injection, call: SamplingRequest, ticket: Ticket, attempt: int) -> dict[str, Any]:
        # An engine that was only slow may still hold the id of the attempt before.
        rid = f"{ticket.rid}{attempt}." if attempt else ticket.rid
        return self.payload(injected, sampling(call, ticket.seed, self.prompt.form, self._rules.max_tokens), rid)

    def payload(self, injected: Injection | None, sampling_params: dict[str, Any], rid: str) -> dict[str, Any]:
        """Form the engine's request; without a vector the plain marker stays in the prompt."""
        payload: dict[str, Any] = {
            "rid": rid,
            "input_ids": self.prompt.ids,
            "sampling_params": sampling_params,
        }
        if injected is not None:
            payload["positional_embed_overrides"] = injected
        return payload

    def _generated(self, answer: dict[str, Any]) -> Generated:
        meta = answer.get("meta_info")
        reason = meta["finish_reason"] if meta else None
        if meta is None or reason is None or reason["type"] == "abort":
            raise EngineUnavailable("the verbalizer dropped the request", retry_after_s=RETRY_AFTER_S)
        matched = reason.get("matched")
        # Another string is SGLang's way to say that a token id made no sense.
        if isinstance(matched, str) and not self.prompt.form.stopped_by(matched):
            raise EngineUnavailable(f"the verbalizer broke the sample off: {matched}")
        # The end-of-text token is kept in the text, like all special tokens, but is no part of it.
        ending = "" if isinstance(matched, str) else self.prompt.stop_texts.get(matched, "")
        ended = reason["type"] != "length"
        text, complete = parse(answer["text"].removesuffix(ending), self.prompt.form, ended=ended)
        usage = _usage_of(meta)
        complete = complete or (not ended and self._is_whole(usage.completion_tokens))
        return Generated(text, complete, "stop" if ended else "length", usage)

    def _is_whole(self, tokens: int) -> bool:
        """Whether an answer that was cut at so many tokens is whole: of a verbalizer that never learned to stop."""
        limit = self._rules.max_tokens
        return self._rules.complete_at_limit and limit is not None and tokens >= limit


def _usage_of(meta: dict[str, Any]) -> Usage:
    """What SGLang says that it has read and written so far: nothing, of what it dropped before it began."""
    return Usage(**{name: meta.get(name, 0) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")})


def sampling(call: SamplingRequest, seed: int, form: Form, limit: int | None = None) -> dict[str, Any]:
    """Form SGLang's sampling parameters.

    Args:
        call: what is asked.
        seed: the sample's own.
        form: what its answer looks like.
        limit: the most tokens that it gets, whatever is asked.
    """
    return {
        "temperature": call.temperature,
        "top_p": call.top_p,
        "top_k": -1 if call.top_k is None else call.top_k,
        "max_new_tokens": call.max_tokens if limit is None else min(call.max_tokens, limit),
        "sampling_seed": seed,
        **form.stops,
        "no_stop_trim": True,
        "skip_special_tokens": False,
    }
