"""Renders chats through the tokenizer's own template, and makes the caller's mistakes plain.

Knows templates; knows no tokens.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nla_client.wire import ChatMessage
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.turns import Chat, Stretch, stretches

Options = Mapping[str, bool | int | float | str | None]

NO_THOUGHTS: Final = ("enable_thinking", False)
"""May be asked of a template in which no word is of thinking, too: there it is so already."""
LONGEST_REASON: Final = 300
"""Characters of what a template says."""


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's own chat template."""

    tokenizer: Any = field(repr=False)

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        options: Options | None,
        param: str | None,
    ) -> tuple[str, list[Stretch]]:
        """Render a chat, and tell to which message each of its characters belongs.

        Args:
            messages: the chat.
            add_generation_prompt: write the header of the answer.
            continue_final_message: leave the last message open.
            options: given to the template as they are; nothing is added.
            param: the chat's name in errors.

        Raises:
            InvalidRequest: there is no template, it knows no such option, or it refuses the chat.
        """
        options = options or {}
        self._check(options, param)
        roles, contents = [message.role for message in messages], [message.content for message in messages]
        ends = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        try:
            rendered = self._rendered(roles, contents, ends | dict(options))
        except Exception as error:  # jinja2 raises whatever the template does with what it is given
            raise InvalidRequest(
                f"{param or 'the chat'}: the chat template refuses it: {_reason(error)}", param=param
            ) from None
        chat = Chat(
            rendered,
            roles,
            contents,
            self.tokenizer.bos_token,
            render=lambda others: self._tried(roles, others, ends | dict(options)),
            render_any=lambda others, texts: self._tried(others, texts, options),
        )
        return rendered, stretches(chat)

    def _check(self, options: Options, param: str | None) -> None:
        """Refuse options that the template does not know, or that are not its own."""
        source = self._source(param)
        if not options:
            return
        taken = {*inspect.signature(self.tokenizer.apply_chat_template).parameters, "messages"}
        taken |= set(self.tokenizer.special_tokens_map)
        for name in options:
            field = f"chat_template_kwargs.{name}"
            if name in taken:
                raise InvalidRequest(f"{field}: this one is not the caller's to give: leave it out", param=field)
            if (name, options[name]) == NO_THOUGHTS and "think" not in source.lower():
                continue
            if not name.isidentifier() or not re.search(rf"\b{re.escape(name)}\b", source):
                raise InvalidRequest(f"{field}: the chat template knows no {name!r}: leave it out", param=field)

    def _source(self, param: str | None) -> str:
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError:
            raise InvalidRequest(
                f"{param or 'chats'}: the source model's tokenizer has no chat template: send `texts` instead",
                param=param,
            ) from None

    def _tried(self, roles: Sequence[str], contents: Sequence[str], options: Options) -> str | None:
        """Render a chat that the template may refuse."""
        try:
            return self._rendered(roles, contents, options)
        except Exception:  # as above: for one that the caller did not send, a refusal is an answer
            return None

    def _rendered(self, roles: Sequence[str], contents: Sequence[str], options: Options) -> str:
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))


def _reason(error: Exception) -> str:
    """Say in one line what went wrong in a template."""
    lines = str(error).partition("Final message to continue:")[0].strip().splitlines() or [type(error).__name__]
    return lines[0][:LONGEST_REASON]
