"""Zeros of a KV pool: the same as torch's, in memory that is taken when it is used."""

import psutil
import pytest
import torch

from nla_engine.cpu.pool import take_memory_late, untouched_zeros

SHAPE = (2, 4096, 8, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_are_torch_s(dtype: torch.dtype) -> None:
    ours, expected = untouched_zeros(SHAPE, dtype=dtype, device="cpu"), torch.zeros(SHAPE, dtype=dtype)
    assert (ours.dtype, ours.shape, ours.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert torch.equal(ours, expected)
    ours[1, 7] = 3.0
    expected[1, 7] = 3.0
    assert torch.equal(ours, expected)


def test_only_what_is_used_takes_memory() -> None:
    def resident() -> int:
        return psutil.Process().memory_info().rss

    made: list[torch.Tensor] = []
    before = resident()
    take_memory_late(lambda: made.append(torch.zeros((512, 1024, 256), dtype=torch.float32, device="cpu")))
    (pool,) = made
    assert resident() - before < pool.nbytes / 10
    pool[:256] = 1.0
    assert resident() - before > pool.nbytes / 3
    assert pool[256:].count_nonzero() == 0


def test_nothing_but_zeros_is_made_otherwise() -> None:
    def create() -> None:
        assert torch.equal(torch.ones(3) + torch.arange(3), torch.tensor([1.0, 2.0, 3.0]))

    take_memory_late(create)


def test_memory_of_another_device_is_not_given() -> None:
    with pytest.raises(ValueError, match="memory on cuda"):
        untouched_zeros(SHAPE, dtype=torch.float32, device="cuda")
