"""Text -> vector: what is asked of the reconstructor engine, and scores of what it rebuilt."""

import uuid
from collections.abc import Awaitable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import Score, Usage
from nla_gateway.description import Description
from nla_gateway.engines.calls import in_calls
from nla_gateway.engines.concurrency import Owner, map_in_slices
from nla_gateway.engines.engine import Engine
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.prompt import ReconstructorPrompt
from nla_gateway.pair.scoring import Matrix, score, score_all
from nla_gateway.pair.tokenizing import Tokenizing
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings


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
        self._tokenizing = Tokenizing()

    @property
    def max_text_tokens(self) -> int:
        """Tokens of a text, at most: as many as wanted, as the context leaves, and as every engine has room for."""
        room = (one.capacity.longest_prompt for one in self.engines.engines if one.capacity is not None)
        return max(0, min([self._max_text_tokens, *(tokens - self.prompt.overhead for tokens in room)]))

    @property
    def longest_text(self) -> int:
        """Characters of a text, at most, whatever room its engines have."""
        return self._max_text_tokens * self.prompt.longest_token

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
        prompts = await self._encode(texts, params, owner)  # all of them before the engine works on any

        async def ask(part: slice) -> tuple[list[NDArray[np.float32]], Usage]:
            return await self._embed(prompts[part], owner)

        return await in_calls(self.engines, owner, [len(ids) for ids in prompts], ask)

    async def check(self, texts: list[str], params: Sequence[str | None], owner: Owner) -> None:
        """Raise InvalidRequest for the first of these texts that cannot be taken, as `reconstruct` does."""
        await self._encode(texts, params, owner)

    async def _encode(self, texts: list[str], params: Sequence[str | None], owner: Owner) -> list[list[int]]:
        most, lengths = self.max_text_tokens, [len(text) for text in texts]

        def read(one: tuple[str, str | None]) -> list[int]:
            text, param = one
            return self.prompt.encode_checked(text, most, param)

        pairs = list(zip(texts, params, strict=True))
        return [prompt async for prompt in self._tokenizing.read(owner, read, pairs, lengths)]

    async def _embed(self, prompts: list[list[int]], owner: Owner) -> tuple[list[NDArray[np.float32]], Usage]:
        def attempt(engine: Engine, number: int) -> Awaitable[tuple[list[NDArray[np.float32]], int]]:
            rid = f"{owner.name}.{uuid.uuid4().hex[:8]}."  # a request makes several calls
            return engine.embed(prompts, self.settings.model, rid)

        vectors, tokens = await self.engines.run(attempt)
        return vectors, self.engines.read(tokens, self.role)

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
