"""An engine that is ready is asked for little: whether it is there, and now and then for some progress."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nla_gateway import watch
from nla_gateway.engines.engine import EngineLostError
from nla_gateway.pair.proof import ProofError
from tests.load import until

HUNG_AFTER_S = 80.0


class Watched:
    """Counts what it is asked, and may go away, or hang, at one of these questions."""

    label = "verbalizer"

    def __init__(self, *, gone_at: int | None = None, hangs_at: int | None = None, says_no: bool = False) -> None:
        self.doubted = asyncio.Event()
        self.asked = {"is_there": 0, "makes_progress": 0}
        self._gone_at, self._hangs_at, self._says_no = gone_at, hangs_at, says_no

    async def is_there(self) -> bool:
        return await self._answer("is_there") and not self._says_no

    async def makes_progress(self) -> bool:
        return await self._answer("makes_progress")

    async def _answer(self, question: str) -> bool:
        self.asked[question] += 1
        count = sum(self.asked.values())
        if self._gone_at is not None and count >= self._gone_at:
            raise EngineLostError
        if self._hangs_at is not None and count >= self._hangs_at:
            await asyncio.sleep(60)
        return True


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "READY_POLL_S", 0.002)


def until_lost(engine: Watched, hung_after_s: float = HUNG_AFTER_S) -> str:
    return asyncio.run(asyncio.wait_for(watch._until_lost(engine, hung_after_s), 60))  # type: ignore[arg-type]


def test_progress_is_asked_for_seldom() -> None:
    engine = Watched(gone_at=40)
    assert until_lost(engine) == "restarting"
    assert engine.asked == {"makes_progress": 1, "is_there": 39}  # the latter for ten seconds


def test_one_that_is_gone_is_noticed_at_the_next_question() -> None:
    engine = Watched(gone_at=2)
    assert until_lost(engine) == "restarting"
    assert engine.asked == {"makes_progress": 1, "is_there": 1}


@pytest.mark.parametrize("hangs_at", [1, 2, 5])
def test_one_that_hangs_is_noticed(hangs_at: int) -> None:
    assert until_lost(Watched(hangs_at=hangs_at), 0.8) == "hung"


def test_one_that_says_no_is_asked_for_progress() -> None:
    engine = Watched(gone_at=8, says_no=True)
    assert until_lost(engine) == "restarting"
    assert engine.asked == {"makes_progress": 4, "is_there": 4}


def test_a_lost_request_has_it_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "READY_POLL_S", 60.0)
    engine = Watched(gone_at=2)

    async def run() -> str:
        watching = asyncio.create_task(watch._until_lost(engine, HUNG_AFTER_S))  # type: ignore[arg-type]
        await until(lambda: engine.asked["makes_progress"] == 1, 30)
        engine.doubted.set()
        return await asyncio.wait_for(watching, 30)

    assert asyncio.run(run()) == "restarting"
    assert engine.asked == {"makes_progress": 2, "is_there": 0}


class Starting(Watched):
    """Is gone as soon as it is ready, and back at once."""

    state = "starting"

    def __init__(self) -> None:
        super().__init__(gone_at=1)

    async def server_info(self) -> dict[str, Any]:
        return {}

    async def freeze_gc(self) -> None:
        pass

    def drop_requests(self) -> None:
        pass


def states_after(monkeypatch: pytest.MonkeyPatch, *outcomes: Exception | None) -> list[tuple[str, str | None]]:
    """What becomes of an engine, and why, whose self-tests come out so, one after the other."""
    states, left, over = list[tuple[str, str | None]](), list(outcomes), asyncio.Event()

    def set_state(engine: Starting, state: str, reason: str | None = None) -> None:
        engine.state = state
        states.append((state, reason))

    async def prove(*_: Any) -> None:
        if not left:
            over.set()
            await asyncio.sleep(60)
        if (outcome := left.pop(0)) is not None:
            raise outcome

    async def run() -> None:
        part: Any = SimpleNamespace(engines=SimpleNamespace(set_state=set_state), settings=None)
        watching = asyncio.create_task(watch.watch(part, Starting(), HUNG_AFTER_S))  # type: ignore[arg-type]
        await asyncio.wait_for(over.wait(), 30)
        watching.cancel()

    monkeypatch.setattr(watch, "prove", prove)
    monkeypatch.setattr(watch, "PROVE_AGAIN_S", 0.002)
    asyncio.run(run())
    return states


LIVED = [("ready", None), ("restarting", None)]


@pytest.mark.parametrize("failure", [ProofError("odd"), TimeoutError()], ids=["fails", "takes too long"])
def test_a_self_test_that_fails_once_is_made_again(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    assert states_after(monkeypatch, failure, None) == LIVED
    assert states_after(monkeypatch, failure, None, failure, None) == LIVED * 2


def test_one_that_fails_twice_in_a_row_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states_after(monkeypatch, TimeoutError(), ProofError("odd")) == [("failed", "odd")]
    assert states_after(monkeypatch, ProofError("odd"), TimeoutError()) == [("failed", "it took too long")]
    assert states_after(monkeypatch, *[ProofError("odd")] * 3, None) == [("failed", "odd"), *LIVED]


def test_a_mistake_of_ours_is_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states_after(monkeypatch, KeyError("nla"), None) == [("failed", "'nla'"), *LIVED]
