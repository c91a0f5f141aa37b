"""Prompts as token ids, checked against the live tokenizer.

Knows templates and tokenizers; knows nothing of engines. Everything that the sidecar says of tokens is compared with
what the tokenizer does, because a marker that splits, a lost BOS or a cut suffix gives fluent nonsense.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Final, Self

from nla_gateway.errors import CheckpointError, InvalidRequest
from nla_gateway.pair.parsing import CLOSING, OPENING, THINKING, Form
from nla_gateway.pair.sidecar import Sidecar
from nla_gateway.pair.transformers import import_transformers
from nla_gateway.roles import Role

logger = logging.getLogger(__name__)

MARKER_FIELD: Final = "injection_char"
EXPLANATION_FIELD: Final = "explanation"
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
class Template:
    """A prompt template of the sidecar, which its trainer fills by `str.format`: other braces are doubled."""

    text: str
    field: str

    @classmethod
    def read(cls, text: str, role: Role, field: str, folder: Path) -> Self:
        """Check that the template has its one field, once, and no other.

        Raises:
            CheckpointError: it has not.
        """
        try:
            parsed = [(name, spec or "", way) for _, name, spec, way in Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise CheckpointError(f"{folder}: the {role} template is not one of str.format: {error}") from None
        fields = [_as_written(*parts) for parts in parsed]
        unknown = next((name for name in fields if name != field), None)
        if unknown is not None:
            raise CheckpointError(f"{folder}: the {role} template has {{{unknown}}}, which nla-serve cannot fill")
        if len(fields) != 1:
            message = f"the {role} template has {{{field}}} {len(fields)} times; it must be once"
            raise CheckpointError(f"{folder}: {message}")
        return cls(text, field)

    def filled(self, value: str) -> str:
        """Fill its field."""
        return self.text.format(**{self.field: value})

    def has(self, *words: str) -> bool:
        """Whether any of some words stands in it."""
        return any(word in self.text for word in words)


@dataclass(frozen=True)
class VerbalizerPrompt:
    """The one prompt of a verbalizer: `ids`, with the marker standing at `position`."""

    ids: list[int]
    position: int
    stop_texts: dict[int, str]
    """Text of each special token id, to trim the one that ended a sample."""
    form: Form
    """What answers look like."""

    @classmethod
    def load(
        cls, folder: Path, sidecar: Sidecar, *, tokens_of: Path | None = None, trust_remote_code: bool = False
    ) -> Self:
        """Render the template through the chat template and check marker, neighbours and BOS.

        Args:
            folder: the checkpoint's.
            sidecar: its sidecar.
            tokens_of: the folder of its tokenizer, where that is another.
            trust_remote_code: run the tokenizer's own Python code.

        Raises:
            CheckpointError: the sidecar and the tokenizer disagree.
        """
        tokenizer, tokens = load_tokenizer(tokens_of or folder, trust_remote_code=trust_remote_code), sidecar.tokens
        _check_marker(tokenizer, sidecar, folder)
        template = Template.read(sidecar.prompt_templates[Role.AV], Role.AV, MARKER_FIELD, folder)
        text = _render_chat(tokenizer, template.filled(tokens.injection_char), folder)
        ids = list(tokenizer.encode(text, add_special_tokens=False))
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
        form = Form(tags=template.has(OPENING, CLOSING), thinks=text.rstrip().endswith(THINKING))
        return cls(ids=ids, position=position, stop_texts=specials, form=form)


@dataclass(frozen=True)
class ReconstructorPrompt:
    """Turns an explanation into a reconstructor's token ids, special tokens included."""

    tokenizer: Any
    template: Template
    suffix_ids: list[int]
    overhead: int
    """Tokens of the prompt around an empty text."""
    longest_token: int
    """Characters in the vocabulary's longest token."""

    @classmethod
    def load(
        cls, folder: Path, sidecar: Sidecar, *, tokens_of: Path | None = None, trust_remote_code: bool = False
    ) -> Self:
        """Load the template and prove that its end always tokenizes to the sidecar's suffix.

        Args:
            folder: the checkpoint's.
            sidecar: its sidecar.
            tokens_of: the folder of its tokenizer, where that is another.
            trust_remote_code: run the tokenizer's own Python code.

        Raises:
            CheckpointError: the sidecar and the tokenizer disagree.
        """
        template = Template.read(sidecar.prompt_templates[Role.AR], Role.AR, EXPLANATION_FIELD, folder)
        tokenizer = load_tokenizer(tokens_of or folder, trust_remote_code=trust_remote_code)
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


def _as_written(name: str, spec: str, conversion: str | None) -> str:
    return name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")


def _encode(tokenizer: Any, template: Template, text: str) -> list[int]:
    return list(tokenizer(template.filled(text), add_special_tokens=True)["input_ids"])


def _render_chat(tokenizer: Any, content: str, folder: Path) -> str:
    """Render one user message to text, to be encoded: `apply_chat_template(tokenize=True)` splits some markers."""
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder}: the tokenizer has no chat template, which the verbalizer's prompt needs")
    if "strftime_now" in str(tokenizer.chat_template):
        logger.warning("%s: the chat template writes today's date, so that texts may differ from day to day", folder)
    messages = [{"role": "user", "content": content}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


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
    if bos is not None and ids[:2] == [bos, bos]:
        raise CheckpointError(f"{folder}: the rendered prompt begins with more than one BOS; mend its template")
    if bos is None or ids[0] == bos:
        return False
    return _family(folder).startswith(FAMILIES_WITH_BOS) and not _begins_turns(tokenizer)


def _begins_turns(tokenizer: Any) -> bool:
    """Whether the BOS stands before every message, as SmolLM2's `<|im_start|>`, and not once before all."""
    if not tokenizer.chat_template:
        return False
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False)).count(tokenizer.bos_token) > 1


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
