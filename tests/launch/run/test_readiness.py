"""What several gateways say, taken together."""

import asyncio
from typing import Any, get_args

import httpx
import pytest

from nla_gateway.states import EngineState
from nla_launch.run.readiness import BEST_TO_WORST, Readiness

URLS = ["http://one/ready", "http://two/ready"]


def says(**states: str) -> dict[str, Any]:
    engines = {label: {"state": state, "reason": f"{label} is {state}"} for label, state in states.items()}
    return {"ready": set(states.values()) == {"ready"}, "engines": engines}


def follow(*rounds: tuple[dict[str, Any] | None, dict[str, Any] | None]) -> list[tuple[list[tuple[str, str]], bool]]:
    """What changes in each round, and whether all is ready then; a gateway that says None is silent."""
    readiness, seen = Readiness(URLS), []

    async def run() -> None:
        for one, two in rounds:
            answers = {"one": one, "two": two}

            def answer(request: httpx.Request, answers: dict[str, Any] = answers) -> httpx.Response:
                if answers[request.url.host] is None:
                    raise httpx.ConnectError("silent")
                return httpx.Response(200, json=answers[request.url.host])

            async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
                changes = await readiness.changes(http)
            seen.append(([(report.label, report.state) for report in changes], readiness.all_ready))

    asyncio.run(run())
    return seen


def test_every_state_of_an_engine_has_its_place() -> None:
    assert set(BEST_TO_WORST) == set(get_args(EngineState))


def test_an_engine_is_as_the_worst_of_the_gateways_sees_it() -> None:
    seen = follow(
        (says(verbalizer="starting"), says(verbalizer="ready")),
        (says(verbalizer="ready"), says(verbalizer="ready")),
        (says(verbalizer="ready"), says(verbalizer="ready")),
        (says(verbalizer="ready"), says(verbalizer="hung")),
    )
    assert seen == [
        ([("verbalizer", "starting")], False),
        ([("verbalizer", "ready")], True),
        ([], True),
        ([("verbalizer", "hung")], False),
    ]


@pytest.mark.parametrize(
    ("one", "two", "given_up"),
    [
        ("failed", "ready", False),
        ("failed", "starting", False),
        ("hung", "ready", False),
        ("failed", "failed", True),
        ("failed", "hung", True),
        ("ready", "ready", False),
    ],
)
def test_an_engine_is_given_up_only_by_all(one: str, two: str, given_up: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=says(verbalizer=one if request.url.host == "one" else two))

    async def run() -> bool:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            return (await Readiness(URLS).changes(http))[0].given_up

    assert asyncio.run(run()) is given_up


def test_that_the_last_gateway_gives_up_is_told_though_the_state_is_the_same() -> None:
    failed, ready = says(verbalizer="failed"), says(verbalizer="ready")
    assert [changes for changes, _ in follow((failed, ready), (failed, failed))] == [[("verbalizer", "failed")]] * 2


@pytest.mark.parametrize("silent", [(None, says(verbalizer="failed")), (says(verbalizer="failed"), None)])
def test_while_a_gateway_is_silent_nothing_changes(silent: tuple[dict[str, Any] | None, dict[str, Any] | None]) -> None:
    ready = (says(verbalizer="ready"), says(verbalizer="ready"))
    assert [changes for changes, _ in follow(ready, silent, ready)] == [[("verbalizer", "ready")], [], []]


def test_those_not_ready_are_waited_for() -> None:
    readiness = Readiness(URLS)
    assert readiness.waiting(["verbalizer", "reconstructor"]) == ["verbalizer", "reconstructor"]
    assert Readiness([]).waiting(["verbalizer"]) == []
