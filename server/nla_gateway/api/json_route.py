"""Routes that FastAPI declares and describes, and that read their bodies and write their answers by themselves.

FastAPI's own way, made for dependencies, forms and files, takes longer over one vector than all else here together.
"""

from email.message import Message
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

import orjson
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nla_gateway.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)

NO_OBJECT: Final = "the body must be a JSON object, sent with content-type: application/json"


class JsonRoute(APIRoute):
    """A route whose endpoint, where it has a body, takes that as `call` and the `request`.

    It answers with a response of its own, or with what `response_model` says, which is not validated once more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.body_field is not None:
            self._model = cast("type[BaseModel]", self.body_field.field_info.annotation)
            self._answers = TypeAdapter[Any](self.response_model)
            self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange; what is raised becomes a reply where all errors do."""
        request = Request(scope, receive)
        answer = await self.endpoint(call=await parsed(request, self._model), request=request)
        if not isinstance(answer, Response):
            answer = Response(self._answers.dump_json(answer), media_type="application/json")
        await answer(scope, receive, send)


async def parsed(request: Request, model: type[M]) -> M:
    """Read and parse a request's body, by orjson: a batch of vectors is megabytes, and other requests wait meanwhile.

    Raises:
        InvalidRequest: it is not what the model says.
        HTTPException: it is too large, or does not come.
    """
    try:
        body = await request.body()
    except ClientDisconnect:
        raise InvalidRequest("the caller left before the body was there") from None
    if not body or not _is_json(request.headers.get("content-type", "")):
        raise InvalidRequest(NO_OBJECT)
    try:
        fields = orjson.loads(body)  # refuses half a surrogate pair, which is no text
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    try:
        return model.model_validate(_with_one_unknown(fields, model))
    except ValidationError as error:
        raise _refusal(error) from None


def param_of(loc: tuple[Any, ...]) -> str | None:
    """Name a field as the contract does, `vectors[3]`, from pydantic's location."""
    name = ""
    for part in loc:
        if isinstance(part, int):
            name += f"[{part}]" if name else ""
        elif not name:
            name = str(part)
    return name or None


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type
    kind, subtype = message.get_content_maintype(), message.get_content_subtype()
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def _with_one_unknown(fields: Any, model: type[BaseModel]) -> Any:
    """Leave out all unknown fields but the first: pydantic makes an error of each, and callers are told one."""
    if not isinstance(fields, dict):
        return fields
    known = model.model_fields
    unknown = next((name for name in fields if name not in known), None)
    return fields if unknown is None else {name: fields[name] for name in (*known, unknown) if name in fields}


def _refusal(error: ValidationError) -> InvalidRequest:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = param_of(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return InvalidRequest(f"unknown field {param!r}", param=param)
    if param is None:
        return InvalidRequest(NO_OBJECT)
    return InvalidRequest(f"{param}: {problem['msg'][:1].lower()}{problem['msg'][1:]}", param=param)
