"""What is served against transformers, on the same device and in the same dtype: greedy texts, and rebuilt vectors.

In float32 all of it is equal. In bfloat16 two kernels round otherwise, and a text that once differs goes on otherwise.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nla_client.wire import VerbalizeRequest
from nla_gateway.pair.verbalizer import sampling
from tests.benchmarks.figures import Figure
from tests.benchmarks.reconstruct import make_texts
from tests.plain import ask_engine, decode, verbalizer_of
from tests.reference import ReferenceReconstructor, ReferenceVerbalizer, score
from tests.stack import Stack, detached_verbalizer


@dataclass(frozen=True)
class Served:
    """What a stack answered, to be compared once its engines have ended, and the device is free."""

    vectors: NDArray[np.float32]
    """[n, d]."""
    dtype: str
    """Its engines'."""
    answers: list[list[int]]
    """Token ids, greedily, of each vector."""
    texts: list[str]
    rebuilt: list[NDArray[np.float32]]
    """A vector [d] of each text."""


def ask(stack: Stack, vectors: NDArray[np.float32], tokens: int) -> Served:
    """Have vectors [n, d] explained, and as many texts rebuilt."""
    part, texts = detached_verbalizer(verbalizer_of(stack)), make_texts(len(vectors))
    call = VerbalizeRequest(vectors="", temperature=0, max_tokens=tokens)
    payloads = [
        part.payload(part.inject(vector), sampling(call, 0, part.prompt.form), f"alike.{number}.")
        for number, vector in enumerate(vectors)
    ]
    answers = [ask_engine(part.settings, "/generate", one, timeout=600).json()["output_ids"] for one in payloads]
    reply = stack.http.post("/reconstruct", json={"texts": texts, "dtype": "float32"}).raise_for_status()
    rebuilt = [decode(data) for data in reply.json()["vectors"]]
    return Served(vectors, part.settings.dtype, answers, texts, rebuilt)


def compare(name: str, served: Served, av: Path, ar: Path, device: str) -> list[Figure]:
    """Form the rows of a pair, whose checkpoints transformers runs on the device; nothing of it stays there."""
    dtype = getattr(torch, served.dtype)
    verbalizer = ReferenceVerbalizer(av, dtype=dtype, device=device)
    most = max(map(len, served.answers))
    wanted = [answer.ids for answer in verbalizer.answers(list(served.vectors), most)]
    del verbalizer
    _free(device)
    reconstructor = ReferenceReconstructor(ar, dtype=dtype, device=device)
    pairs = zip(served.texts, served.rebuilt, strict=True)
    cosines = [score(reconstructor.vector(text), rebuilt, None)[1] for text, rebuilt in pairs]
    del reconstructor
    _free(device)
    same = [in_common(*pair) for pair in zip(served.answers, wanted, strict=True)]
    whole = sum(length == len(answer) for length, answer in zip(same, served.answers, strict=True))
    return [
        Figure(f"{name}, {served.dtype}: greedy texts equal to transformers', of {len(same)}", [float(whole)], "texts"),
        Figure(f"{name}, {served.dtype}: tokens up to the first that differs", [float(n) for n in same], "tokens"),
        Figure(f"{name}, {served.dtype}: cosine of vectors rebuilt by both", cosines, "of 1"),
    ]


def in_common(answer: Sequence[int], wanted: Sequence[int]) -> int:
    """Count the tokens before the first that differs. What is wanted may go on, where an engine stops at a tag."""
    return next((at for at, token in enumerate(answer) if list(wanted[at : at + 1]) != [token]), len(answer))


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
