"""What is measured against: a stock SGLang server, and checkpoints in which transport and scheduling dominate."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.checkpoints import edit_sidecar, make_reconstructor, make_tokenizer, write_sidecar
from tests.stack import ON_CPU, START_TIMEOUT_S, free_port
from tests.warm import IMPORTING, popen

STOCK: Final = "sglang.launch_server"
FORKED: Final = """
import runpy, sys
from nla_launch.run.fork_server import fork_all
fork_all()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module of SGLang's processes where SGLang is imported already: these are forked, too."""
STOP_S: Final = 30.0
STARTS: Final = 3
QWEN_LAYER: Final = 20
TEMPLATE: Final = (
    "Here is an activation vector of a language model, in the place of a word. Say in plain words what it stands for:"
    " what the text before it is about, what comes next, and what else it holds, the strongest first. Write all"
    " of it inside <explanation> and </explanation> tags. The activation: <concept>{injection_char}</concept>"
)
"""As long as the released pairs': about 125 tokens with the chat template."""


def make_wide_verbalizer(folder: Path, d_model: int) -> Path:
    """Make a one-layer Llama of few small heads: as wide a vector as a large model's, and little to compute."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=d_model, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_sidecar(folder, "av", tokenizer, "llama", d_model=d_model)
    edit_sidecar(folder, {"prompt_templates.av": TEMPLATE})
    return folder


def make_deep_reconstructor(folder: Path) -> Path:
    """Make a narrow Qwen2 reconstructor, as deep as that of the released Qwen2.5-7B pair."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("qwen2")
    make_reconstructor(folder, "qwen2", tokenizer, QWEN_LAYER + 1)
    tokenizer.save_pretrained(folder)
    write_sidecar(folder, "ar", tokenizer, "qwen2", layer=QWEN_LAYER)
    return folder


@contextmanager
def stock_server(checkpoint: Path, log: Path, dtype: str) -> Iterator[str]:
    """Serve a verbalizer as the public recipe does, on stock SGLang with the radix cache off; yields its URL.

    Its processes are forked where SGLang is imported already, as those of nla-serve are.

    Args:
        checkpoint: the verbalizer.
        log: what it writes.
        dtype: what it computes in.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "tests.program", FORKED, STOCK]
    command += ["--model-path", str(checkpoint), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", dtype]
    command += ["--disable-radix-cache", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
    command += ["--max-total-tokens", "32768", "--max-running-requests", "64", "--mem-fraction-static", "0.3"]
    command += ["--cuda-graph-backend-prefill", "disabled", "--cuda-graph-backend-decode", "disabled"]
    command += ["--skip-server-warmup", "--sleep-on-idle", "--log-level-http", "warning"]
    environment = {**os.environ, **ON_CPU, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    process = _start(url, command, environment | IMPORTING, log)
    try:
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _start(url: str, command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[str]:
    """Start a server, again where it ends: SGLang gives its own first request 10 s, which a busy machine may take."""
    deadline = time.monotonic() + START_TIMEOUT_S
    for _ in range(STARTS):
        with log.open("w") as output:
            process = popen(command, environment, stdout=output, stderr=output)
        while time.monotonic() < deadline and process.poll() is None:
            if _is_up(url):
                return process
            time.sleep(0.5)
        process.kill()
        if time.monotonic() >= deadline:
            break
    raise RuntimeError(f"the stock server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/server_info", trust_env=False, timeout=5).is_success
    except httpx.HTTPError:
        return False
