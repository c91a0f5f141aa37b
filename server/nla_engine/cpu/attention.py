"""Attention on CPUs: sequences of about the same length go through torch in one padded call.

SGLang's `torch_native` makes several small calls for each sequence in each layer, which cost more than what they
compute. The results are its own but for rounding; what goes beyond a decoder's attention to itself is left to it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from torch.nn.functional import scaled_dot_product_attention

from nla_engine.cpu.platform import ATTENTION

GROUP_SEQUENCES: Final = 16
GROUP_BYTES: Final = 1 << 20
"""Of keys, with the padding, so that a group stays in a core's cache; a longer sequence is a group by itself."""
SLACK: Final = 16
"""Tokens that a group's longest sequence may have beyond a third more than its shortest."""


@dataclass(frozen=True)
class Group:
    """Some of a batch's sequences, padded to the longest: past its end, a sequence repeats its last token."""

    slots: torch.Tensor
    """[sequences * longest], where in the KV pool each key is."""
    rows: torch.Tensor
    """[sequences * width], the row of each query."""
    positions: torch.Tensor
    """[sequences, width], of each query in its sequence."""
    longest: int
    whole: bool
    """Whether all the sequences begin here: none goes on from the cache."""
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def is_causal(self, window: int | None) -> bool:
        """Tell whether a plain causal mask does: padding comes last, where no real query looks."""
        return self.whole and (window is None or self.longest <= window + 1)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Form what is added to the scores [sequences, 1, width, longest], once for all layers alike."""
        if window not in self._masks:
            keys, queries = torch.arange(self.longest), self.positions[:, :, None]
            seen = keys <= queries
            if window is not None:
                seen &= keys >= queries - window
            self._masks[window] = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)[:, None]
        return self._masks[window]


@dataclass(frozen=True)
class Plan:
    """How a batch is computed, the same in all its layers."""

    groups: list[Group]
    back: torch.Tensor
    """[rows], where each query's answer is in the groups' answers, one group after the other."""


def make_plan(table: torch.Tensor, requests: torch.Tensor, cached: list[int], new: list[int], most: int) -> Plan:
    """Group a batch's sequences.

    Args:
        table: [requests, context], where in the KV pool each request's tokens are.
        requests: [sequences], their rows in it.
        cached: for each sequence, its tokens before the new ones.
        new: for each sequence, its tokens with a query, at least 1; the queries of one follow those of another.
        most: keys that a group may hold.
    """
    order = sorted(range(len(new)), key=lambda k: (cached[k] > 0, cached[k] + new[k]))
    chosen, before, count = torch.tensor(order), torch.tensor(cached), torch.tensor(new)
    first = count.cumsum(0) - count
    slots = table[requests[chosen, None], _count_up((before + count)[chosen])]
    offsets = _count_up(count[chosen])
    rows, positions = first[chosen, None] + offsets, before[chosen, None] + offsets
    groups, found, start = [], [0] * len(new), 0
    for some in _alike([(cached[k], new[k]) for k in order], most):
        members = order[some]
        longest, width = max(cached[k] + new[k] for k in members), max(new[k] for k in members)
        part = slots[some, :longest].flatten(), rows[some, :width].flatten(), positions[some, :width]
        groups.append(Group(*part, longest, whole=cached[members[0]] == 0))
        for k in members:
            found[k] = start
            start += width
    return Plan(groups, (torch.tensor(found) - first).repeat_interleave(count) + torch.arange(sum(new)))


def _count_up(lengths: torch.Tensor) -> torch.Tensor:
    """Count from 0 in each row, up to its length and no further [rows, the longest]."""
    return torch.minimum(torch.arange(int(lengths.max())), lengths[:, None] - 1)


def _alike(sequences: Sequence[tuple[int, int]], most: int) -> Iterator[slice]:
    """Cut sequences of (cached, new) tokens, shortest first, where the next one no longer suits a group."""
    start = 0
    for k, (cached, new) in enumerate(sequences):
        shortest = sum(sequences[start])
        fits = (k + 1 - start) * (cached + new) <= most and k - start < GROUP_SEQUENCES
        if k > start and not (
            fits and cached + new <= shortest * 4 // 3 + SLACK and (cached > 0) == (sequences[start][0] > 0)
        ):
            yield slice(start, k)
            start = k
    yield slice(start, len(sequences))


def attend(
    group: Group,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    scaling: float,
    window: int | None,
    cap: float = 0.0,
) -> torch.Tensor:
    """Compute a layer's attention of a group.

    Args:
        group: of a batch's sequences.
        query: [rows, heads, size], of the batch.
        keys: [slots, key heads, size], the layer's part of the KV pool.
        values: [slots, key heads, size], likewise.
        scaling: of the scores.
        window: how far back a token looks; None for all the way.
        cap: what the scores stay below, by a tanh; 0 for no such thing.

    Returns:
        [sequences * width, heads, size].
    """
    (sequences, width), (_, heads, size), key_heads = group.positions.shape, query.shape, keys.shape[1]
    queries = query.index_select(0, group.rows)
    alone = width == 1
    if alone:
        # Heads that share keys stand where else a sequence's queries do, so that one product serves them all.
        queries = queries.view(sequences, key_heads, heads // key_heads, size)
    else:
        queries = queries.view(sequences, width, heads, size).transpose(1, 2)
    key, value = (
        pool.index_select(0, group.slots)
        .view(sequences, group.longest, key_heads, size)
        .transpose(1, 2)
        .to(query.dtype)
        for pool in (keys, values)
    )
    if cap:
        answer = attend_capped(queries, key, value, group.mask(window, query.dtype), scaling=scaling, cap=cap)
    else:
        causal = group.is_causal(window)
        mask = None if causal else group.mask(window, query.dtype)
        shared = not alone and heads != key_heads
        answer = scaled_dot_product_attention(
            queries, key, value, attn_mask=mask, is_causal=causal and not alone, scale=scaling, enable_gqa=shared
        )
    return (answer if alone else answer.transpose(1, 2)).reshape(-1, heads, size)


def attend_capped(
    queries: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, scaling: float, cap: float
) -> torch.Tensor:
    """Compute attention step by step, with scores that a tanh keeps below a cap, which torch's own call has not.

    Args:
        queries: [sequences, heads, width, size].
        key: [sequences, key heads, keys, size].
        value: likewise.
        mask: [sequences, 1, width, keys] or what broadcasts to it, added to the scores.
        scaling: of the scores, before the cap.
        cap: what they stay below.

    Returns:
        [sequences, heads, width, size].
    """
    sharing = queries.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(sharing, dim=1), value.repeat_interleave(sharing, dim=1)
    scores = queries @ key.transpose(-1, -2) * scaling
    scores = torch.tanh(scores / cap) * cap + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


class CpuAttention(TorchNativeAttnBackend):  # type: ignore[misc]  # SGLang ships no types
    """SGLang's own, with its loops over sequences replaced."""

    _plan: Plan | None = None
    _cap: float = 0.0
    """Of the layer's scores; SGLang's own takes no notice of it."""

    def __init__(self, model_runner: Any) -> None:
        if model_runner.page_size not in (None, 1):
            # SGLang would then take a Triton kernel, which it does not with torch_native.
            raise ValueError(f"--attention-backend {ATTENTION} needs --page-size 1; torch_native takes others")
        super().__init__(model_runner)

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Plan a batch before its layers."""
        super().init_forward_metadata(forward_batch)
        self._plan = self._plan_of(forward_batch)

    def _plan_of(self, batch: Any) -> Plan | None:
        if self.use_sliding_window_kv_pool or batch.encoder_lens is not None:
            return None
        if batch.forward_mode == ForwardMode.DECODE:
            lengths = batch.seq_lens.tolist()
            cached, new = [length - 1 for length in lengths], [1] * len(lengths)
        elif batch.forward_mode in (ForwardMode.EXTEND, ForwardMode.MIXED):
            cached, new = batch.extend_prefix_lens.tolist(), batch.extend_seq_lens.tolist()
        else:
            return None
        if not new or min(new) < 1:
            return None
        keys = self.token_to_kv_pool.get_key_buffer(self.token_to_kv_pool.start_layer)
        most = GROUP_BYTES // (keys[0].numel() * keys.element_size())
        return make_plan(self.req_to_token_pool.req_to_token, batch.req_pool_indices, cached, new, most)

    def forward_extend(self, q: Any, k: Any, v: Any, layer: Any, *rest: Any, **options: Any) -> torch.Tensor:
        """Compute a layer for a batch of prompts."""
        self._cap = layer.logit_cap or 0.0
        answer: torch.Tensor = super().forward_extend(q, k, v, layer, *rest, **options)
        return answer

    def forward_decode(self, q: Any, k: Any, v: Any, layer: Any, *rest: Any, **options: Any) -> torch.Tensor:
        """Compute a layer for a batch of last tokens."""
        self._cap = layer.logit_cap or 0.0
        answer: torch.Tensor = super().forward_decode(q, k, v, layer, *rest, **options)
        return answer

    def _run_sdpa_forward_extend(self, *tensors: Any, causal: bool, **options: Any) -> torch.Tensor:
        if not causal or not self._attend(*tensors, **options):
            super()._run_sdpa_forward_extend(*tensors, causal=causal, **options)
        output: torch.Tensor = tensors[1]
        return output

    def _run_sdpa_forward_decode(self, *tensors: Any, **options: Any) -> torch.Tensor:
        if not self._attend(*tensors, **options):
            super()._run_sdpa_forward_decode(*tensors, **options)
        output: torch.Tensor = tensors[1]
        return output

    def _attend(
        self, query: Any, output: Any, keys: Any, values: Any, *_: Any, is_cross_attn: bool, **options: Any
    ) -> bool:
        """Write the output, or tell that this is not for us.

        Raises:
            NotImplementedError: nor for SGLang's own, which would leave a cap of the scores out.
        """
        plan, same_size = self._plan, keys.shape[-1] == values.shape[-1]
        if plan is None or is_cross_attn or not same_size:
            if self._cap:
                raise NotImplementedError("attention of this kind with capped scores, on a CPU")
            return False
        form: dict[str, Any] = {"scaling": options["scaling"], "window": options["sliding_window_size"]}
        answers = [attend(group, query, keys, values, cap=self._cap, **form) for group in plan.groups]
        torch.index_select(torch.cat(answers), 0, plan.back, out=output[: len(plan.back)])
        return True
