"""Figures of the toy pair on held-out combinations, in plain transformers."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Model

from nla_launch.toy import data
from nla_launch.toy.tokenizer import INJECTION_SCALE, MARKER, reconstructor_ids, verbalizer_ids

COUNT: Final = 400


def report(folder: Path, dtype: torch.dtype) -> str:
    """Verbalize and rebuild held-out vectors at temperature 1.0, and say how well it went."""
    torch.manual_seed(1)
    examples = data.sample(COUNT, np.random.default_rng(1000), held_out=True)
    texts = verbalize(folder / "verbalizer", examples.vectors, dtype)
    rebuilt = np.stack([reconstruct(folder / "reconstructor", dtype, text) for text in texts])
    right = np.mean([data.named(t) == set(c) for t, c in zip(texts, examples.concepts, strict=True)])
    baseline = predict_mean_mse()
    cosine = _cosine(examples.vectors, rebuilt)
    shuffled = _cosine(examples.vectors, np.roll(rebuilt, 1, axis=0))
    return (
        f"{str(dtype).removeprefix('torch.')}: cosine {cosine.mean():.3f}, fve {_fve(cosine, baseline):.3f},"
        f" all concepts right {right:.1%}, fve with texts shuffled {_fve(shuffled, baseline):.2f}"
        f" (predict_mean_mse {baseline:.4f}, {COUNT} held-out vectors)"
    )


def predict_mean_mse() -> float:
    """Mean squared error, at norm sqrt(d_model), of always answering the mean vector."""
    vectors = data.sample(20_000, np.random.default_rng(2000), held_out=False).vectors.astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(1.0 - np.square(unit.mean(axis=0)).sum())


@torch.no_grad()
def verbalize(folder: Path, vectors: NDArray[np.float32], dtype: torch.dtype) -> list[str]:
    """Sample one explanation for each vector [n, d_model]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    prompt = verbalizer_ids(tokenizer)
    embeds = model.get_input_embeddings()(torch.tensor([prompt])).repeat(len(vectors), 1, 1)
    rows = torch.from_numpy(vectors)
    rows = rows * INJECTION_SCALE / rows.norm(dim=1, keepdim=True)
    embeds[:, prompt.index(tokenizer.convert_tokens_to_ids(MARKER))] = rows.to(dtype)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    ids = model.generate(inputs_embeds=embeds, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
                         max_new_tokens=60)  # fmt: skip
    generated: list[str] = tokenizer.batch_decode(ids)
    return [text.partition("</explanation>")[0].removeprefix("<explanation>") for text in generated]


@torch.no_grad()
def reconstruct(folder: Path, dtype: torch.dtype, text: str) -> NDArray[np.float32]:
    """Rebuild one vector [d_model] from a text."""
    tokenizer, blocks, head = _reconstructor(folder, dtype)
    ids = torch.tensor([reconstructor_ids(tokenizer, text)])
    hidden = blocks(input_ids=ids).last_hidden_state[0, -1]
    vector: NDArray[np.float32] = (head @ hidden.float()).numpy()
    return vector


_LOADED: Final[dict[tuple[Path, torch.dtype], tuple[Any, Any, torch.Tensor]]] = {}


def _reconstructor(folder: Path, dtype: torch.dtype) -> tuple[Any, Any, torch.Tensor]:
    if (folder, dtype) not in _LOADED:
        blocks = Qwen2Model.from_pretrained(folder, dtype=dtype).eval()
        blocks.norm = torch.nn.Identity()
        head = load_file(folder / "value_head.safetensors")["weight"].float()
        _LOADED[folder, dtype] = (AutoTokenizer.from_pretrained(folder), blocks, head)
    return _LOADED[folder, dtype]


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    cosine: NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


def _fve(cosine: NDArray[np.float64], baseline: float) -> float:
    return float(np.mean(1.0 - 2.0 * (1.0 - cosine) / baseline))
