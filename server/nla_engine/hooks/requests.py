"""Hooks on requests, in the engine's HTTP process.

A source's answer has its rows [n, d_model] as base64 of little-endian elements, in the dtype that it computes in.

A verbalizer request is plain `input_ids` beside
`positional_embed_overrides = {"embeds": [base64, ...], "positions": [int, ...], "dtype": "bfloat16" | "float32"}`,
where each base64 holds the little-endian elements of a row [d_model], already scaled and rounded by the gateway.
"""

import binascii
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pybase64
import torch

DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def decode_injection(manager: Any, obj: Any, *args: Any, **kwargs: Any) -> None:
    """Turn the JSON form of an injected vector into SGLang's own, in place.

    Raises:
        ValueError: the JSON form is malformed; SGLang answers 400.
    """
    overrides = getattr(obj, "positional_embed_overrides", None)
    if isinstance(overrides, dict):
        obj.positional_embed_overrides = _decode(overrides, manager.model_config.hidden_size)


def refuse_generation(manager: Any, obj: Any, *args: Any, **kwargs: Any) -> None:
    """Keep `POST /generate` from killing an embedding server, as it does in stock SGLang.

    Raises:
        ValueError: always for a generation request; SGLang answers 400.
    """
    from sglang.srt.managers.io_struct import GenerateReqInput

    if isinstance(obj, GenerateReqInput):
        raise ValueError("this engine is no verbalizer: it has no head and cannot generate text")


def encode_rows(original: Callable[..., Any], manager: Any, obj: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    """Have a source answer rows as base64 instead of tensors, for which JSON has no form.

    Raises:
        ValueError: as `refuse_generation`.
    """
    refuse_generation(manager, obj)
    return encoded(original(manager, obj, *args, **kwargs))


async def encoded(answers: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Put base64 in the place of the tensors in an engine's answers."""
    async for answer in answers:
        for one in answer if isinstance(answer, list) else [answer]:
            rows = one.get("pooled_hidden_state")
            if rows is not None:
                one["pooled_hidden_state"] = pybase64.b64encode_as_string(_bytes_of(rows))
        yield answer


def _bytes_of(rows: torch.Tensor) -> memoryview:
    return rows.contiguous().flatten().view(torch.uint8).numpy().data


def _decode(overrides: dict[str, Any], d_model: int) -> object:
    from sglang.srt.managers.embed_types import PositionalEmbeds

    rows, positions, dtype = (overrides.get(key) for key in ("embeds", "positions", "dtype"))
    if not isinstance(rows, list) or not isinstance(positions, list) or not rows or dtype not in DTYPES:
        raise ValueError("positional_embed_overrides needs lists `embeds` and `positions`, and `dtype`")
    embeds = torch.stack([_row(row, DTYPES[dtype], d_model) for row in rows])
    return PositionalEmbeds(embeds=embeds, positions=positions)


def _row(data: str, dtype: torch.dtype, d_model: int) -> torch.Tensor:
    try:
        row = torch.frombuffer(pybase64.b64decode_as_bytearray(data, validate=True), dtype=dtype)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"an injected vector does not decode: {error}") from None
    if row.shape != (d_model,):
        raise ValueError(f"an injected vector has {row.numel()} elements; the model's d_model is {d_model}")
    return row
