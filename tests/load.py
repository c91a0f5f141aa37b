"""Mixed load on a stack of the toy pair, of which every answer is checked: what did callers get?

Each outcome is one of: `right`, `refused` (rightly), the status of another error in the contract's form, `left` (by its
caller), `nothing` (the connection broke), `wrong`.
"""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

from nla_client.wire import STATUS
from tests.errors import error_in
from tests.plain import decode, encode, extract, samples_of, texts_of, total, verbalize
from tests.stack import Stack, states_of

STREAMED_ERRORS: Final = {"engine_unavailable", "timeout"}
IN_FLIGHT: Final = 16
BACK_S: Final = 240.0
NEAR: Final = 1e-3
"""Relative distance of rebuilt vectors, computed in batches of other shapes."""

Outcome = str
Call = Callable[[], Awaitable[Outcome]]


SENTENCES: Final = (
    "The river rose through the night.", "Bread is baked before dawn.", "def mean(values): return sum(values)",
    "Ferries leave at noon, and again in the evening.", "日本の天気", "She counted the posts that were still dry.",
)  # fmt: skip
PLACES: Final = [-1, -3]


@dataclass(frozen=True)
class ReadText:
    """A text, what its source's vectors are at some places, and what the verbalizer says of them."""

    text: str
    vectors: NDArray[np.float32]
    explanations: list[str]

    @classmethod
    def all_of(cls, stack: Stack) -> list["ReadText"]:
        """Those that rounding does not change; none where there is no source, or no verbalizer."""
        info = stack.http.get("/v1/info").json()
        if info["source"] is None or info["verbalizer"] is None:
            return []
        texts = list(SENTENCES)
        vectors = [one["vectors"] for one in extract(stack, texts=texts, positions=PLACES)]
        together, alone = explained(stack, texts), [explained(stack, [text])[0] for text in texts]
        read = zip(texts, vectors, together, alone, strict=True)
        sure = [cls(text, rows, one) for text, rows, one, other in read if one == other]
        assert len(sure) > len(texts) / 2
        return sure


def explained(stack: Stack, texts: list[str]) -> list[list[str]]:
    """Greedy explanations of each text's places."""
    body = {"texts": texts, "positions": PLACES, "temperature": 0}
    return explanations_in(stack.http.post("/explain", json=body).raise_for_status())


def explanations_in(reply: httpx.Response) -> list[list[str]]:
    results = reply.json()["results"]
    return [[token["samples"][0]["text"] for token in result["tokens"]] for result in results]


@dataclass(frozen=True)
class Known:
    """What a stack answers when nothing disturbs it, to vectors whose greedy texts rounding does not change."""

    vectors: list[str]
    texts: list[str]
    rebuilt: NDArray[np.float32] | None
    """Of the texts; None where there is no reconstructor."""
    read: list[ReadText]
    """Texts for the source."""

    @classmethod
    def of(cls, stack: Stack, vectors: NDArray[np.float32]) -> "Known":
        together = texts_of(verbalize(stack, vectors))
        alone = [texts_of(verbalize(stack, vector[None]))[0] for vector in vectors]
        sure = [k for k, text in enumerate(alone) if text == together[k]]
        assert len(sure) > 0.9 * len(vectors)
        texts = [alone[k] for k in sure]
        read = ReadText.all_of(stack)
        if stack.http.get("/v1/info").json()["reconstructor"] is None:
            return cls([encode(vectors[k]) for k in sure], texts, None, read)
        reply = stack.http.post("/reconstruct", json={"texts": texts, "dtype": "float32"}).raise_for_status()
        rebuilt = np.stack([decode(vector) for vector in reply.json()["vectors"]])
        return cls([encode(vectors[k]) for k in sure], texts, rebuilt, read)


@dataclass
class Load:
    """Calls of all kinds against a stack, so many in flight, each drawn at random.

    Args:
        stack: where to.
        known: what is right.
        in_flight: calls at a time.
        mischief: whether there are bad requests, and callers that leave, too.
    """

    stack: Stack
    known: Known
    in_flight: int
    mischief: bool = False
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    examples: dict[Outcome, str] = field(default_factory=dict)
    """One of each outcome that is not right."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the load up for the length of the block, then wait for the last answers."""
        self._stop = asyncio.Event()
        limits = httpx.Limits(keepalive_expiry=30)
        async with httpx.AsyncClient(base_url=self.stack.url, timeout=310, limits=limits, trust_env=False) as http:
            self._http = http
            callers = [asyncio.create_task(self._call_on(random.Random(number))) for number in range(self.in_flight)]  # noqa: S311
            try:
                yield
            finally:
                self._stop.set()
                await asyncio.gather(*callers)

    async def _call_on(self, dice: random.Random) -> None:
        kinds = [self._verbalize, self._stream]
        if self.known.rebuilt is not None:
            kinds += [self._reconstruct, self._critic]
        if self.known.read:
            kinds += [self._extract, self._explain]
        if self.mischief:
            kinds += [self._bad, self._leave]
        while not self._stop.is_set():
            kind = dice.choice(kinds)
            try:
                outcome = await kind(dice)
            except httpx.TransportError as error:
                outcome = "nothing"
                self.examples.setdefault(outcome, f"{kind.__name__}: {error!r}")
            self.outcomes[outcome] += 1
            if outcome in ("503", "429", "nothing"):
                await asyncio.sleep(0.5)

    async def _verbalize(self, dice: random.Random) -> Outcome:
        some = dice.sample(range(len(self.known.texts)), dice.choice((1, 1, 3)))
        score = self.known.rebuilt is not None and dice.random() < 0.5
        body = self._vectors(some) | {"temperature": 0, "score": score}
        reply = await self._http.post("/verbalize", json=body)
        if reply.status_code != 200:
            return self._error(reply)
        samples = [result["samples"][0] for result in reply.json()["results"]]
        right = [sample["text"] for sample in samples] == [self.known.texts[k] for k in some]
        return self._judge(right and all((sample["score"] is not None) == score for sample in samples), reply.text)

    async def _stream(self, dice: random.Random) -> Outcome:
        some = dice.sample(range(len(self.known.texts)), 2)
        deltas, ends, errors, last = Counter[int](), {}, [], ""
        pieces: dict[int, str] = {0: "", 1: ""}
        body = self._vectors(some) | {"temperature": 0, "stream": True}
        async with self._http.stream("POST", "/verbalize", json=body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                return self._error(reply)
            async for line in reply.aiter_lines():
                if line.startswith("event: "):
                    last = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if last == "sample.delta":
                        deltas[event["index"]] += 1
                        pieces[event["index"]] += event["text"]
                    elif last == "sample.done":
                        ends[event["index"]] = event["text"]
                    elif last == "error":
                        errors.append(event["error"])
                        ends[event["index"]] = None
        if last != "done" or len(ends) != len(some):
            return self._judge(right=False, shown=f"{last} {ends}")
        if errors:
            assert all(error["type"] in STREAMED_ERRORS for error in errors), errors
            return str(STATUS[errors[0]["type"]])
        wanted = {place: self.known.texts[k] for place, k in enumerate(some)}
        return self._judge(ends == wanted and pieces == wanted, f"{pieces} {ends}")

    async def _reconstruct(self, dice: random.Random) -> Outcome:
        some = dice.sample(range(len(self.known.texts)), dice.choice((1, 3)))
        reply = await self._http.post("/reconstruct", json=self._texts(some) | {"dtype": "float32"})
        if reply.status_code != 200:
            return self._error(reply)
        rebuilt = np.stack([decode(vector) for vector in reply.json()["vectors"]])
        wanted = self._rebuilt(some)
        far = np.linalg.norm(rebuilt - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        return self._judge(bool(far.max() < NEAR), f"{far}")

    async def _critic(self, dice: random.Random) -> Outcome:
        some = dice.sample(range(len(self.known.texts)), 2)
        vectors = [encode(vector) for vector in self._rebuilt(some)]
        body = self._texts(some) | {"vectors": vectors, "dtype": "float32"}
        reply = await self._http.post("/critic", json=body)
        if reply.status_code != 200:
            return self._error(reply)
        return self._judge(all(result["cosine"] > 1 - NEAR for result in reply.json()["results"]), reply.text)

    async def _extract(self, dice: random.Random) -> Outcome:
        some = dice.sample(self.known.read, dice.choice((1, 3)))
        body = {"texts": [one.text for one in some], "positions": PLACES, "dtype": "float32"}
        reply = await self._http.post("/extract", json=body)
        if reply.status_code != 200:
            return self._error(reply)
        found = [decode(token["vector"]) for result in reply.json()["results"] for token in result["tokens"]]
        wanted = np.concatenate([one.vectors for one in some])
        far = np.linalg.norm(np.stack(found) - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        return self._judge(bool(far.max() < NEAR), f"{far}")

    async def _explain(self, dice: random.Random) -> Outcome:
        some = dice.sample(self.known.read, dice.choice((1, 3)))
        body = {"texts": [one.text for one in some], "positions": PLACES, "temperature": 0}
        reply = await self._http.post("/explain", json=body)
        if reply.status_code != 200:
            return self._error(reply)
        return self._judge(explanations_in(reply) == [one.explanations for one in some], reply.text)

    async def _bad(self, dice: random.Random) -> Outcome:
        bad: list[Any] = [{"vectors": "AAAA"}, {"vectors": ["*"]}, {"texts": 3}, {"vectors": [], "colour": 1}]
        reply = await self._http.post("/verbalize", json=dice.choice(bad))
        if reply.status_code == 503:  # there is no verbalizer, whatever was asked of it
            return self._error(reply)
        return "refused" if self._error(reply) == "400" else self._judge(right=False, shown=reply.text)

    async def _leave(self, dice: random.Random) -> Outcome:
        some = dice.sample(range(len(self.known.texts)), 4)
        body = self._vectors(some) | {"temperature": 30.0, "max_tokens": 300, "stream": dice.random() < 0.5}
        try:
            async with asyncio.timeout(dice.uniform(0.05, 1.0)):
                reply = await self._http.post("/verbalize", json=body)
        except TimeoutError:
            return "left"
        return "right" if reply.status_code == 200 else self._error(reply)

    def _vectors(self, some: list[int]) -> dict[str, Any]:
        return {"vectors": [self.known.vectors[k] for k in some], "dtype": "float32"}

    def _rebuilt(self, some: list[int]) -> NDArray[np.float32]:
        assert self.known.rebuilt is not None
        return self.known.rebuilt[some]

    def _texts(self, some: list[int]) -> dict[str, Any]:
        return {"texts": [self.known.texts[k] for k in some]}

    def _error(self, reply: httpx.Response) -> Outcome:
        """The status of an error that has the contract's form."""
        self.examples.setdefault(str(reply.status_code), error_in(reply).message)
        return str(reply.status_code)

    def _judge(self, right: bool, shown: str) -> Outcome:
        if not right:
            self.examples.setdefault("wrong", shown)
        return "right" if right else "wrong"


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait until something holds, at most so long; returns how long it took."""
    started = time.monotonic()
    for _ in itertools.count():
        if await asyncio.to_thread(condition):
            return time.monotonic() - started
        assert time.monotonic() - started < seconds, "it did not come true in time"
        await asyncio.sleep(0.2)
    raise AssertionError


def restarts_of(stack: Stack, label: str) -> float:
    """How often an engine has come back: it is remembered, whoever looks too late to see it away."""
    return total(samples_of(stack), "nla_engine_restarts", engine=label)


async def noticed(stack: Stack, label: str, before: float) -> float:
    """Wait until an engine is away, or was since it had come back `before` times; returns how long it took."""

    def is_away() -> bool:
        return states_of(stack).get(label) not in ("ready", None) or restarts_of(stack, label) > before

    return await until(is_away, 60)


def disturb(stack: Stack, known: Known, harm: Callable[[], None], label: str) -> Counter[Outcome]:
    """Do harm to an engine under load; returns what callers got until some time after all was well again."""
    load = Load(stack, known, IN_FLIGHT)

    async def run() -> None:
        async with load.running():
            await asyncio.sleep(3)
            await until(lambda: load.outcomes["right"] > 0, BACK_S)
            before = await asyncio.to_thread(restarts_of, stack, label)
            harm()
            down = await noticed(stack, label, before)
            back = await until(lambda: set(states_of(stack).values()) == {"ready"}, BACK_S)
            load.examples["back"] = f"noticed after {down:.1f} s, ready again after {down + back:.0f} s"
            right = load.outcomes["right"]
            await asyncio.sleep(3)
            await until(lambda: load.outcomes["right"] > right, BACK_S)

    asyncio.run(run())
    return report(load)


def report(load: Load) -> Counter[Outcome]:
    print(dict(load.outcomes), load.examples)  # noqa: T201 - the counts are what the test is for
    assert load.outcomes["wrong"] == 0, load.examples
    return load.outcomes
