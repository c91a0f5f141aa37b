"""The toy pair's tokenizer, prompts and sidecars. The tokenizer is trained on the toy pair's own texts."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nla_gateway.roles import Role
from nla_launch.demo import sidecar
from nla_launch.toy import data

MARKER: Final = "㈎"
END: Final = "<|im_end|>"
PADDING: Final = "<|endoftext|>"
INJECTION_SCALE: Final = 16.0
LAYER: Final = 1
VOCABULARY: Final = 1024

AV_TEMPLATE: Final = (
    "You read the mind of a language model. One activation vector of its residual stream has been put in the place"
    " of a word. Say in plain words which concepts it stands for, the strongest first, inside <explanation> tags."
    " The activation: <concept>{injection_char}</concept>"
)
AR_TEMPLATE: Final = "Summary of the following text: <text>{explanation}</text> <summary>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen2's own: transformers gives any tokenizer of a Qwen2 model this splitting, whatever its file says.
SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENGLISH: Final = (
    "The quick brown fox jumps over the lazy dog. A recipe for bread needs flour, water, salt and time.",
    "She asked whether the train to the city would leave before noon; nobody could tell, and it rained all day.",
)


def build() -> Any:
    """Train the tokenizer; byte-level, so that any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]
        vocab_size=VOCABULARY - 4, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    # An added token is split off before anything else: the marker never merges with what stands beside it.
    tokenizer.add_tokens([AddedToken(MARKER, normalized=False)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, extra_special_tokens=["<|im_start|>"]
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def verbalizer_ids(tokenizer: Any) -> list[int]:
    """Render the verbalizer's prompt to token ids."""
    return sidecar.verbalizer_ids(tokenizer, AV_TEMPLATE, MARKER)


def reconstructor_ids(tokenizer: Any, text: str) -> list[int]:
    """Render a reconstructor's prompt to token ids."""
    return list(tokenizer(AR_TEMPLATE.replace("{explanation}", text))["input_ids"])


def write_sidecar(folder: Path, role: Role, tokenizer: Any) -> None:
    """Write `nla_meta.yaml` in the released format."""
    sidecar.write_sidecar(
        folder, role, tokenizer, templates={Role.AV: AV_TEMPLATE, Role.AR: AR_TEMPLATE}, marker=MARKER,
        suffix="text> <summary>", injection_scale=INJECTION_SCALE, d_model=data.D_MODEL, layer=LAYER,
    )  # fmt: skip


def _corpus() -> list[str]:
    rng = np.random.default_rng(1)
    explanations = [f"<explanation>{data.explain(c, rng)}</explanation>" for c in _combinations(rng)]
    notes = [data.note(c, rng) for c in _combinations(rng)]
    fixed = [AV_TEMPLATE.replace("{injection_char}", ""), AR_TEMPLATE.replace("{explanation}", ""), "user\nassistant\n"]
    return [*explanations, *notes, *(fixed + list(ENGLISH)) * 60]


def _combinations(rng: np.random.Generator) -> list[tuple[str, ...]]:
    return data.sample(600, rng, held_out=False).concepts
