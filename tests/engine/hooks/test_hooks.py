"""The hooks by themselves; that SGLang calls them is shown by the end-to-end tests."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import zmq
from torch import nn
from torch.distributed import TCPStore

from nla_engine.classes.truncated import SomeRows
from nla_engine.hooks.idle import IDLE_MS, sleep_between_requests
from nla_engine.hooks.rendezvous import meet_on_loopback
from nla_engine.hooks.requests import decode_injection, encoded
from nla_engine.hooks.sampling import multinomial_on_cpu
from nla_engine.hooks.stopping import stop_at_once
from nla_engine.hooks.tokenizers import load_once
from tests.stack import free_port
from tests.warm import run_program

MANAGER = SimpleNamespace(model_config=SimpleNamespace(hidden_size=4))


def request_with(**overrides: Any) -> SimpleNamespace:
    row = base64.b64encode(np.arange(4, dtype="<f4").tobytes()).decode()
    form = {"embeds": [row], "positions": [2], "dtype": "float32"} | overrides
    return SimpleNamespace(positional_embed_overrides=form)


def test_injection_decodes_to_rows_and_positions() -> None:
    request = request_with()
    decode_injection(MANAGER, request)
    assert request.positional_embed_overrides.positions == [2]
    assert request.positional_embed_overrides.embeds.tolist() == [[0.0, 1.0, 2.0, 3.0]]


def test_requests_without_injection_are_left_alone() -> None:
    request = SimpleNamespace(positional_embed_overrides=None)
    decode_injection(MANAGER, request)
    assert request.positional_embed_overrides is None


@pytest.mark.parametrize(
    "overrides",
    [
        {"embeds": ["!!!!"]},
        {"embeds": ["AAAA"]},
        {"embeds": ["AAAAAA=="]},
        {"embeds": []},
        {"embeds": "AAAA"},
        {"embeds": [3]},
        {"positions": None},
        {"positions": [1, 2]},
        {"dtype": "int8"},
        {"dtype": None},
    ],
)
def test_malformed_injection_is_a_value_error(overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"injected|positional|embeds"):
        decode_injection(MANAGER, request_with(**overrides))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_answered_as_base64(dtype: torch.dtype) -> None:
    rows = torch.randn(5, 4).to(dtype)[::2]

    async def answers() -> AsyncIterator[Any]:
        yield [{"embedding": [], "pooled_hidden_state": rows}, {"embedding": []}]

    async def ask() -> Any:
        return await anext(aiter(encoded(answers())))

    answer = asyncio.run(ask())
    assert base64.b64decode(answer[0]["pooled_hidden_state"]) == rows.contiguous().view(torch.uint8).numpy().tobytes()
    assert answer[1] == {"embedding": []}


def test_seeded_draws_depend_on_seed_and_position_alone() -> None:
    logprobs = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    seeds, positions = torch.tensor([5, 5, 6]), torch.tensor([7, 8, 7])
    together = multinomial_on_cpu(logprobs, seeds, positions)
    alone = [multinomial_on_cpu(logprobs[i : i + 1], seeds[i : i + 1], positions[i : i + 1]) for i in range(3)]
    assert together.flatten().tolist() == [int(drawn) for drawn in alone]


def test_seeded_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    logprobs = probabilities.log().repeat(4000, 1)
    drawn = multinomial_on_cpu(logprobs, torch.arange(4000), torch.zeros(4000, dtype=torch.long)).flatten()
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, probabilities, atol=0.03)
    assert shares[3] == 0


FILTERED = """
import sys, torch
from sglang.srt.layers import sampler
from nla_engine.hooks.sampling import draw_in_vocabulary_order, multinomial_on_cpu
sampler.multinomial_with_seed = multinomial_on_cpu
probs = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)).mul(2).softmax(dim=-1)
seeds, positions = torch.arange(64), torch.arange(64) + 3
def draw(top_k, top_p):
    ks, ps = torch.full((64,), top_k), torch.full((64,), top_p)
    return draw_in_vocabulary_order(None, probs.clone(), ks, ps, None, False, seeds, positions, max_top_k=top_k)
plain = multinomial_on_cpu(probs.log(), seeds, positions).flatten()
assert draw(1 << 30, 1.0).tolist() == plain.tolist()
assert draw(1, 1.0).tolist() == probs.argmax(dim=-1).tolist()
best = probs.topk(5).indices
assert all(int(token) in row for token, row in zip(draw(5, 1.0), best.tolist()))
kept = draw(1 << 30, 0.5)
ordered = probs.sort(dim=-1, descending=True)
for row, token in enumerate(kept.tolist()):
    rank = ordered.indices[row].tolist().index(token)
    assert ordered.values[row, :rank].sum() <= 0.5
sys.stdout.write("good")
"""


def test_filters_leave_an_unfiltered_draw_as_it_is() -> None:
    run = run_program(FILTERED)
    assert run.stdout.endswith("good"), run.stderr


def test_where_there_is_no_request_it_waits_a_while() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://here")
        there.connect("inproc://here")
        controller = SimpleNamespace(recv_from_tokenizer=here)
        socket = sleep_between_requests(lambda one: one.recv_from_tokenizer, controller)
        for receive, send, request in (
            (socket.recv, there.send, b"request"),
            (socket.recv_pyobj, there.send_pyobj, {"a": "request"}),
        ):
            started = time.monotonic()
            with pytest.raises(zmq.Again):
                receive(flags=zmq.NOBLOCK)
            assert time.monotonic() - started >= 0.9 * IDLE_MS / 1000
            send(request)
            assert receive(flags=zmq.NOBLOCK) == request


def test_only_the_rows_that_count_are_computed() -> None:
    module, inputs = nn.Linear(4, 3), torch.randn(7, 4)
    wanted = torch.zeros(7, 3)
    wanted[[1, 6]] = module(inputs[[1, 6]])
    SomeRows(module).rows = torch.tensor([1, 6])
    assert torch.equal(module(inputs), wanted)


def test_an_engines_processes_meet_on_loopback() -> None:
    def connect(hostname: str, port: int, rank: int, *options: Any) -> TCPStore:
        assert rank == 1
        return TCPStore(hostname, port, 1, False, options[1])

    port, wait = free_port(), timedelta(seconds=20)
    store = meet_on_loopback(connect, "127.0.0.1", port, 0, 1, wait)
    store.set("a", "b")
    assert meet_on_loopback(connect, "127.0.0.1", port, 1, 1, wait).get("a") == b"b"
    listening = [c.laddr for c in psutil.Process().net_connections() if c.status == "LISTEN"]
    assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]


def test_an_engine_ends_as_sglang_does_but_only_when_told() -> None:
    ended: list[SimpleNamespace] = []

    async def end(manager: SimpleNamespace) -> None:
        ended.append(manager)

    async def run() -> None:
        manager = SimpleNamespace(gracefully_exit=False)
        watch = asyncio.create_task(stop_at_once(end, manager))
        await asyncio.sleep(0.3)
        assert not ended
        manager.gracefully_exit = True
        await watch
        assert ended == [manager]

    asyncio.run(run())


def test_a_tokenizer_is_loaded_once_for_the_same_arguments() -> None:
    asked: list[tuple[str, str]] = []

    def load(name: str, *, mode: str = "auto") -> object:
        asked.append((name, mode))
        return object()

    one, other = load_once(load, "one", mode="auto"), load_once(load, "other", mode="auto")
    assert load_once(load, "one", mode="auto") is one
    assert load_once(load, "one", mode="slow") is not one
    assert other is not one
    assert asked == [("one", "auto"), ("other", "auto"), ("one", "slow")]
