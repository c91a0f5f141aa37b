"""From texts: reading the source model against transformers, and one pass against two."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import orjson
import pybase64
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from nla_client import AsyncNLAClient
from tests.benchmarks import dataset
from tests.benchmarks.figures import Figure, Scale, Target, interleave, percentile, rate, ratios
from tests.benchmarks.gateway import measure_fairness_of_texts, open_http, post_json
from tests.checkpoints import cut, make_tokenizer
from tests.plain import TOY
from tests.stack import Stack, serving

BLOCKS: Final = 21
"""Of the 30 that a real one has: up to block 20."""
TOKENS: Final = 200
"""Of each text."""
PADDED_BATCH: Final = 32
POSITIONS: Final = 64
WIDTH: Final = 3584


@contextmanager
def serving_base(folder: Path) -> Iterator[tuple[Stack, Path]]:
    """Serve a source that computes for seconds a round; yields it and its checkpoint."""
    base = make_base(folder / "base")
    preset = folder / "base.yaml"
    preset.write_text(
        yaml.safe_dump({"name": "base", "av": None, "ar": None, "layer": BLOCKS - 1, "source": str(base)})
    )
    flags = ("--preset", str(preset), "--only", "source", "--device", "cpu", "--dtype", "float32")
    with serving(folder / "base.log", *flags) as stack:
        yield stack, base


def measure_on(stack: Stack, scale: Scale) -> list[Figure]:
    """All rows on the toy pair with its stand-in for a source, which is read for the first of them, too."""
    return measure_reading("toy pair", stack, TOY / "verbalizer", 2, scale) + measure_explaining(stack, scale)


def measure_reading(name: str, stack: Stack, folder: Path, blocks: int, scale: Scale) -> list[Figure]:
    """The rows of which the source alone makes the difference."""
    figures = asyncio.run(measure_extraction(name, stack.url, folder, blocks, scale))
    return figures + asyncio.run(dataset.measure_texts(name, stack.url, scale))


def measure_explaining(stack: Stack, scale: Scale) -> list[Figure]:
    """The others."""
    figures = asyncio.run(measure_explanation(stack.url, scale))
    figures += asyncio.run(measure_tokens(stack.url, scale))
    return [*figures, *measure_fairness_of_texts(stack, scale), *bytes_of_a_row()]


def make_base(folder: Path) -> Path:
    """Make a model of SmolLM2-135M's form, of random weights and few words."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("qwen2")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=576, intermediate_size=1536, num_hidden_layers=BLOCKS + 1,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


async def measure_extraction(name: str, url: str, folder: Path, blocks: int, scale: Scale) -> list[Figure]:
    """Tokens/s of `/extract` at all positions, against transformers in padded batches on one thread."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = blocks_of(folder, blocks)
    ids = np.random.default_rng(0).integers(0, len(tokenizer) - 20, (max(8, scale.texts // 8), TOKENS))
    async with AsyncNLAClient(url) as nla:

        async def by_us() -> float:
            return await rate(ids.size, lambda: nla.extract(ids.tolist(), positions="all"))

        async def padded() -> float:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return await rate(ids.size, work)
            finally:
                torch.set_num_threads(threads)

        async def work() -> None:
            for start in range(0, len(ids), PADDED_BATCH):
                hidden_of(model, ids[start : start + PADDED_BATCH])

        (one,) = await nla.extract(ids[:1].tolist(), positions="all", dtype="float32")
        if np.abs(one.vectors - hidden_of(model, ids[:1])[0]).max() > 1e-3:
            raise RuntimeError("the sides read different vectors: their speeds do not compare")
        speed = await interleave(scale.rounds, {"padded": padded, "ours": by_us}, warm=True)
    ratio = ratios(speed["ours"], speed["padded"])
    return [
        Figure(f"extract, {name}: transformers, padded batches on one thread", speed["padded"], "tokens/s"),
        Figure(f"extract, {name}: nla-serve, whose engine has one thread", speed["ours"], "tokens/s"),
        Figure(f"extract, {name}: ratio", ratio, "x", Target("at least", 0.9)),
    ]


def blocks_of(folder: Path, blocks: int) -> Any:
    """The model's first blocks, in float32, without its last norm."""
    model = cut(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), blocks).model
    model.norm = torch.nn.Identity()
    return model


@torch.no_grad()
def hidden_of(model: Any, ids: Any) -> Any:
    """The last block's output [N, T, d] of texts of one length."""
    return model(torch.from_numpy(ids), use_cache=False).last_hidden_state.numpy()


async def measure_explanation(url: str, scale: Scale) -> list[Figure]:
    """Explanations of 64 positions a second: `/explain`, and `/extract` with `/verbalize` behind it."""
    ids = np.random.default_rng(1).integers(0, 700, POSITIONS).tolist()
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 16}
    async with AsyncNLAClient(url) as nla:

        async def by_explain() -> float:
            return await rate(POSITIONS, lambda: nla.explain(ids, positions="all", **asked))

        async def by_both() -> float:
            async def work() -> None:
                await nla.verbalize((await nla.extract(ids, positions="all")).vectors, **asked)

            return await rate(POSITIONS, work)

        speed = await interleave(2 * scale.rounds, {"explain": by_explain, "both": by_both})
    return [
        Figure("64 positions by /explain", speed["explain"], "positions/s"),
        Figure("64 positions by /extract, then /verbalize", speed["both"], "positions/s"),
        Figure("ratio, /explain to both", ratios(speed["explain"], speed["both"]), "x", Target("at least", 1.0)),
    ]


async def measure_tokens(url: str, scale: Scale) -> list[Figure]:
    """Milliseconds of a lone `/tokenize`."""
    body = orjson.dumps({"texts": "The river rose through the night, and by morning the fields stood under water."})
    medians = []
    async with open_http() as http:
        for _ in range(scale.rounds):
            seconds = []
            for _ in range(scale.lone_requests):
                seconds.append(1 / await rate(1, lambda: post_json(http, f"{url}/tokenize", body)))
            medians.append(1000 * percentile(seconds, 50))
    return [Figure("one /tokenize, p50", medians, "ms", Target("at most", 2))]


def bytes_of_a_row() -> list[Figure]:
    """What a vector costs on the engine's wire, and what it costs as SGLang writes hidden states: a list of numbers."""
    row = np.random.default_rng(2).standard_normal(WIDTH).astype(ml_dtypes.bfloat16)
    ours = len(pybase64.b64encode(row.view(np.uint16).tobytes()))
    stock = len(orjson.dumps(row.astype(np.float32).tolist()))
    return [
        Figure("bytes of a row, d 3584: ours", [float(ours)], "bytes"),
        Figure("bytes of a row, d 3584: as numbers in JSON", [float(stock)], "bytes"),
        Figure("ratio, ours to JSON", [ours / stock], "x", Target("at most", 1 / 7)),
    ]
