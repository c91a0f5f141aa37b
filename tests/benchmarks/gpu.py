"""`make bench-gpu`: pairs shaped like released ones, with random weights, on CUDA GPUs.

Weights are written to disk and not left to SGLang's dummy format, whose weights are so small that no vector changes any
logit: the engines would fail their self-test, and rightly.
"""

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

from nla_client import AsyncNLAClient, AsyncNLACritic
from nla_launch.plan.gpus import Gpu, find_gpus
from tests.benchmarks import alike, report
from tests.benchmarks.figures import Figure, interleave, rate, ratios
from tests.benchmarks.reconstruct import make_texts
from tests.benchmarks.report import Results
from tests.benchmarks.servers import FORKED, TEMPLATE
from tests.checkpoints import Family, edit_sidecar, make_tokenizer, write_sidecar
from tests.plain import TOY, load_toy_vectors
from tests.stack import serving
from tests.warm import run_program

logger = logging.getLogger("bench-gpu")

ANSWER_TOKENS: Final = 120
ALIKE: Final = 8
"""Vectors, and texts, of which answers are compared with transformers."""
OFFLINE: Final = "tests.benchmarks.offline"
SPREAD: Final = 0.02
DROPPED: Final = ("lm_head.weight", "model.norm.weight")
"""A reconstructor has neither."""
ROOM: Final = 1.3
"""Memory and disk wanted, over the weights alone."""


@dataclass(frozen=True)
class Shape:
    """A pair to make."""

    name: str
    family: Family
    config: PreTrainedConfig
    layer: int
    gpus: int

    def of(self, role: str) -> PreTrainedConfig:
        blocks = self.config.num_hidden_layers if role == "av" else self.layer + 1
        return type(self.config)(**{**self.config.to_dict(), "num_hidden_layers": blocks, "layer_types": None})


SHAPES: Final = (
    Shape(
        "Qwen2.5-7B",
        "qwen2",
        Qwen2Config(
            hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
            num_key_value_heads=4, vocab_size=152064, max_position_embeddings=32768, tie_word_embeddings=False,
        ),
        layer=20,
        gpus=1,
    ),
    Shape(
        "Llama-3.3-70B",
        "llama",
        LlamaConfig(
            hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
            num_key_value_heads=8, head_dim=128, vocab_size=128256, max_position_embeddings=131072,
            tie_word_embeddings=False,
        ),
        layer=53,
        gpus=8,
    ),
)  # fmt: skip


def main() -> int:
    """Measure each shape that fits; say in one line why another does not."""
    results = report.start("make bench-gpu", __doc__, "build/bench-gpu")
    gpus = find_gpus()
    if not gpus:
        sys.stdout.write("bench-gpu: skipped, this machine has no CUDA GPU\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        compare_toy(Path(folder), [], results)
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            if (problem := misfit(shape, gpus, shutil.disk_usage(folder).free)) is not None:
                sys.stdout.write(f"bench-gpu: {shape.name} skipped, {problem}\n")
                continue
            run(shape, Path(folder), ["--tp", str(shape.gpus)], results, vectors=2048, rounds=5)
    if results.figures:
        results.plot()
        sys.stdout.write(f"{report.table(results.figures)}\n\n{len(gpus)} x {gpus[0].name}\n")
    return 0


def compare_toy(folder: Path, flags: list[str], results: Results, *, warm: bool = False) -> None:
    """Compare the toy pair, which was trained, with transformers."""
    logger.info("toy pair: against transformers")
    with serving(folder / "log", "--preset", "toy", "--dtype", "bfloat16", *flags, warm=warm) as stack:
        served = alike.ask(stack, load_toy_vectors()[:ALIKE], ANSWER_TOKENS)
    results.add(alike.compare("toy pair", served, TOY / "verbalizer", TOY / "reconstructor", device_of(flags)))


def device_of(flags: list[str]) -> str:
    """Where the engines run, and then transformers."""
    return "cpu" if "cpu" in flags else "cuda"


def misfit(shape: Shape, gpus: list[Gpu], disk_bytes: int) -> str | None:
    """Tell why a shape does not fit, or None."""
    weights = sum(2 * sum(tensor.numel() for tensor in _tensors(shape.of(role)).values()) for role in ("av", "ar"))
    memory = sum(gpu.memory_bytes for gpu in gpus[: shape.gpus])
    if len(gpus) < shape.gpus or memory < ROOM * weights:
        return f"it wants {shape.gpus} GPUs and {ROOM * weights / 1e9:.0f} GB of their memory"
    if disk_bytes < ROOM * weights:
        return f"it wants {ROOM * weights / 1e9:.0f} GB on disk"
    return None


def run(
    shape: Shape, folder: Path, flags: list[str], results: Results, *, vectors: int, rounds: int, warm: bool = False
) -> None:
    """Make a pair, serve it and measure it; then transformers, where one GPU holds it, and SGLang alone."""
    logger.info("%s: making checkpoints", shape.name)
    av, ar = (make(folder / f"made-{role}", shape, role) for role in ("av", "ar"))
    logger.info("%s: starting", shape.name)
    with serving(folder / "log", "--av", str(av), "--ar", str(ar), *flags, warm=warm) as stack:
        logger.info("%s: measuring", shape.name)
        served = alike.ask(stack, some_vectors(ALIKE, shape), ANSWER_TOKENS) if shape.gpus == 1 else None
        rates = asyncio.run(measure(shape, stack.url, results, vectors, rounds))
    if served is not None:
        logger.info("%s: against transformers", shape.name)
        results.add(alike.compare(shape.name, served, av, ar, device_of(flags)))
    logger.info("%s: SGLang alone", shape.name)
    alone = offline(av, flags, vectors, rounds, warm=warm)
    name = f"{shape.name}: SGLang's own offline engine, as many tokens, no vectors"
    share = [rate / float(np.median(alone)) for rate in rates]
    results.add([Figure(name, alone, "prompts/s"), Figure(f"{shape.name}: share of offline", share, "x")])


async def measure(shape: Shape, url: str, results: Results, vectors: int, rounds: int) -> list[float]:
    """Measure all that is served, with the real lengths of prompts and answers, written after each round.

    Returns:
        Vectors/s of /verbalize, by round.
    """
    some = some_vectors(vectors, shape)
    texts = make_texts(vectors)
    busy: list[float] = []
    async with AsyncNLAClient(url, timeout=600) as nla, AsyncNLACritic(url, timeout=600) as critic:

        async def verbalized() -> float:
            with _watching(busy):
                return await rate(vectors, lambda: nla.verbalize(some, max_tokens=ANSWER_TOKENS))

        speed = await interleave(
            rounds,
            {
                "verbalize": verbalized,
                "first token": lambda: rate(vectors, lambda: nla.verbalize(some, max_tokens=1)),
                "scored": lambda: rate(vectors, lambda: nla.verbalize(some, max_tokens=ANSWER_TOKENS, score=True)),
                "reconstruct": lambda: rate(vectors, lambda: critic.reconstruct(texts)),
            },
            tell=lambda speed: results.add(rows(shape.name, speed, busy)),
        )
    return speed["verbalize"]


def some_vectors(count: int, shape: Shape) -> NDArray[np.float32]:
    """Vectors [count, d_model], the same each time."""
    return np.random.default_rng(0).standard_normal((count, shape.config.hidden_size)).astype(np.float32)


def rows(name: str, speed: dict[str, list[float]], busy: list[float]) -> list[Figure]:
    """Form the rows of a shape."""
    prefill = [100 * share for share in ratios(speed["verbalize"], speed["first token"])]
    return [
        Figure(f"{name}: verbalize", speed["verbalize"], "vectors/s"),
        Figure(f"{name}: verbalize with score", speed["scored"], "vectors/s"),
        Figure(f"{name}: reconstruct", speed["reconstruct"], "texts/s"),
        Figure(f"{name}: time in prefill", prefill, "%"),
        Figure(f"{name}: time in decode", [100 - share for share in prefill], "%"),
        *([Figure(f"{name}: GPU busy while verbalizing", busy, "%")] if busy else []),
    ]


def make(folder: Path, shape: Shape, role: str) -> Path:
    """Write a checkpoint of random weights, every tensor a piece of the same random numbers."""
    folder.mkdir()
    config, tokenizer = shape.of(role), make_tokenizer(shape.family)
    config.update({name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    config.architectures = [f"{shape.family.capitalize()}ForCausalLM"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _fill_vocabulary(folder / "tokenizer.json", config.vocab_size)
    d_model = config.hidden_size
    write_sidecar(folder, role, tokenizer, shape.family, d_model=d_model, layer=shape.layer)
    edit_sidecar(folder, {"prompt_templates.av": TEMPLATE})
    _write_weights(folder, _tensors(config), with_head_of=d_model if role == "ar" else None)
    return folder


def _write_weights(folder: Path, tensors: dict[str, torch.Tensor], *, with_head_of: int | None) -> None:
    rng, slack = np.random.default_rng(0), 10**6
    noise = SPREAD * torch.randn(max(like.numel() for like in tensors.values()) + slack, dtype=torch.bfloat16)

    def piece(shape: torch.Size) -> torch.Tensor:
        start = int(rng.integers(slack))
        return noise[start : start + shape.numel()].view(shape).clone()

    def weight(name: str) -> torch.Tensor:
        shape = tensors[name].shape
        return torch.ones(shape, dtype=torch.bfloat16) if "norm" in name else piece(shape)

    if with_head_of is not None:
        tensors = {name: like for name, like in tensors.items() if name not in DROPPED}
        save_file({"weight": piece(torch.Size([with_head_of] * 2))}, folder / "value_head.safetensors")
    shards = split_torch_state_dict_into_shards(tensors, max_shard_size="4GB")
    for file, names in shards.filename_to_tensors.items():
        save_file({name: weight(name) for name in names}, folder / file, {"format": "pt"})
    index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _tensors(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Names and shapes of a model's weights, without the weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return dict(model.state_dict())


def _fill_vocabulary(path: Path, size: int) -> None:
    """Give every token id a text: random weights sample any of them."""
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    # Added tokens too: those that are in no vocabulary would be numbered anew, after its end.
    vocabulary |= {token["content"]: token["id"] for token in content["added_tokens"]}
    taken = set(vocabulary.values())
    vocabulary |= {f"<unused{number}>": number for number in range(size) if number not in taken}
    path.write_text(json.dumps(content))


def offline(checkpoint: Path, flags: list[str], prompts: int, rounds: int, *, warm: bool) -> list[float]:
    """Prompts/s of SGLang's offline engine, in a process of its own."""
    given = [str(checkpoint), "--prompts", str(prompts), "--tokens", str(ANSWER_TOKENS)]
    given += ["--rounds", str(rounds), *flags]
    if warm:
        done = run_program(FORKED, OFFLINE, *given)
        sys.stderr.write(done.stderr)
        done.check_returncode()
    else:
        done = subprocess.run([sys.executable, "-m", OFFLINE, *given], check=True, stdout=subprocess.PIPE, text=True)
    rates: list[float] = json.loads(done.stdout.splitlines()[-1])
    return rates


@contextmanager
def _watching(busy: list[float]) -> Iterator[None]:
    """Add the mean share of time in which the first GPU was busy; nothing where there is none."""
    import pynvml

    ended, seen = threading.Event(), list[float]()

    def watch() -> None:
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not ended.wait(0.1):
                seen.append(float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
        except pynvml.NVMLError:
            return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        busy += [float(np.mean(seen))] if seen else []


if __name__ == "__main__":
    sys.exit(main())
