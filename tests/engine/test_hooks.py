"""The hooks by themselves; that SGLang calls them is shown by the end-to-end tests."""

import base64
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nla_engine.requests import decode_injection
from nla_engine.sampling import multinomial_on_cpu
from nla_engine.weights import load_completely

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


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_missing_or_bad_weights_are_named(value: float | None) -> None:
    def load(model: Model) -> None:
        model.first.weight.data.fill_(1.0)
        if value is not None:
            model.second.weight.data.fill_(value)

    with pytest.raises(ValueError, match=r"second\.weight"):
        load_completely(load, Model())


def test_complete_weights_pass() -> None:
    def load(model: Model) -> None:
        for parameter in model.parameters():
            parameter.data.fill_(1.0)

    load_completely(load, Model())
