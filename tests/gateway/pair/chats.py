"""Chats for tests, and what is to come of them: told by hand, piece by piece, not by the code that is tested."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nla_client.wire import ChatMessage
from nla_gateway.pair.texts import SourceText, SourceTokenizer
from tests.gateway.pair.spans import check_tokens


@dataclass(frozen=True)
class Piece:
    """Characters of a rendered chat: of a message, or of the template for one (or for none)."""

    text: str
    message: int | None = None
    content: bool = False


def chat(*messages: tuple[str, str]) -> list[ChatMessage]:
    return [ChatMessage(role=role, content=content) for role, content in messages]


def read_chat(
    tokenizer: SourceTokenizer,
    messages: Sequence[ChatMessage],
    *,
    prompt: bool = True,
    stays_open: bool = False,
    options: dict[str, bool | str] | None = None,
) -> SourceText:
    return tokenizer.read_chat(
        messages,
        add_generation_prompt=prompt,
        continue_final_message=stays_open,
        chat_template_kwargs=options,
        param="chats",
    )


def check_pieces(read: SourceText, messages: Sequence[ChatMessage], pieces: Iterable[Piece]) -> None:
    """Each token is content if one of its characters is, and belongs to the message of the first such, or its first."""
    pieces = list(pieces)
    assert read.text == "".join(piece.text for piece in pieces)
    owners = [piece for piece in pieces for _ in piece.text]
    check_tokens(read)
    for token in read.tokens:
        mine = owners[token.start : token.end]
        owner = next((piece for piece in mine if piece.content), mine[0])
        role = None if owner.message is None else messages[owner.message].role
        assert (token.message, token.role, token.content) == (owner.message, role, owner.content), (token, owner)
