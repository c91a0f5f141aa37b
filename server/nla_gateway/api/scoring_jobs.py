"""Scores of many texts at once: `/critic` of all against all, and `/ablate`. As jobs.py, which has the rest."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from nla_client.wire import (
    AblatedPart,
    AblateRequest,
    AblateResponse,
    AblateResult,
    CriticMatrix,
    CriticRequest,
    Score,
    Usage,
)
from nla_gateway.api.fields import as_list, check_pairs, field_names, parse_vectors
from nla_gateway.api.work import check_batch, owner_of, within
from nla_gateway.engines.concurrency import map_in_slices
from nla_gateway.errors import InvalidRequest, PayloadTooLarge
from nla_gateway.pair.ablation import Span, split, upto, without
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.served import ServedPair

EMPTY: Final = ""


async def critic_all(pair: ServedPair, call: CriticRequest, request_id: str) -> bytes:
    """Answer `/critic` with pairs="all": a CriticMatrix as JSON.

    Its scores count in no metric of explanations: most texts are here beside vectors that are not theirs.
    """
    texts = as_list(call.texts)
    check_batch(pair, len(texts), "texts")
    check_batch(pair, len(as_list(call.vectors)), "vectors")
    reconstructor = _scorable(pair)
    vectors = await parse_vectors(call.vectors, call.dtype, reconstructor.description.d_model)
    owner = owner_of(request_id, len(texts))
    with pair.admission.admit(len(texts)):
        work = reconstructor.reconstruct(texts, field_names("texts", call.texts), owner)
        rebuilt, usage = await within(pair, work)
    pair.metrics.vectors("/critic", len(vectors))
    # Both take long where there are many, and orjson a tenth of what pydantic does.
    return await asyncio.to_thread(_matrix, reconstructor, vectors, rebuilt, usage)


def _matrix(
    reconstructor: Reconstructor,
    vectors: list[NDArray[np.float32]],
    rebuilt: list[NDArray[np.float32]],
    usage: Usage,
) -> bytes:
    mse, cosine, fve = reconstructor.compare_all(vectors, rebuilt)
    answer = {"model": reconstructor.settings.model, "mse": mse, "cosine": cosine, "fve": fve, "usage": dict(usage)}
    return orjson.dumps({name: answer[name] for name in CriticMatrix.model_fields}, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(frozen=True)
class Apart:
    """One text of `/ablate`, with its parts and what is left of it without them."""

    text: str
    name: str
    """The request's field that it came in."""
    parts: list[Span]

    @property
    def needed(self) -> list[str]:
        """Texts to rebuild: the whole, an empty one, and for each part the text without it and up to it."""
        remains = [made for part in self.parts for made in (without(self.text, part), upto(self.text, part))]
        return [self.text, EMPTY, *remains]

    @property
    def labels(self) -> list[str]:
        """What each of these is, for errors."""
        ways = [f"part {number} {way}" for number in range(len(self.parts)) for way in ("left out", "as its end")]
        return [f"{self.name} {what}" for what in ("as it is", "with nothing left", *ways)]


async def ablate(pair: ServedPair, call: AblateRequest, request_id: str) -> AblateResponse:
    """Answer `/ablate`.

    A text that the reconstructor cannot take is refused, and so is one of which a rest cannot be taken, which happens
    where it has more tokens than the whole, or ends so that it merges with the prompt's suffix: a text next to it would
    be scored in its place. The error names the field and the part.
    """
    texts, names = as_list(call.texts), field_names("texts", call.texts)
    check_batch(pair, len(texts), "texts")
    check_pairs(texts, as_list(call.vectors))
    reconstructor = _scorable(pair)
    vectors = await parse_vectors(call.vectors, call.dtype, reconstructor.description.d_model)
    with pair.admission.admit(len(texts)):
        await within(pair, reconstructor.check(texts, names, owner_of(request_id, len(texts))))
        apart, needed = await within(pair, _take_apart(pair, call, names))
    with pair.admission.admit(len(needed)):
        rebuilt, usage = await within(pair, _rebuild(reconstructor, needed, request_id))
    results = await _compare(reconstructor, apart, vectors, rebuilt)
    pair.metrics.vectors("/ablate", len(results))
    pair.metrics.scores(result.score for result in results)  # of whole texts alone: the others are worse on purpose
    return AblateResponse(model=reconstructor.settings.model, results=results, usage=usage)


async def _take_apart(
    pair: ServedPair, call: AblateRequest, names: Sequence[str]
) -> tuple[list[Apart], dict[str, str]]:
    """Find the parts of all texts; and each text to rebuild, once, with what it is.

    Raises:
        PayloadTooLarge: these are too many.
    """
    most, apart, needed = pair.limits.max_samples, list[Apart](), dict[str, str]()
    for text, name in zip(as_list(call.texts), names, strict=True):
        one = Apart(text, name, await asyncio.to_thread(split, text, call.by))
        apart.append(one)
        if len(one.parts) <= most:  # each makes a text that no other part of this text makes: up to it
            for made, label in zip(one.needed, one.labels, strict=True):
                needed.setdefault(made, label)
        if max(len(needed), len(one.parts)) > most:
            parts = sum(len(it.parts) for it in apart)
            raise PayloadTooLarge(
                f"up to {name} there are {parts} parts, which make more than {most} texts to rebuild in one request:"
                " take the texts apart by larger ones (`by`), or send fewer texts at a time",
                param="texts",
            )
    return apart, needed


async def _rebuild(
    reconstructor: Reconstructor, needed: dict[str, str], request_id: str
) -> tuple[dict[str, NDArray[np.float32]], Usage]:
    texts = sorted(needed, key=len)  # an engine's batch of texts of like length takes less time
    labels, owner = [needed[text] for text in texts], owner_of(request_id, len(texts))
    try:
        vectors, usage = await reconstructor.reconstruct(texts, labels, owner)
    except InvalidRequest as error:
        label = error.param or ""
        raise InvalidRequest(f"{label}: {error.message}", param=label.partition(" ")[0] or None) from None
    return dict(zip(texts, vectors, strict=True)), usage


async def _compare(
    reconstructor: Reconstructor,
    apart: list[Apart],
    vectors: list[NDArray[np.float32]],
    rebuilt: dict[str, NDArray[np.float32]],
) -> list[AblateResult]:
    """Score all that is left of each text against its vector."""
    needed = [one.needed for one in apart]
    originals = (vector for vector, texts in zip(vectors, needed, strict=True) for _ in texts)
    scores = iter(await reconstructor.compare(originals, (rebuilt[text] for texts in needed for text in texts)))

    def result(index: int) -> AblateResult:
        one = apart[index]
        return AblateResult(
            index=index,
            score=next(scores),
            empty=next(scores),
            parts=[_part(one.text, span, next(scores), next(scores)) for span in one.parts],
        )

    return await map_in_slices(result, range(len(apart)))


def _part(text: str, span: Span, left_out: Score, as_end: Score) -> AblatedPart:
    start, end = span
    return AblatedPart(text=text[start:end], start=start, end=end, without=left_out, upto=as_end)


def _scorable(pair: ServedPair) -> Reconstructor:
    """Return the reconstructor.

    Raises:
        RequestError: it is not ready, or the pair cannot be scored.
    """
    reconstructor = pair.reconstructor()
    reconstructor.require_scorable(None)
    return reconstructor
