# Made from asynchronous/texts.py by `make unasync`: change that one.
"""The calls that begin with a text: the source model reads it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, overload

from nla_client.calls import replies, texts
from nla_client.calls.base import Sampling
from nla_client.calls.sources import (
    Chosen,
    ManySources,
    OneSource,
    PositionsLike,
    Rendering,
    SourceLike,
    Sources,
    TemplateValue,
    as_chosen,
    as_sources,
)
from nla_client.errors import PayloadTooLargeError
from nla_client.results.explained import Explanation, Explanations, Extraction, Extractions, Tokenization
from nla_client.synchronous.base import Client
from nla_client.synchronous.stream import ExplanationStream
from nla_client.wire import VectorDType


class SourceClient(Client):
    """From a text to its tokens, their activations, and what these hold in words."""

    @overload
    def tokenize(
        self,
        text: ManySources,
        *,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> list[Tokenization]: ...
    @overload
    def tokenize(
        self,
        text: OneSource,
        *,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Tokenization: ...
    @overload
    def tokenize(
        self,
        text: SourceLike,
        *,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Any: ...  # one or many: a type checker cannot tell
    def tokenize(
        self,
        text: SourceLike,
        *,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Tokenization | list[Tokenization]:
        """Take a text apart into the source model's tokens.

        Args:
            text: A str, a chat (a list of messages, each with `role` and `content`), token ids (a list of int, or an
                array of them), or a list of any of these, not empty.
            add_special_tokens: With texts: the model's own, such as a BOS, unless the text begins with it already.
            add_generation_prompt: With chats: the answer's beginning, as the template has it.
            continue_final_message: With chats: the last message stays open.
            chat_template_kwargs: With chats: for the template, such as `{"enable_thinking": False}`.

        Returns:
            For one text a Tokenization; for a list a list of them, in order.

        Raises:
            InvalidArgumentError: a text or positions in none of these forms; nothing was sent.
            EngineUnavailableError: the server has no source model, or it is not ready.
            APIStatusError, APIConnectionError, APITimeoutError: as for `verbalize`.
        """
        rendering = Rendering(add_special_tokens, add_generation_prompt, continue_final_message, chat_template_kwargs)
        sources = as_sources(text, rendering)
        told = self._tokens(sources)
        return told[0] if sources.single else told

    def _tokens(self, sources: Sources) -> list[Tokenization]:
        return self._connection.send_all(texts.tokenize(sources, self._batch_size))

    @overload
    def extract(
        self,
        text: ManySources,
        positions: PositionsLike = "last",
        *,
        dtype: VectorDType = "bfloat16",
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Extractions: ...
    @overload
    def extract(
        self,
        text: OneSource,
        positions: PositionsLike = "last",
        *,
        dtype: VectorDType = "bfloat16",
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Extraction: ...
    @overload
    def extract(
        self,
        text: SourceLike,
        positions: PositionsLike = "last",
        *,
        dtype: VectorDType = "bfloat16",
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Any: ...  # one or many: a type checker cannot tell
    def extract(
        self,
        text: SourceLike,
        positions: PositionsLike = "last",
        *,
        dtype: VectorDType = "bfloat16",
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Extraction | Extractions:
        """Read the source model's activations at tokens of a text: what `verbalize` takes.

        Args:
            text: A str, a chat (a list of messages, each with `role` and `content`), token ids (a list of int, or an
                array of them), or a list of any of these, not empty.
            positions: `last`, `all`, `content` (what texts and messages say, without special tokens) or a list of int,
                negative ones from the end; or a list of such, one a text.
            dtype: What the vectors are sent back as.
            add_special_tokens: With texts: the model's own, such as a BOS, unless the text begins with it already.
            add_generation_prompt: With chats: the answer's beginning, as the template has it.
            continue_final_message: With chats: the last message stays open.
            chat_template_kwargs: With chats: for the template, such as `{"enable_thinking": False}`.

        Returns:
            For one text an Extraction; for a list a list of them, in order, that also has `model`, `usage`,
            `to_pandas()` and `to_arrow()`, a row for each token.

        Raises:
            InvalidArgumentError: a text or positions in none of these forms; nothing was sent.
            EngineUnavailableError: the server has no source model, or it is not ready.
            APIStatusError, APIConnectionError, APITimeoutError: as for `verbalize`.
        """
        rendering = Rendering(add_special_tokens, add_generation_prompt, continue_final_message, chat_template_kwargs)
        sources = as_sources(text, rendering)
        chosen = as_chosen(positions, sources.count)
        call = texts.extract(sources, chosen, dtype, self._batch_size)
        read = Extractions.join(self._connection.send_all(call))
        return read[0] if sources.single else read

    @overload
    def explain(
        self,
        text: ManySources,
        positions: PositionsLike = "last",
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        stream: Literal[False] = False,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Explanations: ...
    @overload
    def explain(
        self,
        text: OneSource,
        positions: PositionsLike = "last",
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        stream: Literal[False] = False,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        text: SourceLike,
        positions: PositionsLike = "last",
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        stream: Literal[True],
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> ExplanationStream: ...
    @overload
    def explain(
        self,
        text: SourceLike,
        positions: PositionsLike = "last",
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        stream: bool = False,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Any: ...  # one or many: a type checker cannot tell
    def explain(
        self,
        text: SourceLike,
        positions: PositionsLike = "last",
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        stream: bool = False,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    ) -> Explanation | Explanations | ExplanationStream:
        """Say in words what the source model holds at tokens of a text.

        A call is split by its samples, so that also one long text may take several requests. Where `positions` does not
        tell how many they are (`all`, `content`, ints of both signs) and they may be too many for one request, the
        texts are first taken apart by `/tokenize`.

        Args:
            text: A str, a chat (a list of messages, each with `role` and `content`), token ids (a list of int, or an
                array of them), or a list of any of these, not empty.
            positions: `last`, `all`, `content` (what texts and messages say, without special tokens) or a list of int,
                negative ones from the end; or a list of such, one a text.
            n: Samples at each position.
            temperature: 0 means greedy.
            top_p: Sample from the likeliest tokens of this total probability.
            top_k: Sample from so many likeliest tokens; None for all.
            max_tokens: Most tokens of a sample; None for 200, or for the server's limit where that is less.
            seed: Same seed, same texts and positions: same samples, however the call was split. They are those of
                `verbalize` with the same seed for the same vectors in the same order.
            score: Score every explanation against its vector.
            stream: Give events as they come; one request only, so at most `batch_size` texts.
            add_special_tokens: With texts: the model's own, such as a BOS, unless the text begins with it already.
            add_generation_prompt: With chats: the answer's beginning, as the template has it.
            continue_final_message: With chats: the last message stays open.
            chat_template_kwargs: With chats: for the template, such as `{"enable_thinking": False}`.

        Returns:
            For one text an Explanation; for a list a list of them, in order, that also has `model`, `usage`,
            `to_pandas()` and `to_arrow()`, a row for each token; with `stream` an iterator of events.

        Raises:
            InvalidArgumentError: a text or positions in none of these forms; nothing was sent.
            EngineUnavailableError: the server has no source model, or it is not ready.
            APIStatusError, APIConnectionError, APITimeoutError: as for `verbalize`.
        """
        rendering = Rendering(add_special_tokens, add_generation_prompt, continue_final_message, chat_template_kwargs)
        sources = as_sources(text, rendering)
        chosen = as_chosen(positions, sources.count)
        sampling = Sampling("bfloat16", n, temperature, top_p, top_k, max_tokens, seed, score)
        if stream:
            call = texts.explain_stream(sources, chosen, sampling, self._batch_size)
            return self._connection.stream(call, ExplanationStream)
        explained = self._explained(sources, chosen, sampling)
        return explained[0] if sources.single else explained

    def _explained(self, sources: Sources, chosen: Sequence[Chosen], sampling: Sampling) -> Explanations:
        batch = texts.explain(sources, chosen, sampling, self._batch_size)
        if any(one.count is None for one in chosen):
            if texts.fits_one(sources, chosen, sampling, self._batch_size):
                with suppress(PayloadTooLargeError):  # it takes less at a time than others
                    return replies.explanations(self._connection.send_all(batch))
            told = self._tokens(sources)
            counted = [one.counted(tokens) for one, tokens in zip(chosen, told, strict=True)]
            batch = texts.explain(sources, counted, sampling, self._batch_size)
        return replies.explanations(self._connection.send_all(batch))
