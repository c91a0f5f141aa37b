"""Texts for the source model as tokens that know their place: texts, chats and ids, read by its own tokenizer.

Knows tokenizers and the contract's tokens; knows nothing of engines or HTTP.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from nla_client.wire import ChatMessage, Token
from nla_gateway.errors import CheckpointError, InvalidRequest
from nla_gateway.pair.chats import ChatTemplate, Options
from nla_gateway.pair.offsets import Decoder, Span, keep_spaces, mended
from nla_gateway.pair.prompt import load_tokenizer
from nla_gateway.pair.turns import Stretch

PART_CHARACTERS: Final = 2**18
"""A longer text is counted part by part first: to tokenize it as a whole holds hundreds of bytes a token."""


@dataclass(frozen=True)
class Limit:
    """How long a text may be."""

    tokens: int
    advice: str
    """What to do about a longer one."""

    def refusal(self, length: str, param: str | None) -> InvalidRequest:
        """Say that a text is longer."""
        return InvalidRequest(
            f"{param or 'the text'}: the text has {length}; at most {self.tokens} tokens are taken: {self.advice}",
            param=param,
        )


@dataclass(frozen=True)
class SourceText:
    """A text as the source model gets it."""

    text: str
    """As rendered."""
    tokens: list[Token]

    @property
    def ids(self) -> list[int]:
        """As the engine takes them."""
        return [token.id for token in self.tokens]


@dataclass(frozen=True)
class SourceTokenizer:
    """The source model's tokenizer.

    A token's start and end are characters of the rendered text, its text is what stands there; pieces of one character
    share it. What the tokenizer adds, such as a BOS, has no characters, and its own name for a text.
    """

    tokenizer: Any = field(repr=False)
    template: ChatTemplate
    decoder: Decoder
    specials: frozenset[int]
    """Ids of the added tokens that are special."""
    rows: int | None
    """Tokens for which the model has an embedding; None where its config does not say."""
    limit: Limit | None = None
    """Longer texts are refused; None where there is none."""

    @classmethod
    def load(cls, folder: Path, *, trust_remote_code: bool = False) -> Self:
        """Load it from a checkpoint's folder.

        Raises:
            CheckpointError: there is none that loads, or it cannot tell a token's characters.
        """
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        if not tokenizer.is_fast:
            raise CheckpointError(
                f"{folder}: the tokenizer cannot tell which characters a token stands for: the source model needs a"
                " fast one (tokenizer.json)"
            )
        keep_spaces(tokenizer)
        specials = frozenset(token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
        return cls(tokenizer, ChatTemplate(tokenizer), Decoder.of(tokenizer), specials, _rows(folder))

    def read_text(self, text: str, *, add_special_tokens: bool, param: str | None) -> SourceText:
        """Tokenize a plain text: all of it is content, but for what the tokenizer adds.

        A BOS is not put before one that is there already.

        Raises:
            InvalidRequest: no Unicode, no token at all, too many, or one that the model does not have.
        """
        check_unicode(text, param)
        ids, spans, added = self._encode(text, specials=add_special_tokens, param=param)
        return self._finished(text, ids, spans, ((None, None, not ours) for ours in added), param)

    def read_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        chat_template_kwargs: Options | None,
        param: str | None,
    ) -> SourceText:
        """Render a chat by the tokenizer's own template, and tokenize what comes of it, adding nothing.

        A token is content if at least one of its characters is a message's, and belongs to the message of its first
        such character, else of its first character; which that is, `turns.stretches` says.

        Raises:
            InvalidRequest: no Unicode, too many tokens, or the template does not take the chat or an option.
        """
        for index, message in enumerate(messages):
            check_unicode(message.role, f"{param or 'chats'}[{index}].role")
            check_unicode(message.content, f"{param or 'chats'}[{index}].content")
        for name, value in (chat_template_kwargs or {}).items():
            check_unicode(f"{name}{value}", "chat_template_kwargs")
        text, stretches = self.template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            options=chat_template_kwargs,
            param=param,
        )
        ids, spans, _ = self._encode(text, specials=False, param=param)
        owned = [
            (message, None if message is None else messages[message].role, content)
            for message, content in _owners(spans, stretches)
        ]
        return self._finished(text, ids, spans, owned, param)

    def read_ids(self, ids: Sequence[int], *, param: str | None) -> SourceText:
        """Decode ids to the text that they stand for: all of it is content.

        Raises:
            InvalidRequest: there are none, or too many, or the tokenizer or the model does not have one.
        """
        self._check_count(len(ids), param)
        size = len(self.tokenizer)
        for index, token in enumerate(ids):
            if not 0 <= token < size or self.tokenizer.convert_ids_to_tokens(token) is None:
                field = f"{param or 'token_ids'}[{index}]"
                raise InvalidRequest(
                    f"{field}: the source model's tokenizer has no token {token}: its ids are 0 to {size - 1}",
                    param=field,
                )
        text, spans = self.decoder.read(ids)
        return self._finished(text, list(ids), spans, ((None, None, True) for _ in ids), param)

    def _encode(self, text: str, *, specials: bool, param: str | None) -> tuple[list[int], list[Span], list[bool]]:
        """Tokenize: ids, spans, and which of them the tokenizer added, but for a BOS before another."""
        self._check_parts(text, param)
        told = self.tokenizer(
            text,
            add_special_tokens=specials,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ids, offsets, added = told["input_ids"], told["offset_mapping"], told["special_tokens_mask"]
        if added[:2] == [1, 0] and ids[0] == ids[1] == self.tokenizer.bos_token_id:
            ids, offsets, added = ids[1:], offsets[1:], added[1:]
        self._check_count(len(ids), param)
        ours = [bool(one) for one in added]
        return ids, mended(text, offsets, self.tokenizer.convert_ids_to_tokens(ids), ours), ours

    def _check_count(self, count: int, param: str | None) -> None:
        """Refuse too many tokens before anything is made of them."""
        if self.limit is not None and count > self.limit.tokens:
            raise self.limit.refusal(f"{count} tokens", param)

    def _check_parts(self, text: str, param: str | None) -> None:
        """Refuse a text that has far too many tokens where it begins; the cuts between its parts make but a few."""
        if self.limit is None or len(text) <= PART_CHARACTERS:
            return
        count = 0
        for start in range(0, len(text), PART_CHARACTERS):
            part = text[start : start + PART_CHARACTERS]
            count += len(self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
            if count > 2 * self.limit.tokens:
                raise self.limit.refusal(f"more than {self.limit.tokens} tokens", param)

    def _finished(
        self,
        text: str,
        ids: list[int],
        spans: Sequence[Span],
        owned: Iterable[tuple[int | None, str | None, bool]],
        param: str | None,
    ) -> SourceText:
        if not ids:
            raise InvalidRequest(f"{param or 'the text'}: it comes to no token at all: send more", param=param)
        if self.rows is not None and max(ids) >= self.rows:
            name = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise InvalidRequest(
                f"{param or 'the text'}: its token {name!r} has the id {max(ids)}, but the source model has {self.rows}"
                " tokens: take it out",
                param=param,
            )
        names = self.tokenizer.convert_ids_to_tokens(ids)
        tokens = [
            Token(
                position=position,
                id=token,
                text=name if end == start and token in self.specials else text[start:end],
                start=start,
                end=end,
                special=token in self.specials,
                message=message,
                role=role,
                content=content,
            )
            for position, (token, name, (start, end), (message, role, content)) in enumerate(
                zip(ids, names, spans, owned, strict=True)
            )
        ]
        return SourceText(text, tokens)


def check_unicode(text: str, param: str | None) -> None:
    """Refuse half a surrogate pair, which is no character.

    Raises:
        InvalidRequest: the text has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{param or 'the text'}: character {error.start} is half a surrogate pair, and no Unicode: mend the text",
            param=param,
        ) from None


def _owners(spans: Sequence[Span], stretches: Sequence[Stretch]) -> Iterator[tuple[int | None, bool]]:
    """Tell each token's message, and whether it is content; what has no characters is none."""
    starts = [stretch.start for stretch in stretches]
    for start, end in spans:
        first = max(bisect_right(starts, start) - 1, 0)
        over = stretches[first : max(bisect_left(starts, end), first + 1)]
        contents = (stretch for stretch in over if stretch.content and end > start)
        owner = next(contents, over[0] if over else None)
        yield (None, False) if owner is None else (owner.message, owner.content and end > start)


def _rows(folder: Path) -> int | None:
    """Read from a checkpoint's config for how many tokens the model has an embedding."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    rows = (config.get("text_config") or config).get("vocab_size", config.get("vocab_size"))
    return rows if isinstance(rows, int) else None
