"""The reference: an NLA pair in plain transformers, written from the maths alone. Shares no code with the product."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
)

NEAR_TIE: Final = 1e-4
"""Of two best logits: batches round otherwise, which decides between tokens that are equally good to six digits."""


def read(folder: Path) -> dict[str, Any]:
    sidecar: dict[str, Any] = yaml.safe_load((folder / "nla_meta.yaml").read_text())
    return sidecar


def prompt_ids(folder: Path) -> list[int]:
    """A verbalizer's prompt, the marker in it."""
    sidecar, tokenizer = read(folder), AutoTokenizer.from_pretrained(folder)
    content = sidecar["prompt_templates"]["av"].format(injection_char=sidecar["tokens"]["injection_char"])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


class ReferenceVerbalizer:
    """Vector -> text by `generate(inputs_embeds=...)`, greedy, float32."""

    def __init__(self, folder: Path) -> None:
        self.sidecar, self._prompt_ids = read(folder), prompt_ids(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.multimodal = AutoConfig.from_pretrained(folder).architectures == ["Gemma3ForConditionalGeneration"]
        loader = Gemma3ForConditionalGeneration if self.multimodal else AutoModelForCausalLM
        self.model = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    def prompt_ids(self) -> list[int]:
        return list(self._prompt_ids)

    @torch.no_grad()
    def greedy(self, vector: NDArray[np.float32] | None, max_tokens: int) -> list[int]:
        """New token ids, greedily; None leaves the plain marker in the prompt."""
        embeds = self.embeds(vector)
        if self.multimodal:
            return self._greedy_by_hand(embeds, max_tokens)
        plain = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        out = self.model.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=plain)
        return [int(token) for token in out[0]]

    @torch.no_grad()
    def embeds(self, vector: NDArray[np.float32] | None, new_ids: list[int] | None = None) -> torch.Tensor:
        """Embeddings [1, T, d] of the prompt with the vector in it, and of tokens after it."""
        ids = self.prompt_ids()
        embeds = self.model.get_input_embeddings()(torch.tensor([ids + (new_ids or [])])).clone()
        if vector is not None:
            row = torch.from_numpy(vector)
            at = ids.index(self.sidecar["tokens"]["injection_token_id"])
            embeds[0, at] = row * (self.sidecar["extraction"]["injection_scale"] / row.norm())
        return embeds

    @torch.no_grad()
    def logits(self, vector: NDArray[np.float32], new_ids: list[int]) -> torch.Tensor:
        """Logits [T, vocabulary] after each token of the prompt and of the answer."""
        logits: torch.Tensor = self.model(inputs_embeds=self.embeds(vector, new_ids)).logits[0]
        return logits

    def narrowest_choice(self, vector: NDArray[np.float32], new_ids: list[int]) -> float:
        """Least difference between the two best logits on the way along `new_ids`: near 0, rounding decides."""
        best = self.logits(vector, new_ids)[-len(new_ids) - 1 : -1].topk(2).values
        return float((best[:, 0] - best[:, 1]).min())

    def clear(
        self, vectors: Iterable[NDArray[np.float32]], max_tokens: int
    ) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
        """Vectors with their greedy token ids, without those where rounding decides."""
        for vector in vectors:
            ids = self.greedy(vector, max_tokens)
            if self.narrowest_choice(vector, ids) > NEAR_TIE:
                yield vector, ids

    def _greedy_by_hand(self, embeds: torch.Tensor, max_tokens: int) -> list[int]:
        """The same without `generate`, which refuses inputs_embeds for the multimodal wrapper."""
        ids: list[int] = []
        while len(ids) < max_tokens and self.tokenizer.eos_token_id not in ids:
            token = self.model(inputs_embeds=embeds).logits[0, -1].argmax()
            ids.append(int(token))
            embeds = torch.cat([embeds, self.model.get_input_embeddings()(token[None, None])], dim=1)
        return ids

    def text(self, ids: list[int]) -> tuple[str, bool]:
        """Explanation and whether it is complete, for generated ids."""
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        generated = self.tokenizer.decode(ids, skip_special_tokens=False)
        start = generated.find("<explanation>")
        begin = 0 if start < 0 else start + len("<explanation>")
        end = generated.find("</explanation>", begin)
        return (generated[begin:] if end < 0 else generated[begin:end]).strip(), end >= 0


class AddingVerbalizer(ReferenceVerbalizer):
    """A verbalizer that adds |h| v/|v| to the output h of a block, where the marker stands."""

    def __init__(self, folder: Path, block: int) -> None:
        super().__init__(folder)
        self.vector: NDArray[np.float32] | None = None
        self.model.model.layers[block].register_forward_hook(self._add)

    def embeds(self, vector: NDArray[np.float32] | None, new_ids: list[int] | None = None) -> torch.Tensor:
        self.vector = vector
        return super().embeds(None, new_ids)

    def _add(self, block: torch.nn.Module, arguments: Any, output: torch.Tensor) -> None:
        if self.vector is None or output.shape[1] == 1:
            return
        row, vector = output[0, self._at()], torch.from_numpy(self.vector)
        output[0, self._at()] = row + row.norm() * vector / vector.norm()

    def _at(self) -> int:
        return self._prompt_ids.index(self.sidecar["tokens"]["injection_token_id"])


class ReferenceReconstructor:
    """Text -> vector: the blocks, no final norm, the value head on the last token; float32."""

    def __init__(self, folder: Path) -> None:
        self.template = read(folder)["prompt_templates"]["ar"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.final_norm = self.model.norm
        self.model.norm = torch.nn.Identity()
        self.head = load_file(folder / "value_head.safetensors")["weight"].float()

    @torch.no_grad()
    def vector(self, text: str) -> NDArray[np.float32]:
        inputs = self.tokenizer(self.template.replace("{explanation}", text), return_tensors="pt")
        hidden = self.model(**inputs).last_hidden_state[0, -1]
        rebuilt: NDArray[np.float32] = (self.head @ hidden).numpy()
        return rebuilt


def score(
    original: NDArray[np.float32], rebuilt: NDArray[np.float32], baseline: float | None
) -> tuple[float, float, float | None]:
    """mse, cosine and fve in float64, with both vectors scaled to sqrt(d)."""
    a, b = original.astype(np.float64), rebuilt.astype(np.float64)
    scale = np.sqrt(len(a))
    difference = a / np.linalg.norm(a) * scale - b / np.linalg.norm(b) * scale
    mse = float(np.mean(difference**2))
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return mse, cosine, None if baseline is None else 1 - mse / baseline


class ReferenceSource:
    """Text -> vectors: the output of block `layer` at every token, by transformers' own account; float32.

    Args:
        folder: of a whole model; a multimodal wrapper's language model is read.
        layer: index of the block, from 0.
    """

    def __init__(self, folder: Path, layer: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        multimodal = AutoConfig.from_pretrained(folder).architectures == ["Gemma3ForConditionalGeneration"]
        loader = Gemma3ForConditionalGeneration if multimodal else AutoModelForCausalLM
        self.model = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.layer = layer

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def chat_ids(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, **{"add_generation_prompt": True, **options}
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @torch.no_grad()
    def vectors(self, ids: list[int]) -> NDArray[np.float32]:
        """Vectors [T, d]."""
        out = self.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        found: NDArray[np.float32] = out.hidden_states[self.layer + 1][0].numpy()
        return found
