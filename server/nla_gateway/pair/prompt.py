"""Prompts as token ids, checked against the live tokenizer.

Knows templates and tokenizers; knows nothing of engines. Everything that the sidecar says of tokens is compared with
what the tokenizer does, because a marker that splits, a lost BOS or a cut suffix gives fluent nonsense.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from nla_gateway.errors import CheckpointError, InvalidRequest
from nla_gateway.pair.sidecar import Sidecar
from nla_gateway.pair.transformers import import_transformers
from nla_gateway.roles import Role

logger = logging.getLogger(__name__)

MARKER_FIELD: Final = "{injection_char}"
EXPLANATION_FIELD: Final = "{explanation}"
FAMILIES_WITH_BOS: Final = ("llama", "gemma")
"""Beginnings of config.json's model_type."""


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load a checkpoint's tokenizer.

    Args:
        folder: the checkpoint's.
        trust_remote_code: run the checkpoint's own Python code where its tokenizer asks for it.

    Raises:
        CheckpointError: the folder has none that loads, or one with code that must not run.
    """
    # Imported here: transformers takes seconds, and a usage error should not wait for it.
    transformers = import_transformers(torch=trust_remote_code)
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises whatever the files made it trip over
        if "trust_remote_code" in str(error):
            mend = "give --trust-remote-code if you trust it"
            raise CheckpointError(f"{folder}: the tokenizer is Python code of the checkpoint's own: {mend}") from None
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{folder}: the tokenizer does not load: {reason[0]}") from None


@dataclass(frozen=True)
class VerbalizerPrompt:
    """The one prompt of a verbalizer: `ids`, with the marker standing at `position`."""

    ids: list[int]
    position: int
    stop_texts: dict[int, str]
    """Text of each special token id, to trim the one that ended a sample."""

    @classmethod
    def load(cls, folder: Path, sidecar: Sidecar, *, trust_remote_code: bool = False) -> Self:
        """Render the template through the chat template and check marker, neighbours and BOS.

        Raises:
            CheckpointError: the sidecar and the tokenizer disagree.
        """
        tokenizer, tokens = load_tokenizer(folder, trust_remote_code=trust_remote_code), sidecar.tokens
        _check_marker(tokenizer, sidecar, folder)
        template = sidecar.prompt_templates[Role.AV]
        if template.count(MARKER_FIELD) != 1:
            raise CheckpointError(
                f"{folder}: the av template has {MARKER_FIELD} {template.count(MARKER_FIELD)} times; it must be once"
            )
        ids = _render_chat(tokenizer, template.replace(MARKER_FIELD, tokens.injection_char), folder)
        positions = [i for i, token in enumerate(ids) if token == tokens.injection_token_id]
        if len(positions) != 1:
            raise CheckpointError(
                f"{folder}: the marker {tokens.injection_char!r} stands {len(positions)} times in the rendered prompt;"
                " it must be once"
            )
        position = positions[0]
        _check_neighbours(ids, position, sidecar, folder)
        if _check_bos(tokenizer, ids, folder):
            # Not refused: the chat template is what the verbalizer was trained with.
            logger.warning("%s: the chat template renders no BOS, which models of this family usually need", folder)
        specials = {token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        return cls(ids=ids, position=position, stop_texts=specials)


@dataclass(frozen=True)
class ReconstructorPrompt:
    """Turns an explanation into a reconstructor's token ids, special tokens included."""

    tokenizer: Any
    template: str
    suffix_ids: list[int]
    overhead: int
    """Tokens of the prompt around an empty text."""
    longest_token: int
    """Characters in the vocabulary's longest token."""

    @classmethod
    def load(cls, folder: Path, sidecar: Sidecar, *, trust_remote_code: bool = False) -> Self:
        """Load the template and prove that its end always tokenizes to the sidecar's suffix.

        Raises:
            CheckpointError: the sidecar and the tokenizer disagree.
        """
        template = sidecar.prompt_templates[Role.AR]
        if template.count(EXPLANATION_FIELD) != 1:
            count = template.count(EXPLANATION_FIELD)
            raise CheckpointError(f"{folder}: the ar template has {EXPLANATION_FIELD} {count} times; it must be once")
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        overhead = len(_encode(tokenizer, template, ""))
        longest = max(map(len, tokenizer.get_vocab()))
        prompt = cls(tokenizer, template, sidecar.tokens.critic_suffix_ids or [], overhead, longest)
        for probe in ("A plain sentence.", "no full stop", "a > b", "line\n", "日本"):
            ids = prompt.encode(probe)
            if ids[len(ids) - len(prompt.suffix_ids) :] != prompt.suffix_ids:
                raise CheckpointError(
                    f"{folder}: the rendered prompt ends with token ids {ids[-len(prompt.suffix_ids) :]},"
                    f" but the sidecar's critic_suffix_ids are {prompt.suffix_ids}: wrong tokenizer or template"
                )
        if _check_bos(tokenizer, prompt.encode("x"), folder):
            raise CheckpointError(
                f"{folder}: the tokenizer adds no BOS ({tokenizer.bos_token!r}), which this family needs"
            )
        return prompt

    def encode(self, text: str) -> list[int]:
        """Render and tokenize one explanation, with special tokens."""
        return _encode(self.tokenizer, self.template, text)

    def encode_checked(self, text: str, max_text_tokens: int, param: str | None) -> list[int]:
        """Encode, refusing what would not fit or would lose the suffix.

        Raises:
            InvalidRequest: the text is over the limit, or swallows the suffix.
        """
        if len(text) > max_text_tokens * self.longest_token:  # known to be over before it takes seconds to tokenize
            raise InvalidRequest(
                f"the text has {len(text)} characters; at most {max_text_tokens} tokens are taken: shorten it",
                param=param,
            )
        ids = self.encode(text)
        text_tokens = len(ids) - self.overhead
        if text_tokens > max_text_tokens:
            raise InvalidRequest(
                f"the text has {text_tokens} tokens; at most {max_text_tokens} are taken: shorten it",
                param=param,
            )
        if ids[len(ids) - len(self.suffix_ids) :] != self.suffix_ids:
            raise InvalidRequest("the text's end merges with the prompt's suffix: end it otherwise", param=param)
        return ids


def _encode(tokenizer: Any, template: str, text: str) -> list[int]:
    return list(tokenizer(template.replace(EXPLANATION_FIELD, text), add_special_tokens=True)["input_ids"])


def _render_chat(tokenizer: Any, content: str, folder: Path) -> list[int]:
    """Render one user message to text, then encode it.

    In two steps, because `apply_chat_template(tokenize=True)` splits some markers into bytes.
    """
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder}: the tokenizer has no chat template, which the verbalizer's prompt needs")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def _check_marker(tokenizer: Any, sidecar: Sidecar, folder: Path) -> None:
    tokens = sidecar.tokens
    ids = list(tokenizer.encode(tokens.injection_char, add_special_tokens=False))
    if ids != [tokens.injection_token_id]:
        raise CheckpointError(
            f"{folder}: the marker {tokens.injection_char!r} encodes to {ids}, but the sidecar's injection_token_id"
            f" is {tokens.injection_token_id}: wrong tokenizer or sidecar"
        )


def _check_bos(tokenizer: Any, ids: list[int], folder: Path) -> bool:
    """Refuse two BOS; tell whether one is missing that the family needs, which no other check can see."""
    bos = tokenizer.bos_token_id
    if bos is not None and ids.count(bos) > 1:
        raise CheckpointError(f"{folder}: the rendered prompt has more than one BOS; mend its template")
    return bos is not None and ids[0] != bos and _family(folder).startswith(FAMILIES_WITH_BOS)


def _family(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(config.get("model_type", ""))


def _check_neighbours(ids: list[int], position: int, sidecar: Sidecar, folder: Path) -> None:
    wanted = [sidecar.tokens.injection_left_neighbor_id, sidecar.tokens.injection_right_neighbor_id]
    found = [ids[position - 1], ids[position + 1]] if 0 < position < len(ids) - 1 else []
    if found != wanted:
        raise CheckpointError(
            f"{folder}: beside the marker stand token ids {found}, but the sidecar says {wanted}:"
            " wrong tokenizer, chat template or sidecar"
        )
