"""The part of the server in memory that begins with a text: its tokens are words, and say where they are from."""

import re
from typing import Any

import httpx
import numpy as np

from nla_client.wire import ExplainRequest, ExtractRequest, TextRequest, TokenizeRequest, encode_vector

USAGE = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}


def token(position: int, text: str, start: int, **changes: Any) -> dict[str, Any]:
    own = {"position": position, "id": len(text) * 100 + position, "text": text, "start": start}
    rest = {"end": start + len(text), "special": False, "message": None, "role": None, "content": True}
    return own | rest | changes


def words(text: str, special: bool) -> list[dict[str, Any]]:
    first = [token(0, "<s>", 0, end=0, special=True, content=False)] if special else []
    places = [(match[0], match.start()) for match in re.finditer(r"\s*\S+", text)]
    return first + [token(k, word, start) for k, (word, start) in enumerate(places, len(first))]


def chat(messages: Any) -> tuple[str, list[dict[str, Any]]]:
    text, tokens = "", list[dict[str, Any]]()
    for index, message in enumerate(messages):
        own = {"message": index, "role": message.role}
        for piece, content in (
            (f"{message.role}:", False),
            *((word["text"], True) for word in words(message.content, False)),
        ):
            tokens.append(token(len(tokens), piece, len(text), content=content, **own))
            text += piece
    return text, tokens


def texts_of(call: TextRequest) -> list[tuple[str, list[dict[str, Any]]]]:
    given = [form for form in (call.texts, call.chats, call.token_ids) if form is not None]
    assert len(given) == 1
    if call.texts is not None:
        return [(text, words(text, call.add_special_tokens)) for text in call.texts]
    if call.chats is not None:
        return [chat(messages) for messages in call.chats]
    assert call.token_ids is not None
    return [(" ".join(map(str, ids)), [of_id(k, one) for k, one in enumerate(ids)]) for ids in call.token_ids]


def of_id(position: int, number: Any) -> dict[str, Any]:
    """Id 0 is a special token, which is content as all that was given."""
    return token(position, str(number), 0, id=number, special=number == 0)


def chosen(tokens: list[dict[str, Any]], choice: Any) -> list[dict[str, Any]]:
    if choice == "content":
        return [one for one in tokens if one["content"] and not one["special"]]
    places = {"last": [len(tokens) - 1], "all": range(len(tokens))}.get(choice) if isinstance(choice, str) else choice
    assert places is not None
    return [tokens[place] for place in sorted({place % len(tokens) for place in places})]


def read(call: Any) -> list[dict[str, Any]]:
    texts, positions = texts_of(call), call.positions
    each = isinstance(positions, list) and not isinstance(positions[0], int)
    assert not each or len(positions) == len(texts)
    results = []
    for index, (text, tokens) in enumerate(texts):
        picked = chosen(tokens, positions[index] if each else positions)
        norms = [{"norm": one["id"], "remark": "a template token" if one["special"] else None} for one in picked]
        results.append(
            {"index": index, "text": text, "tokens": [one | norm for one, norm in zip(picked, norms, strict=True)]}
        )
    return results


class FakeSource:
    """A position's sample is its token, its id, and its seed as in the contract: by its number in the request."""

    most_samples = 10_000
    baseline: float | None

    def tokenize(self, body: Any) -> httpx.Response:
        texts = texts_of(TokenizeRequest.model_validate(body))
        results = [{"index": index, "text": text, "tokens": tokens} for index, (text, tokens) in enumerate(texts)]
        return httpx.Response(200, json={"model": "src", "results": results})

    def extract(self, body: Any) -> httpx.Response:
        call = ExtractRequest.model_validate(body)
        results = read(call)
        for result in results:
            for one in result["tokens"]:
                one["vector"] = encode_vector(np.array([one["id"], one["position"]], np.float32), call.dtype)
        about = {"model": "src", "layer": 3, "d_model": 2, "dtype": call.dtype}
        return httpx.Response(200, json=about | {"results": results, "usage": USAGE})

    def explain(self, body: Any) -> httpx.Response:
        call = ExplainRequest.model_validate(body)
        results, number = read(call), 0
        empty = [result["index"] for result in results if not result["tokens"]]
        if empty:
            detail = {"type": "invalid_request", "message": "no content", "param": f"positions[{empty[0]}]"}
            return httpx.Response(400, json={"error": detail | {"request_id": "r"}})
        if sum(len(result["tokens"]) for result in results) * call.n > self.most_samples:
            detail = {"type": "payload_too_large", "message": "samples", "param": "positions", "request_id": "r"}
            return httpx.Response(413, json={"error": detail})
        for result in results:
            for one in result["tokens"]:
                one["samples"] = [self.told(one, call, number, sample) for sample in range(call.n)]
                number += 1
        about = {"model": "av", "source": "src", "layer": 3}
        return httpx.Response(200, json=about | {"results": results, "usage": USAGE})

    def told(self, one: Any, call: ExplainRequest, number: int, sample: int) -> dict[str, Any]:
        seed = "" if call.seed is None else f" seed {call.seed + number}"
        score = {"mse": 0.5, "cosine": 0.75, "fve": None if self.baseline is None else 1 - 0.5 / self.baseline}
        text = f"{one['text'].strip()}/{one['id']}{seed} sample {sample}"
        return {"text": text, "complete": True, "finish_reason": "stop", "score": score if call.score else None}
