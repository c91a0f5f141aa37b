"""Attention on CPUs gives what SGLang's own gives, for every kind of batch."""

from tests.warm import run_program

COMPARE = """
import sys
from types import SimpleNamespace as Bag
import torch
from nla_engine.cpu.attention import CpuAttention, attend_capped
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.model_executor.forward_batch_info import ForwardMode

torch.manual_seed(0)

class Pool:
    start_layer = 0
    def __init__(self, heads, size, dtype):
        self.keys, self.values = torch.randn(2, 4096, heads, size).to(dtype)
    def get_key_buffer(self, layer):
        return self.keys
    def get_value_buffer(self, layer):
        return self.values
    def set_kv_buffer(self, layer, place, keys, values):
        self.keys[place.loc], self.values[place.loc] = keys, values

def compare(mode, cached, new, heads=4, key_heads=2, window=-1, dtype=torch.float32, kind=None, cap=0.0):
    cached, new, size = torch.tensor(cached), torch.tensor(new), 16
    lengths, count, requests = cached + new, len(new), torch.randperm(len(new) + 3)[: len(new)]
    table, free, fresh = torch.zeros(count + 3, 512, dtype=torch.int32), torch.randperm(4096), []
    for request, before, length in zip(requests, cached, lengths):
        table[request, :length], free = free[:length], free[length:]
        fresh.append(table[request, before:length].long())
    runner = Bag(device="cpu", page_size=1, req_to_token_pool=Bag(req_to_token=table),
                 token_to_kv_pool=Pool(key_heads, size, dtype))
    batch = Bag(forward_mode=mode, encoder_lens=None, out_cache_loc=torch.cat(fresh), req_pool_indices=requests,
                seq_lens=lengths, extend_prefix_lens=cached, extend_seq_lens=new)
    layer = Bag(qk_head_dim=size, v_head_dim=size, tp_q_head_num=heads, tp_k_head_num=key_heads, layer_id=0,
                scaling=0.3, is_cross_attention=False, attn_type=kind, sliding_window_size=window,
                logit_cap=cap)
    q, k, v = (torch.randn(int(new.sum()), number, size).to(dtype) for number in (heads, key_heads, key_heads))
    answers = []
    for backend in (TorchNativeAttnBackend(runner), CpuAttention(runner)):
        backend.init_forward_metadata(batch)
        compute = backend.forward_decode if mode == ForwardMode.DECODE else backend.forward_extend
        answers.append(compute(q.flatten(1), k, v, layer, batch))
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=3e-6 if dtype == torch.float32 else 0.04)
    return len(backend._plan.groups)

extend, mixed, decode = ForwardMode.EXTEND, ForwardMode.MIXED, ForwardMode.DECODE
lengths = [7, 41, 20, 1, 33, 100, 19, 5, 60, 2] * 2
assert compare(extend, [0] * 20, lengths) > 1
assert compare(extend, [0], [300]) == 1
assert compare(extend, [97] * 20, [19] * 20, heads=6) == 2
compare(extend, [97, 0, 30, 200] * 5, lengths)
compare(extend, [97, 0, 30, 200] * 5, lengths, heads=3, key_heads=3)
compare(mixed, [97, 0, 30, 200] * 5, [1, 9, 60, 1] * 5)
assert compare(decode, [5], [1]) == 1
compare(decode, [0, *lengths[1:]], [1] * 20, heads=14)
compare(decode, lengths, [1] * 20, heads=2)
for window in (0, 7, 60):
    compare(extend, [0] * 20, lengths, window=window)
    compare(extend, [97, 0, 30, 200] * 5, lengths, window=window)
    compare(decode, lengths, [1] * 20, window=window)
    # So high a cap changes nothing, and SGLang's own knows none.
    compare(extend, [97, 0, 30, 200] * 5, lengths, window=window, cap=1e4)
    compare(decode, lengths, [1] * 20, window=window, cap=1e4)
compare(extend, [0] * 20, lengths, cap=1e4)
compare(extend, [97, 0, 30, 200] * 5, lengths, dtype=torch.bfloat16)
compare(decode, lengths, [1] * 20, dtype=torch.bfloat16)
compare(extend, [0] * 20, lengths, kind=AttentionType.ENCODER_ONLY)
one, other, keys = torch.randn(3, 1, 4, 5, 16)
scores = one @ other.transpose(-1, -2) * 0.3
wanted = (2 * (scores / 2).tanh()).softmax(-1) @ keys
torch.testing.assert_close(attend_capped(one, other, keys, torch.zeros(5), scaling=0.3, cap=2.0), wanted)
try:
    CpuAttention(Bag(page_size=16))
except ValueError as error:
    sys.stdout.write(f"good: {error}")
"""


def test_it_gives_what_sglangs_own_gives() -> None:
    run = run_program(COMPARE)
    assert run.stdout.endswith("good: --attention-backend nla_cpu needs --page-size 1; torch_native takes others"), (
        run.stderr
    )
