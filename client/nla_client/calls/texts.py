"""The endpoints that begin with a text, as pure values: what to send and how to read the answer. No I/O."""

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import Any, Final

from nla_client.calls import replies
from nla_client.calls.base import MAX_SAMPLES, SEEDS, Batch, Call, Sampling, as_json, items_per_request, split
from nla_client.calls.replies import Explained
from nla_client.calls.sources import Chosen, Sources
from nla_client.errors import InvalidArgumentError
from nla_client.results.explained import Extractions, Tokenization
from nla_client.vectors import check_dtype
from nla_client.wire import VectorDType

WHOLE_TEXTS: Final = 8
"""By how much fewer texts go into one request where all of their tokens are read."""


def tokenize(sources: Sources, batch_size: int) -> Batch[Tokenization]:
    """`POST /tokenize`, as many as it takes."""

    def build(start: int, stop: int) -> Call[list[Tokenization]]:
        body = as_json(sources.body(range(start, stop)))
        return Call("POST", "/tokenize", body, lambda reply: replies.tokenizations(reply, stop - start), start)

    return split(sources.count, batch_size, build)


def extract(sources: Sources, chosen: Sequence[Chosen], dtype: VectorDType, batch_size: int) -> Batch[Extractions]:
    """`POST /extract`, as many as it takes."""
    check_dtype(dtype)
    is_whole = any(isinstance(one.choice, str) and one.choice != "last" for one in chosen)
    size = max(1, batch_size // WHOLE_TEXTS) if is_whole else batch_size

    def build(start: int, stop: int) -> Call[list[Extractions]]:
        body = as_json(_body(sources, chosen[start:stop]) | {"dtype": dtype})
        return Call("POST", "/extract", body, lambda reply: [replies.extractions(reply, stop - start)], start)

    return split(sources.count, size, build)


def fits_one(sources: Sources, chosen: Sequence[Chosen], sampling: Sampling, batch_size: int) -> bool:
    """Whether all positions go into one request, however many they turn out to be."""
    most = [sources.most_tokens(one.index) if one.count is None else one.count for one in chosen]
    bounds = [count for count in most if count is not None]
    whole = len(bounds) == len(most) and len(most) <= batch_size
    return whole and sum(bounds) <= items_per_request(sampling, MAX_SAMPLES)


def explain(sources: Sources, chosen: Sequence[Chosen], sampling: Sampling, batch_size: int) -> Batch[Explained]:
    """`POST /explain`, as many as it takes: by samples, not by texts, so that one text may take several.

    The number of each text's positions must be known, or all fit into one request. Seeds move on by the positions
    before.
    """
    most = items_per_request(sampling, MAX_SAMPLES)
    pieces = [piece for one in chosen for piece in one.cut(most)]
    firsts = [0, *accumulate(piece.count or 0 for piece in pieces)]
    groups = _grouped(pieces, most, batch_size)

    def build(start: int, stop: int) -> Call[list[Explained]]:
        return _explain(sources, pieces[start:stop], sampling, firsts[start])

    return Batch(len(groups), lambda k: build(groups[k].start, groups[k].stop))


def _explain(sources: Sources, pieces: Sequence[Chosen], sampling: Sampling, first: int) -> Call[list[Explained]]:
    body = as_json(_body(sources, pieces) | _sampling(sampling, first))
    indices = [piece.index for piece in pieces]

    def parse(reply: bytes) -> list[Explained]:
        return [replies.explained(reply, indices)]

    offset = dict.fromkeys((sources.form, "positions"), indices[0])
    return Call("POST", "/explain", body, parse, offset, halves=_halves(sources, pieces, sampling, first))


def _halves(
    sources: Sources, pieces: Sequence[Chosen], sampling: Sampling, first: int
) -> Callable[[], tuple[Call[list[Explained]], Call[list[Explained]]]] | None:
    if any(piece.count is None for piece in pieces):
        return None  # the seeds of a second half could not be told
    if len(pieces) == 1:
        size = pieces[0].count or 0
        pieces = pieces[0].cut(-(-size // 2))
        if len(pieces) == 1:
            return None  # one position, or a word that must be sent as it is
    middle = len(pieces) // 2
    second = first + sum(piece.count or 0 for piece in pieces[:middle])
    return lambda: (
        _explain(sources, pieces[:middle], sampling, first),
        _explain(sources, pieces[middle:], sampling, second),
    )


def _grouped(pieces: Sequence[Chosen], most: int, batch_size: int) -> list[range]:
    """Pieces that go into one request: of at most so many positions, and so many texts."""
    groups, start, held = list[range](), 0, 0
    for stop, piece in enumerate(pieces):
        count = piece.count or 0
        if stop > start and (held + count > most or stop - start == batch_size):
            groups.append(range(start, stop))
            start, held = stop, 0
        held += count
    return [*groups, range(start, len(pieces))]


def explain_stream(sources: Sources, chosen: Sequence[Chosen], sampling: Sampling, batch_size: int) -> Call[bytes]:
    """`POST /explain` as server-sent events, in one request.

    Raises:
        InvalidArgumentError: more texts, or as far as that can be told more positions, than fit in one request.
    """
    if sources.count > batch_size:
        raise InvalidArgumentError(f"a stream takes 1 to {batch_size} texts, not {sources.count}")
    most, count = items_per_request(sampling, MAX_SAMPLES), sum(one.count or 0 for one in chosen)
    if count > most:
        raise InvalidArgumentError(f"a stream takes 1 to {most} positions with n={sampling.n}, not {count}")
    body = as_json(_body(sources, chosen) | _sampling(sampling, 0) | {"stream": True})
    return Call("POST", "/explain", body, bytes)


def _body(sources: Sources, chosen: Sequence[Chosen]) -> dict[str, Any]:
    choices = [one.choice for one in chosen]
    alike = len(list(groupby(choices))) == 1 and isinstance(choices[0], str)
    return sources.body([one.index for one in chosen]) | {"positions": choices[0] if alike else choices}


def _sampling(sampling: Sampling, first: int) -> dict[str, Any]:
    fields = {name: value for name, value in sampling.as_fields().items() if name != "dtype"} | {"stream": False}
    if first and sampling.seed is not None:
        # The server derives a position's seed from this one plus its number in the request, which starts anew.
        fields["seed"] = (sampling.seed + first) % SEEDS
    return fields
