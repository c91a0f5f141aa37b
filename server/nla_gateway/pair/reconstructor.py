"""Text -> vector: what is asked of the reconstructor engine, and scores of what it rebuilt."""

import asyncio
import uuid
from collections.abc import Awaitable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import Score, Usage, add_usage
from nla_gateway.description import Description
from nla_gateway.engines.concurrency import Owner, gather, map_in_slices
from nla_gateway.engines.engine import Engine
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.prompt import ReconstructorPrompt
from nla_gateway.pair.scoring import Matrix, score, score_all
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings

TEXTS_PER_CALL: Final = 8
"""Few, for a single text waits for the call that the engine is at; fewer would cost throughput."""
TEXTS_BESIDE_OTHERS: Final = 2
"""While small requests come in."""


class Reconstructor:
    """The reconstructor's engines with their prompt and scales."""

    role: ClassVar = Role.AR

    def __init__(
        self, engines: EnginePool, settings: EngineSettings, *, max_text_tokens: int, baseline: float | None
    ) -> None:
        self.engines = engines
        self.settings = settings
        self.description: Description = settings.described()
        trust = settings.trust_remote_code
        self.prompt = ReconstructorPrompt.load(
            settings.checkpoint, self.description, tokens_of=settings.tokenizer, trust_remote_code=trust
        )
        self._max_text_tokens = min(max_text_tokens, settings.context_length - self.prompt.overhead - 1)
        self._baseline = baseline
        # Many texts take long, and a tokenizer is not safe to share.
        self._tokenizing = ThreadPoolExecutor(1, "tokenizer")

    @property
    def max_text_tokens(self) -> int:
        """Tokens of a text, at most: as many as wanted, as the context leaves, and as every engine has room for."""
        room = (one.capacity.longest_prompt for one in self.engines.engines if one.capacity is not None)
        return max(0, min([self._max_text_tokens, *(tokens - self.prompt.overhead for tokens in room)]))

    async def reconstruct(
        self, texts: list[str], params: Sequence[str | None], owner: Owner
    ) -> tuple[list[NDArray[np.float32]], Usage]:
        """Rebuild one float32 vector [d] for each text, in order.

        Args:
            texts: any number of explanations.
            params: for each, the request's field that an error should name.
            owner: the request; its texts wait in one line.

        Raises:
            InvalidRequest: a text is too long.
        """
        parts = [slice(start, start + TEXTS_PER_CALL) for start in range(0, len(texts), TEXTS_PER_CALL)]
        # All of them before the engine works on any, and part by part, so that other requests get in between.
        prompts = [await self._encode(texts[part], params[part]) for part in parts]
        answers = await gather(self._embed(part, owner) for part in prompts)
        vectors = [vector for part, _ in answers for vector in part]
        return vectors, add_usage([usage for _, usage in answers])

    async def check(self, texts: list[str], params: Sequence[str | None]) -> None:
        """Raise InvalidRequest for the first of these texts that cannot be taken, as `reconstruct` does."""
        for start in range(0, len(texts), TEXTS_PER_CALL):
            part = slice(start, start + TEXTS_PER_CALL)
            await self._encode(texts[part], params[part])

    async def _encode(self, texts: list[str], params: Sequence[str | None]) -> list[list[int]]:
        def encode() -> list[list[int]]:
            most, pairs = self.max_text_tokens, zip(texts, params, strict=True)
            return [self.prompt.encode_checked(text, most, param) for text, param in pairs]

        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, encode)

    async def _embed(self, prompts: list[list[int]], owner: Owner) -> tuple[list[NDArray[np.float32]], Usage]:
        vectors: list[NDArray[np.float32]] = []
        used: list[Usage] = []
        while len(vectors) < len(prompts):
            async with self.engines.turn(owner, whole=True):
                few = not owner.small and self.engines.small_come_in()
                some = prompts[len(vectors) :][: TEXTS_BESIDE_OTHERS if few else TEXTS_PER_CALL]
                rows, tokens = await self._embed_now(some, owner)
            used.append(self.engines.read(tokens, self.role))
            vectors += rows
        return vectors, add_usage(used)

    async def _embed_now(self, prompts: list[list[int]], owner: Owner) -> tuple[list[NDArray[np.float32]], int]:
        def attempt(engine: Engine, number: int) -> Awaitable[tuple[list[NDArray[np.float32]], int]]:
            rid = f"{owner.name}.{uuid.uuid4().hex[:8]}."  # a request makes several calls
            return engine.embed(prompts, self.settings.model, rid)

        return await self.engines.run(attempt)

    async def score(
        self, texts: list[str], originals: list[NDArray[np.float32]], params: Sequence[str | None], owner: Owner
    ) -> tuple[list[Score], Usage]:
        """Score each text against its vector [d]; otherwise as `reconstruct`.

        Raises:
            InvalidRequest: a text is too long.
        """
        rebuilt, usage = await self.reconstruct(texts, params, owner)
        return await self.compare(originals, rebuilt), usage

    async def compare(
        self, originals: Iterable[NDArray[np.float32]], rebuilt: Iterable[NDArray[np.float32]]
    ) -> list[Score]:
        """Score each rebuilt vector [d] against its original [d]."""
        pairs = zip(originals, rebuilt, strict=True)
        return await map_in_slices(lambda pair: score(*pair, self._baseline), pairs)

    def compare_all(
        self, originals: list[NDArray[np.float32]], rebuilt: list[NDArray[np.float32]]
    ) -> tuple[Matrix, Matrix, Matrix | None]:
        """Score each rebuilt vector [d] against each original [d]: mse, cosine and fve, rebuilt by originals."""
        return score_all(originals, rebuilt, self._baseline)

    def require_scorable(self, param: str | None) -> None:
        """Raise InvalidRequest where scores make no sense."""
        if self.description.mse_scale is None:
            raise InvalidRequest(
                "this pair cannot be scored: its mse_scale is null, so distances mean nothing (a preset may state one)",
                param=param,
            )
