"""Prompts as token ids, checked against the live tokenizer.

Knows templates and tokenizers; knows nothing of engines. Everything that the description says of tokens is compared
with what the tokenizer does, because a marker that splits, a lost BOS or a cut suffix gives fluent nonsense.
"""

import json
import logging
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from nla_gateway.description import Description, Marker, VerbalizerDescription
from nla_gateway.errors import CheckpointError, InvalidRequest
from nla_gateway.pair.parsing import THOUGHTS, Form
from nla_gateway.pair.template import AT_THE_MARKER, Template, read_template
from nla_gateway.pair.transformers import import_transformers

logger = logging.getLogger(__name__)

PROBES: Final = ("A plain sentence.", "no full stop", "a > b", "line\n", "日本")
MARKER_LINE: Final = "add `marker: {char: ..., token_id: ...}` to a preset"
FAMILIES_WITH_BOS: Final = ("llama", "gemma")
"""Beginnings of config.json's model_type."""


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load a checkpoint's tokenizer; threads may share it, as all of them tokenize without truncation or padding.

    Args:
        folder: the checkpoint's.
        trust_remote_code: run the checkpoint's own Python code where its tokenizer asks for it.

    Raises:
        CheckpointError: the folder has none that loads, or one with code that must not run.
    """
    # Imported here: transformers takes seconds, and a usage error should not wait for it.
    transformers = import_transformers(torch=trust_remote_code)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        tokenizer("")  # a call sets what its files, or another call, have otherwise; later ones change nothing
        return tokenizer
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
    form: Form
    """What answers look like."""

    @classmethod
    def load(
        cls, folder: Path, description: Description, *, tokens_of: Path | None = None, trust_remote_code: bool = False
    ) -> Self:
        """Render the template, through the chat template or plain, and check marker, neighbours and BOS.

        Args:
            folder: the checkpoint's.
            description: how it is used.
            tokens_of: the folder of its tokenizer, where that is another.
            trust_remote_code: run the tokenizer's own Python code.

        Raises:
            CheckpointError: the description and the tokenizer disagree.
        """
        tokenizer = load_tokenizer(tokens_of or folder, trust_remote_code=trust_remote_code)
        rules, marker = description.of_verbalizer(), description.marker
        if marker is None:
            raise CheckpointError(f"{folder}: no marker is stated: {MARKER_LINE}")
        _check_marker(tokenizer, marker, folder)
        template = read_template(description, folder)
        content = template.filled(marker.char) + rules.append_to_turn
        ids, text = _rendered(tokenizer, content, rules, folder)
        positions = [i for i, token in enumerate(ids) if token == marker.token_id]
        if len(positions) != 1:
            raise CheckpointError(
                f"{folder}: the marker {marker.char!r} stands {len(positions)} times in the rendered prompt;"
                " it must be once"
            )
        _check_neighbours(ids, positions[0], marker, folder)
        if _check_bos(tokenizer, ids, folder):
            # Not refused: the chat template is what the verbalizer was trained with.
            source = "the chat template renders" if rules.prompt == "chat" else "the tokenizer adds"
            logger.warning("%s: %s no BOS, which models of this family usually need", folder, source)
        specials = {token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        form = _form(rules, tokenizer.get_vocab(), text, content)
        return cls(ids=ids, position=positions[0], stop_texts=specials, form=form)


@dataclass(frozen=True)
class ReconstructorPrompt:
    """Turns an explanation into a reconstructor's token ids."""

    tokenizer: Any
    template: Template
    add_special_tokens: bool
    suffix_ids: list[int]
    overhead: int
    """Tokens of the prompt around an empty text."""
    longest_token: int
    """Characters in the vocabulary's longest token."""

    @classmethod
    def load(
        cls, folder: Path, description: Description, *, tokens_of: Path | None = None, trust_remote_code: bool = False
    ) -> Self:
        """Load the template and prove that its end always tokenizes to the suffix.

        Args:
            folder: the checkpoint's.
            description: how it is used.
            tokens_of: the folder of its tokenizer, where that is another.
            trust_remote_code: run the tokenizer's own Python code.

        Raises:
            CheckpointError: the description and the tokenizer disagree.
        """
        rules = description.of_reconstructor()
        template = read_template(description, folder)
        tokenizer = load_tokenizer(tokens_of or folder, trust_remote_code=trust_remote_code)
        specials = rules.add_special_tokens
        if specials is None:
            specials = _if_it_is_all_the_same(tokenizer, template, folder)
        overhead = len(_encode(tokenizer, template, "", specials=specials))
        longest = max(map(len, tokenizer.get_vocab()))
        prompt = cls(tokenizer, template, specials, _suffix(description), overhead, longest)
        for probe in PROBES:
            ids = prompt.encode(probe)
            if ids[len(ids) - len(prompt.suffix_ids) :] != prompt.suffix_ids:
                raise CheckpointError(
                    f"{folder}: the rendered prompt ends with token ids {ids[-len(prompt.suffix_ids) :]},"
                    f" but critic_suffix_ids are {prompt.suffix_ids}: wrong tokenizer or template"
                )
        # Where the trainer is known to have added none, that one is missing is right.
        if _check_bos(tokenizer, prompt.encode("x"), folder) and rules.add_special_tokens is not False:
            raise CheckpointError(
                f"{folder}: the tokenizer adds no BOS ({tokenizer.bos_token!r}), which this family needs"
                " for a reconstructor; fetch its tokenizer files again"
            )
        return prompt

    def encode(self, text: str) -> list[int]:
        """Render the template around an explanation and tokenize it."""
        return _encode(self.tokenizer, self.template, text, specials=self.add_special_tokens)

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


def _suffix(description: Description) -> list[int]:
    """What the prompt must end with: as stated, or else the marker, where the template ends with it."""
    stated, marker = list(description.of_reconstructor().suffix_ids), description.marker
    if stated or marker is None or not description.template.endswith(AT_THE_MARKER):
        return stated
    return [marker.token_id]


def _if_it_is_all_the_same(tokenizer: Any, template: Template, folder: Path) -> bool:
    """Tell that no special tokens are added, where the tokenizer has none to add.

    Raises:
        CheckpointError: it has, and nothing states whether they were added in training.
    """
    if _encode(tokenizer, template, "x", specials=True) != _encode(tokenizer, template, "x", specials=False):
        raise CheckpointError(
            f"{folder}: its tokenizer adds special tokens, and nothing states whether the reconstructor was trained"
            " with them: add `reconstructor: {add_special_tokens: false}` or `true` to a preset"
        )
    return False


def _encode(tokenizer: Any, template: Template, text: str, *, specials: bool) -> list[int]:
    return list(tokenizer(template.filled(text), add_special_tokens=specials)["input_ids"])


def _rendered(tokenizer: Any, content: str, rules: VerbalizerDescription, folder: Path) -> tuple[list[int], str]:
    """Render a verbalizer's prompt to token ids, and to text."""
    if rules.prompt == "chat":
        text = _render_chat(tokenizer, content, rules.enable_thinking, folder) + rules.append
        return list(tokenizer.encode(text, add_special_tokens=False)), text
    text = content + rules.append
    ids = list(tokenizer.encode(text, add_special_tokens=True))
    if tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id:
        raise CheckpointError(f"{folder}: the tokenizer ends a plain prompt with {tokenizer.eos_token}, which ends it")
    return ids, text


def _render_chat(tokenizer: Any, content: str, enable_thinking: bool | None, folder: Path) -> str:
    """Render one user message to text, to be encoded: `apply_chat_template(tokenize=True)` splits some markers."""
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"{folder}: the tokenizer has no chat template, which the verbalizer's prompt needs; if it was trained"
            " without, add `verbalizer: {prompt: plain}` to a preset"
        )
    if enable_thinking is not None and "enable_thinking" not in str(tokenizer.chat_template):
        raise CheckpointError(f"{folder}: the chat template knows no enable_thinking: take it out of the preset")
    if "strftime_now" in str(tokenizer.chat_template):
        logger.warning("%s: the chat template writes today's date, so that texts may differ from day to day", folder)
    messages = [{"role": "user", "content": content}]
    options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))


def _form(rules: VerbalizerDescription, vocabulary: Container[str], text: str, content: str) -> Form:
    """Tell what answers to a prompt look like.

    Args:
        rules: of the verbalizer.
        vocabulary: its tokenizer's.
        text: the prompt as rendered.
        content: what the template and the preset say, of which a chat template may cut white space off.
    """
    thinks = next((one for one in THOUGHTS if text.rstrip().endswith(one.opening)), None)
    # Before the answer, that is: how to think may be told anywhere, as by the system's message of Mistral's template.
    begun = text.rpartition(content.strip())[2] if rules.prompt == "chat" else text
    known = next((one for one in THOUGHTS if one.closing in vocabulary), None)
    # Where the prompt has closed a block, or ends with the explanation's opening tag, it is past all thoughts.
    past = rules.tags == "closing" or (known is not None and known.closing in begun)
    return Form(tags=rules.tags, thinks=thinks, may_think=None if thinks or past else known)


def _check_marker(tokenizer: Any, marker: Marker, folder: Path) -> None:
    ids = list(tokenizer.encode(marker.char, add_special_tokens=False))
    if ids != [marker.token_id]:
        raise CheckpointError(
            f"{folder}: the marker {marker.char!r} encodes to {ids}, but injection_token_id is {marker.token_id}:"
            " wrong tokenizer, sidecar or preset"
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


def _check_neighbours(ids: list[int], position: int, marker: Marker, folder: Path) -> None:
    """Compare what stands beside the marker with what is stated; where nothing is, once in the prompt is enough."""
    beside = [(at, wanted) for at, wanted in ((-1, marker.left), (1, marker.right)) if wanted is not None]
    found = [ids[position + at] for at, _ in beside] if 0 < position < len(ids) - 1 else []
    wanted = [token for _, token in beside]
    if found != wanted:
        raise CheckpointError(
            f"{folder}: beside the marker stand token ids {found}, but {wanted} are stated:"
            " wrong tokenizer, chat template, sidecar or preset"
        )
