"""Self-tests of engines: which checkpoint each serves, what a verbalizer is asked, and what a source may not read."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray

from nla_gateway.description import Description, SourceDescription
from nla_gateway.engines.pool import EnginePool
from nla_gateway.pair.proof import ProofError, check_plugin, prove_injection, prove_reading, settle_fingerprint
from nla_gateway.pair.source import Source
from nla_gateway.pair.verbalizer import Verbalizer
from nla_gateway.roles import Role
from nla_gateway.settings import COUNTERS_VARIABLE, EngineSettings
from nla_gateway.telemetry.metrics import Metrics
from nla_launch.pair.rules import Rules
from tests.checkpoints import make_pair
from tests.descriptions import described
from tests.gateway.stand_in import StandIn
from tests.plain import TOY

ONE, OTHER = "1" * 64, "2" * 64


def verbalizer(fingerprint: str | None) -> Verbalizer:
    folder = TOY / "verbalizer"
    settings = EngineSettings(
        urls=("http://127.0.0.1:9", "http://127.0.0.1:10"), api_key="k", checkpoint=folder, model="m",
        dtype="float32", context_length=512, max_in_flight=4, shared_in_flight=2, fingerprint=fingerprint,
        description=described(Role.AV, folder),
    )  # fmt: skip
    return Verbalizer(EnginePool("verbalizer", settings, Metrics()), settings)


def account(**told: str | None) -> dict[str, Any]:
    report = {"role": "av", "kind": "verbalizer", "blocks": 3, "dtype": "float32", "missing_hooks": []}
    return {"internal_states": [{"nla": report | told}]}


def test_an_engine_serves_what_is_here() -> None:
    part = verbalizer(ONE)
    check_plugin(part, account(fingerprint=ONE))
    with pytest.raises(ProofError, match=f"serves another checkpoint than {TOY}/verbalizer: start both with the same"):
        check_plugin(part, account(fingerprint=OTHER))
    with pytest.raises(ProofError, match="serves another checkpoint than"):
        check_plugin(part, account(fingerprint=None))
    with pytest.raises(ProofError, match="another version of nla-serve started it"):
        check_plugin(part, account())


def test_engines_elsewhere_serve_the_same_where_the_weights_are_not_here() -> None:
    part = verbalizer(None)
    for _ in range(2):
        check_plugin(part, account(fingerprint=ONE))
        settle_fingerprint(part, account(fingerprint=ONE))
    assert part.engines.fingerprint == ONE
    for check in (check_plugin, settle_fingerprint):  # two that are proved at the same time
        with pytest.raises(ProofError, match="than the one that was there first: start all"):
            check(part, account(fingerprint=OTHER))


def test_gateways_beside_each_other_agree_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two engines elsewhere, each gateway may have proved another first."""
    monkeypatch.setenv(COUNTERS_VARIABLE, str(tmp_path))
    one, other = verbalizer(None), verbalizer(None)
    settle_fingerprint(one, account(fingerprint=ONE))
    with pytest.raises(ProofError, match="than the one that was there first"):
        settle_fingerprint(other, account(fingerprint=OTHER))
    settle_fingerprint(other, account(fingerprint=ONE))
    assert one.engines.fingerprint == other.engines.fingerprint == ONE
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_preset_states_is_told_apart(tmp_path: Path) -> None:
    """Not by the engine, to which the files alone count."""
    pair = make_pair(tmp_path, "qwen2")
    stated = Rules.model_validate({"reconstructor": {"add_special_tokens": False}})
    assert described(Role.AR, pair.ar).stated == ""
    assert described(Role.AR, pair.ar, stated).stated != ""


class Noting:
    """An engine that notes what it is asked to generate, and how many requests it has then."""

    def __init__(self) -> None:
        self.asked = list[tuple[dict[str, Any], int]]()
        self._stand_in, self._running = StandIn(Role.AV), 0

    async def generate(self, payload: dict[str, Any]) -> dict[str, Any]:
        self._running += 1
        self.asked.append((payload, self._running))
        await asyncio.sleep(0.01)
        self._running -= 1
        return self._stand_in.answer(payload)


@pytest.mark.parametrize("replica", [{}, {"routed_dp_rank": 1}], ids=["alone", "one of several"])
def test_a_self_test_takes_the_ways_of_requests(replica: dict[str, int]) -> None:
    """With top_p and without, one and eight at the same time: else the first callers wait while kernels compile."""
    part, engine = verbalizer(ONE), Noting()
    asyncio.run(prove_injection(part, engine, replica))  # type: ignore[arg-type]
    assert all(replica.items() <= payload.items() for payload, _ in engine.asked)
    sampled = [(payload, running) for payload, running in engine.asked if payload["sampling_params"]["temperature"]]
    ways = [(payload["sampling_params"].get("top_p"), running) for payload, running in sampled]
    assert ways == [(top_p, running) for top_p in (None, 0.9) for running in (1, *range(1, 9))]
    for payload, _ in sampled:
        assert payload.keys() == {"rid", "input_ids", "positional_embed_overrides", "sampling_params", *replica}
        assert payload["input_ids"] == part.prompt.ids
        assert payload["sampling_params"]["max_new_tokens"] > 1  # a token of the prompt's, and one of the answer's
        assert "sampling_seed" in payload["sampling_params"]


D_MODEL: Final = 64
LAYER: Final = 1
ROUNDING: Final = 0.005
"""Of a vector's length, as bfloat16 rounds in batches of other sizes."""
Rows = NDArray[np.float32]
Reads = Callable[[Rows, list[int]], Rows]
"""Gives rows [places, d] out of a text's [n, d]."""
ALIKE: Final = {"apart": 0.0, "as Gemma's": 20.0}
"""Length of what all vectors share, beside what is each one's own: 20 makes cosines of 0.9975 everywhere."""


class Reading:
    """An engine that reads a model of which each vector is drawn from the text up to there; the first is very long."""

    def __init__(self, reads: Reads, shared: float) -> None:
        self._reads, self._shared, self._rng = reads, shared, np.random.default_rng(1)

    async def read(self, batch: list[list[int]], places: list[list[int]], rid: str) -> tuple[list[Rows], int]:
        return [self._reads(self._rows(ids), where) for ids, where in zip(batch, places, strict=True)], 0

    def _rows(self, ids: list[int]) -> Rows:
        rows = np.stack([_drawn(ids[: place + 1]) for place in range(len(ids))]) + self._shared * _drawn([])
        rows[0] *= 100
        return (rows * (1 + ROUNDING * self._rng.standard_normal(rows.shape))).astype(np.float32)


def _drawn(ids: list[int]) -> NDArray[np.float64]:
    return np.random.default_rng(crc32(repr(ids).encode())).standard_normal(D_MODEL)


def prove_that(reads: Reads, shared: float) -> Source:
    """Run the self-test of a source whose engine reads so."""
    settings = EngineSettings(
        urls=("http://127.0.0.1:9",), api_key="k", checkpoint=TOY / "verbalizer", model="base", dtype="bfloat16",
        context_length=512, max_in_flight=1, shared_in_flight=1,
        description=Description(role=Role.SOURCE, d_model=D_MODEL, layer=LAYER, source=SourceDescription(blocks=2)),
    )  # fmt: skip
    part = Source(EnginePool("source", settings, Metrics()), settings, expected_norm=None)
    asyncio.run(prove_reading(part, Reading(reads, shared)))  # type: ignore[arg-type]
    return part


def shifted(by: int) -> Reads:
    return lambda rows, places: rows[np.clip(np.add(places, by), 0, len(rows) - 1)]


def shifted_where_some_are_chosen(rows: Rows, places: list[int]) -> Rows:
    return rows[places] if places[0] == 0 else shifted(1)(rows, places)


@pytest.mark.parametrize("shared", ALIKE.values(), ids=ALIKE)
def test_a_source_that_reads_right(shared: float) -> None:
    part = prove_that(lambda rows, places: rows[places], shared)
    assert part.typical_norm == pytest.approx(np.hypot(1, shared) * D_MODEL**0.5, rel=0.3)


NOT_FINITE: Final = "it gives vectors that are not 64 finite numbers"
ALL_THE_SAME: Final = "two different texts give the same vector"
ELSEWHERE: Final = "it is not read where it is asked to be"
LATER: Final = "what stands after a place changes its vector"
EARLIER: Final = "a place's own token does not change its vector"
WRONG: Final[dict[str, tuple[Reads, str]]] = {
    "not a number": (lambda rows, places: rows[places] * np.where(np.arange(D_MODEL) == 3, np.nan, 1), NOT_FINITE),
    "infinite": (lambda rows, places: rows[places] * np.inf, NOT_FINITE),
    "0 at one place": (lambda rows, places: rows[places] * (np.array(places)[:, None] != 5), NOT_FINITE),
    "of another width": (lambda rows, places: rows[places, :-1], NOT_FINITE),
    "one for all": (lambda rows, places: np.ones((len(places), D_MODEL), np.float32), ALL_THE_SAME),
    "one for each place": (
        lambda rows, places: np.stack([_drawn([place]) for place in places]).astype(np.float32),
        ALL_THE_SAME,
    ),
    "one for each text": (lambda rows, places: np.repeat(rows[-1:], len(places), axis=0), ELSEWHERE),
    "of the next place, where some are chosen": (shifted_where_some_are_chosen, ELSEWHERE),
    "of the next place": (shifted(1), LATER),
    # Where the first, very long, stands twice, its rounding is more than a step.
    "of the place before": (shifted(-1), f"({EARLIER}|{LATER})"),
    "with something of the text's end": (lambda rows, places: rows[places] + rows[-1] - rows[-2], LATER),
}


@pytest.mark.parametrize("shared", ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize(("reads", "problem"), WRONG.values(), ids=WRONG)
def test_a_source_that_reads_wrong_is_refused(reads: Reads, problem: str, shared: float) -> None:
    with pytest.raises(ProofError, match=f"^{problem}"):
        prove_that(reads, shared)
