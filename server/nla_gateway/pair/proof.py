"""The self-tests that an engine must pass before it counts as ready.

If injection fails, a verbalizer fluently describes the marker character; if the stock model runs, a reconstructor
answers unit vectors without a word. Both look fine, so both are disproved here, on the live engine.
"""

import uuid
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from nla_gateway.engines.concurrency import gather
from nla_gateway.engines.engine import Engine
from nla_gateway.pair.parts import Part
from nla_gateway.pair.prompt import VerbalizerPrompt
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.reference import logprob_mismatch, vector_mismatch
from nla_gateway.pair.source import Source, norms, typical_norm
from nla_gateway.pair.verbalizer import ONE_TOKEN, Verbalizer

TOP_LOGPROBS: Final = 20
FLOOR: Final = -10.0
"""Log-probabilities below count as this: of what is never said, rounding alone tells."""
FORCED_TOKENS: Final = 16
"""Tokens of an answer at which logits are compared: the first, such as an opening tag, depend on no vector."""
SAME: Final = 1e-3
"""Largest difference of log-probabilities that counts as none."""
DRIFT: Final = 0.5
"""Largest difference of one vector sent again, as a share of that between two: other batches round otherwise."""
PROOF_TEXTS: Final = ("A recipe for bread.", "The stock market fell sharply on Monday.")
LONG_TEXT: Final = (
    "The river rose through the night, and by morning the lower fields stood under water. Nobody in the village had"
    " seen it come so high since the old mill was built, and the miller's children counted the fence posts that were"
    " still dry."
)
"""Long enough that most of its tokens are beyond the first ones, whose vectors are unlike all others."""
SAME_DIRECTION: Final = 0.995
"""Least cosine of one vector computed twice, in batches of other sizes and in bfloat16."""
GREEDY: Final = {"temperature": 0.0, "max_new_tokens": FORCED_TOKENS}
USUAL: Final = {"temperature": 1.0, "max_new_tokens": 2, "sampling_seed": 0}
WARMED: Final = (USUAL, USUAL | {"top_p": 0.9})
BATCH: Final = 8

Logprobs = list[dict[int, float]]
"""For each place in an answer, the log-probabilities of the likeliest tokens."""


class ProofError(Exception):
    """A self-test failed; the text says what the engine does wrong."""


async def prove(part: Part, engine: Engine, info: dict[str, Any]) -> None:
    """Run the self-test of one engine.

    Args:
        part: what it serves.
        engine: the engine, which answers.
        info: its own account of itself, SGLang's `/server_info`.

    Raises:
        ProofError: it does something wrong.
        EngineLostError: it went away meanwhile.
    """
    check_plugin(part, info)
    match part:
        case Verbalizer():
            for replica in part.replicas:
                await prove_injection(part, engine, replica)
        case Reconstructor():
            await prove_reconstruction(part, engine)
        case Source():
            await prove_reading(part, engine)
        case _:
            assert_never(part)
    settle_fingerprint(part, info)


async def prove_injection(verbalizer: Verbalizer, engine: Engine, replica: dict[str, int]) -> None:
    """Prove that injected vectors reach the model, in one of the engine's replicas.

    Along one answer, two vectors must give different logits, both different from the plain marker's, and one vector
    sent again the same, also where the prompt's start comes from the cache.

    Raises:
        ProofError: they do not.
    """
    first, second = np.random.default_rng(0).standard_normal((2, verbalizer.description.d_model)).astype(np.float32)
    injected = verbalizer.inject(first)
    answer = await engine.generate(verbalizer.payload(injected, GREEDY, _rid("answer")) | replica)
    ids = [*verbalizer.prompt.ids, *answer["output_ids"]]

    async def logprobs(vector: NDArray[np.float32] | None, name: str) -> Logprobs:
        injected = None if vector is None else verbalizer.inject(vector)
        payload = verbalizer.payload(injected, ONE_TOKEN, _rid(name)) | replica | {"input_ids": ids}
        return await _logprobs(engine, payload, verbalizer.prompt)

    one, again = await logprobs(first, "one"), await logprobs(first, "again")
    other, marker = await logprobs(second, "other"), await logprobs(None, "marker")
    # The marker's request has filled the prefix cache.
    reused = await logprobs(first, "reused")
    from_marker = min(_distance(one, marker), _distance(other, marker))
    if from_marker <= SAME:
        raise ProofError("an injected vector changes nothing: the model sees the plain marker instead")
    signal = min(from_marker, _distance(one, other))
    if signal <= SAME:
        raise ProofError("two different vectors give the same logits: check the injection's rule and scale")
    for name, same in (("sent twice", again), ("the prompt's start comes from the cache", reused)):
        if _distance(one, same) > max(SAME, DRIFT * signal):
            raise ProofError(f"the same vector gives different logits when {name}")
    await _compare_logprobs(verbalizer, engine, replica)
    await _warm_up(verbalizer, engine, replica)


async def _compare_logprobs(verbalizer: Verbalizer, engine: Engine, replica: dict[str, int]) -> None:
    """Compare with transformers, where that was asked. The vector is scaled already; scaled again it is the same."""
    expected = verbalizer.settings.expected
    if expected is None:
        return
    injected = verbalizer.inject(np.array(expected.vector, dtype=np.float32))
    asked = verbalizer.payload(injected, ONE_TOKEN, _rid("expected")) | replica | {"input_ids": list(expected.ids)}
    found = await _logprobs(engine, asked, verbalizer.prompt)
    problem = logprob_mismatch(_distance(found, list(expected.logprobs)), verbalizer.settings.dtype)
    if problem is not None:
        raise ProofError(problem)


async def _warm_up(verbalizer: Verbalizer, engine: Engine, replica: dict[str, int]) -> None:
    """Take the ways that requests take, alone and as a batch: what compiles on first use does it now."""
    vectors = np.random.default_rng(1).standard_normal((BATCH, verbalizer.description.d_model)).astype(np.float32)
    injected = [verbalizer.inject(vector) for vector in vectors]
    for sampling in WARMED:
        await engine.generate(verbalizer.payload(injected[0], sampling, _rid("alone")) | replica)
        await gather(engine.generate(verbalizer.payload(one, sampling, _rid("batch")) | replica) for one in injected)


async def prove_reconstruction(reconstructor: Reconstructor, engine: Engine) -> None:
    """Prove that texts become finite vectors [d_model], different for different texts.

    Raises:
        ProofError: they do not.
    """
    prompts = [reconstructor.prompt.encode(text) for text in PROOF_TEXTS]
    await engine.embed(prompts[:1], reconstructor.settings.model, _rid("alone"))  # warms up for a text alone
    vectors, _ = await engine.embed(prompts, reconstructor.settings.model, _rid("texts"))
    d_model = reconstructor.description.d_model
    for vector in vectors:
        if vector.shape != (d_model,) or not np.isfinite(vector).all() or not vector.any():
            raise ProofError(f"it rebuilds vectors that are not {d_model} finite numbers")
    if np.allclose(vectors[0], vectors[1], rtol=1e-3, atol=0):
        raise ProofError("two different texts give the same vector")
    await _compare_vector(reconstructor, engine)


async def _compare_vector(reconstructor: Reconstructor, engine: Engine) -> None:
    """Compare with transformers, where that was asked."""
    settings = reconstructor.settings
    if settings.expected is None:
        return
    wanted = np.array(settings.expected.vector, dtype=np.float32)
    (found,), _ = await engine.embed([list(settings.expected.ids)], settings.model, _rid("expected"))
    if (problem := vector_mismatch(found, wanted, settings.dtype)) is not None:
        raise ProofError(problem)


async def prove_reading(source: Source, engine: Engine) -> None:
    """Prove that a source gives finite vectors [d_model], each of its own place and of what stands before it alone.

    Vectors may all be nearly alike, so what must be the same is held against what must differ.

    Raises:
        ProofError: it does not.
    """
    texts = await source.ids_of((LONG_TEXT, *PROOF_TEXTS))
    whole, first, second = await _read(source, engine, "texts", texts, [list(range(len(ids))) for ids in texts])
    shorter, steps = min(len(first), len(second)), _steps(whole)
    if not np.median(norms(first[:shorter] - second[:shorter])) > DRIFT * np.median(steps):
        raise ProofError("two different texts give the same vector")
    await _prove_places(source, engine, texts[0], whole)
    await _compare_reading(source, engine)
    source.note_norm(typical_norm(whole))


async def _prove_places(source: Source, engine: Engine, ids: list[int], whole: NDArray[np.float32]) -> None:
    """Prove that a text's rows [n, d_model] are those of its places, by parts of it and by another end."""
    half, steps = len(ids) // 2, _steps(whole)
    some = list(range(half, len(ids), 2))
    parts, places = [ids, ids[:half], ids[:half] * 2], [some, list(range(half)), list(range(half + 1))]
    chosen, before, changed = await _read(source, engine, "parts", parts, places)
    if not steps.all() or not _alike(chosen, whole[some], steps[some]):
        raise ProofError("it is not read where it is asked to be")
    if not all(_alike(rows[:half], whole[:half], steps[:half]) for rows in (before, changed)):
        raise ProofError(
            "what stands after a place changes its vector: the model does not read from left to right, or it is read"
            " later than it is asked to be"
        )
    # The first token that is another must show where it stands: else all is read one place earlier.
    drift = norms(changed - whole[: half + 1]) / steps[: half + 1]
    if not drift[:half].max() < DRIFT * drift[half]:
        raise ProofError("a place's own token does not change its vector: it is read earlier than it is asked to be")


async def _read(
    source: Source, engine: Engine, name: str, texts: list[list[int]], places: list[list[int]]
) -> list[NDArray[np.float32]]:
    """Read rows [places, d_model] of each text; ProofError where they are none."""
    found, _ = await engine.read(texts, places, _rid(name))
    d_model = source.description.d_model
    for rows in found:
        if rows.shape[1:] != (d_model,) or not np.isfinite(rows).all() or not rows.any(axis=1).all():
            raise ProofError(f"it gives vectors that are not {d_model} finite numbers")
    return found


def _steps(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far each row [n] is from the nearer of its neighbours, and at least as far as most are.

    One that is far longer than all others, as a first token's, has steps, and rounding, of its own.
    """
    between = norms(np.diff(rows, axis=0))
    nearer = np.minimum([between[0], *between], [*between, between[-1]])
    steps: NDArray[np.float64] = np.maximum(nearer, np.median(nearer))
    return steps


def _alike(one: NDArray[np.float32], other: NDArray[np.float32], steps: NDArray[np.float64]) -> bool:
    """Whether rows [n, d] are the same but for rounding: in direction, and beside the steps [n] between places."""
    near = norms(one - other) <= DRIFT * steps
    return bool(near.all() and _cosines(one, other).min() >= SAME_DIRECTION)


async def _compare_reading(source: Source, engine: Engine) -> None:
    """Compare with transformers, where that was asked."""
    settings = source.settings
    if settings.expected is None:
        return
    ids, wanted = list(settings.expected.ids), np.array(settings.expected.vector, dtype=np.float32)
    (rows,), _ = await engine.read([ids], [[len(ids) - 1]], _rid("expected"))
    if (problem := vector_mismatch(rows[0], wanted, settings.dtype)) is not None:
        raise ProofError(problem)


def _cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row [n] of two arrays [n, d]."""
    products = np.einsum("ij,ij->i", one, other)
    cosines: NDArray[np.float32] = products / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return cosines


def check_plugin(part: Part, info: dict[str, Any]) -> None:
    """Compare an engine's account of itself with what it is meant to be.

    Raises:
        ProofError: it is something else.
    """
    states = _states(info)
    for state in states:
        _check_report(part, state.get("nla"))
    if len(states) != part.settings.replicas:
        raise ProofError(f"the engine has {len(states)} replicas, but was meant to have {part.settings.replicas}")


def _states(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each replica."""
    return info.get("internal_states") or [{}]


def settle_fingerprint(part: Part, info: dict[str, Any]) -> None:
    """Hold engines elsewhere, of which only they know what they serve, to what the first of them serves.

    Raises:
        ProofError: another was first meanwhile, and serves something else.
    """
    for state in _states(info):
        told = state["nla"]["fingerprint"]
        if told is not None and part.settings.fingerprint is None:
            part.engines.settle_fingerprint(told)
        _check_fingerprint(part, told)


def _check_fingerprint(part: Part, told: str | None) -> None:
    known = part.engines.fingerprint
    if known is not None and told != known:
        if part.settings.fingerprint is None:
            raise ProofError(
                "the engine serves another checkpoint than the one that was there first: start all with the same files,"
                " and the gateways again where those are to change"
            )
        raise ProofError(
            f"the engine serves another checkpoint than {part.settings.checkpoint}: start both with the same files"
        )


def _check_report(part: Part, report: dict[str, Any] | None) -> None:
    if report is None:
        raise ProofError("the engine runs without our plugin (nla_engine): it was not started by nla-serve")
    if report["missing_hooks"]:
        raise ProofError(f"these hooks of our plugin are not in: {', '.join(report['missing_hooks'])}")
    role, dtype = part.role, part.settings.dtype
    if report["role"] != role:
        raise ProofError(f"the engine was started as {report['role']}, not as {role}")
    if "fingerprint" not in report:
        raise ProofError("the engine does not say which checkpoint it serves: another version of nla-serve started it")
    if report["kind"] != role.label:
        raise ProofError(f"the engine runs the stock class {report['model_class']} instead of a {role.label}")
    blocks = _blocks_of(part)
    if blocks is not None and report["blocks"] != blocks:
        raise ProofError(f"the engine runs {report['blocks']} blocks, but was meant to run {blocks}: another layer")
    if report["dtype"] != dtype:
        raise ProofError(f"the engine computes in {report['dtype']}, but was meant to in {dtype}")
    _check_fingerprint(part, report["fingerprint"])


def _blocks_of(part: Part) -> int | None:
    """So many blocks a model has whose last one's output counts."""
    match part:
        case Verbalizer():
            return None
        case Reconstructor():
            return part.description.of_reconstructor().blocks
        case Source():
            return part.description.of_source().blocks
        case _:
            assert_never(part)


async def _logprobs(engine: Engine, payload: dict[str, Any], prompt: VerbalizerPrompt) -> Logprobs:
    # From the marker on, so that the marker's own request reuses as much as the others and is computed as they are.
    asked = {"return_logprob": True, "top_logprobs_num": TOP_LOGPROBS, "logprob_start_len": prompt.position}
    meta = (await engine.generate(payload | asked))["meta_info"]
    forced = len(payload["input_ids"]) - len(prompt.ids)
    places = [*meta["input_top_logprobs"][-forced:], *meta["output_top_logprobs"]]
    tops = [{token: logprob for logprob, token, *_ in place} for place in places]
    # JSON has no NaN: the engine sends null for it.
    if not all(logprob is not None and np.isfinite(logprob) for top in tops for logprob in top.values()):
        raise ProofError("the logits are not finite: check the injection's rule and scale")
    return tops


def _rid(name: str) -> str:
    """An id of its own: several gateways may prove one engine at the same time."""
    return f"proof.{name}.{uuid.uuid4().hex}."


def _distance(one: Logprobs, other: Logprobs) -> float:
    """Largest difference of log-probabilities at any place."""
    return max(_distance_at(*place) for place in zip(one, other, strict=True))


def _distance_at(one: dict[int, float], other: dict[int, float]) -> float:
    """The same at one place; a token outside a top list has at most that list's least."""
    least_one, least_other = min(one.values()), min(other.values())
    pairs = ((one.get(token, least_one), other.get(token, least_other)) for token in one.keys() | other.keys())
    return max(abs(max(a, FLOOR) - max(b, FLOOR)) for a, b in pairs)
