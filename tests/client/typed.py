"""What calls return, as a type checker sees it. `make lint` has mypy look at this file; nothing of it is run."""

from collections.abc import Sequence
from typing import assert_type

from nla_client import (
    Ablation,
    AsyncEventStream,
    AsyncExplanationStream,
    AsyncNLAClient,
    EventStream,
    Explanation,
    Explanations,
    ExplanationStream,
    Extraction,
    Extractions,
    NLAClient,
    NLACritic,
    Score,
    Tokenization,
    Verbalization,
    Verbalizations,
)

Chat = list[dict[str, str]]


def _one_is_told_from_many(nla: NLAClient, one: Sequence[float], many: Sequence[Sequence[float]], chat: Chat) -> None:
    assert_type(nla.verbalize(one), Verbalization)
    assert_type(nla.verbalize(many), Verbalizations)
    assert_type(nla.verbalize(many, stream=True), EventStream)
    assert_type(nla.tokenize("a text"), Tokenization)
    assert_type(nla.tokenize(["a text"]), list[Tokenization])
    assert_type(nla.extract("a text"), Extraction)
    assert_type(nla.extract(["a text", "another"], positions="all"), Extractions)
    assert_type(nla.explain("a text").text, str)
    assert_type(nla.explain("a text"), Explanation)
    assert_type(nla.explain(["a text"]), Explanations)
    assert_type(nla.explain("a text", stream=True), ExplanationStream)
    assert_type(nla.explain(chat), Explanation)
    assert_type(nla.explain([chat]), Explanations)


async def _also_without_waiting(nla: AsyncNLAClient, one: Sequence[float], many: Sequence[Sequence[float]]) -> None:
    assert_type(await nla.verbalize(one), Verbalization)
    assert_type(await nla.verbalize(many), Verbalizations)
    assert_type(await nla.verbalize(one, stream=True), AsyncEventStream)
    assert_type(await nla.extract("a text"), Extraction)
    assert_type(await nla.explain(["a text"]), Explanations)
    assert_type(await nla.explain("a text", stream=True), AsyncExplanationStream)


def _scores(critic: NLACritic, one: Sequence[float]) -> None:
    assert_type(critic.score("a text", one), Score)
    assert_type(critic.ablate("a text", one), Ablation)
