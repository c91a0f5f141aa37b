"""Routes that FastAPI declares and describes, and that read their bodies and write their answers by themselves.

FastAPI's own way, made for dependencies, forms and files, takes longer over one vector than all else here together.

A wrong body must cost no more than to read it. So values are made only of what has the form that a model says: the
first that has not ends it, and so do more strings than a right body can have, one longer than any in it, and what holds
none where one must be.
"""

import re
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import msgspec
import numpy as np
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nla_client.wire import MANY_TAG, ONE_TAG
from nla_gateway.api.bodies import longest_string
from nla_gateway.errors import InvalidRequest, PayloadTooLarge

Scalar = int | float | str | bool | None

NO_OBJECT: Final = "the body must be a JSON object, sent with content-type: application/json"
NO_JSON: Final = "the body is not valid JSON"
ESCAPE: Final = b"\\u0000"
LISTS: Final = 2
"""As many lists of strings a body has at most."""
STRINGS_OF_CHAT: Final = 256
"""A chat's on average, four a message, in bodies that may have chats."""
MOST_NUMBERS: Final = 2**22
"""In all lists of numbers of one field."""
MOST_IN_A_ROW: Final = 2**20
"""Numbers that are elements of the field itself, each of which could be a list: more than any text has tokens."""
OTHER_STRINGS: Final = 64
"""More than the names of fields, and values that are no lists."""
CHUNK: Final = 2**18
"""Bytes looked at together: few enough for a processor's caches."""
QUOTE, BACKSLASH = b'"\\'
CHEAP: Final = 2**20
"""Bytes that are read once more to name a field."""
LONGEST_NAME: Final = 100
"""Characters of a caller's own name for a field that errors repeat."""
UNKNOWN: Final = "Object contains unknown field `"
MISFIT: Final = re.compile(r"(?:Expected `(.*)`, got `(.*)`|(.*)) - at `\$\.(.*)`", re.DOTALL)
UNREADABLE: Final = (UnicodeError, msgspec.DecodeError, RecursionError)
"""What msgspec raises of a body that is no JSON."""
ANY_KEY: Final = "[...]"
"""How msgspec names a place in an object without fields."""
NOT_EMPTY: Final = msgspec.Meta(min_length=1)
"""Else a body could have millions of them."""
EMPTY: Final = re.compile(r"Expected `(array|object)` of length >= 1")
SCALARS: Final = {"bool", "int", "float", "str", "null"}
JSON_WORDS: Final = {
    "str": "a string", "int": "a number", "float": "a number", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip


class JsonRoute(APIRoute):
    """A route whose endpoint, where it has a body, takes that as `call` and the `request`.

    It answers with a response of its own, or with what `response_model` says, which is not validated once more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.body_field is not None:
            self._model = cast("type[BaseModel]", self.body_field.field_info.annotation)
            self._form = Form(self._model)
            self._answers = TypeAdapter[Any](self.response_model)
            self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange; what is raised becomes a reply where all errors do."""
        request = Request(scope, receive)
        gateway = request.app.state.gateway
        most = self._form.strings_each * gateway.limits.max_batch + OTHER_STRINGS
        longest = longest_string(self._model, gateway.pairs)
        call = self._model_of(self._form.read(await _body(request), most, longest))
        answer = await self.endpoint(call=call, request=request)
        if not isinstance(answer, Response):
            answer = Response(self._answers.dump_json(answer), media_type="application/json")
        await answer(scope, receive, send)

    def _model_of(self, fields: dict[str, Any]) -> BaseModel:
        try:
            return self._model.model_validate(fields)
        except ValidationError as error:
            raise refused(error) from None


class Form:
    """The form of a model's fields: lists of what it says, or single values of any kind, which the model looks at.

    Args:
        model: of a request's body.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        annotations = {name: field.annotation for name, field in model.model_fields.items()}
        forms = {name: form_of(kind) if _holds(kind, (list, dict)) else Scalar for name, kind in annotations.items()}
        self._lists = [name for name, form in forms.items() if form is not Scalar]
        # Lists of numbers are left as they are at first: how many there are is to be known before any is made.
        numbers = [name for name in self._lists if _holds(annotations[name], (int,))]
        self._numbers = {name: msgspec.json.Decoder(forms[name]) for name in numbers}
        forms |= dict.fromkeys(numbers, msgspec.Raw)
        fields = [(name, Union[form, msgspec.UnsetType], msgspec.UNSET) for name, form in forms.items()]  # noqa: UP007
        struct = msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True)
        self._decoder = msgspec.json.Decoder(struct)
        self.strings_each = STRINGS_OF_CHAT if _holds(list(annotations.values()), (BaseModel,)) else LISTS
        """Strings that a right body has for each text that it may have, at most."""

    def read(self, body: bytes, most_strings: int, longest: int) -> dict[str, Any]:
        """Read those fields that a body has.

        Args:
            body: JSON.
            most_strings: that a right one has.
            longest: bytes of any of them, as they stand in it.

        Raises:
            InvalidRequest: it is no JSON, or not of this form, or has a longer string.
            PayloadTooLarge: it has more strings.
        """
        excess = excess_in(body, most_strings, longest)
        begun = body if excess is None else body[: excess.place]
        if excess is None and ESCAPE[:2] in body[-2 * len(ESCAPE) :]:
            begun += b" " * len(ESCAPE)  # msgspec looks for a pair's other half beyond the end
        try:
            # What else is wrong with it stands before that place, or nothing is.
            fields = self._decoder.decode(begun)
        except msgspec.ValidationError as error:
            raise _misfit(str(error)) from None
        except UNREADABLE as error:
            if excess is None or "truncated" not in str(error):
                raise _unreadable(error) from None
            raise (self._too_long(begun, longest) if excess.is_long else self._too_many(most_strings)) from None
        named = ((name, getattr(fields, name)) for name in fields.__struct_fields__)
        return {name: self._made(name, value, most_strings) for name, value in named if value is not msgspec.UNSET}

    def _made(self, name: str, value: Any, most_lists: int) -> Any:
        """Make a field's numbers, where it has not too many, nor too many lists of them."""
        decoder = self._numbers.get(name)
        if decoder is None:
            return value
        text = bytes(value)
        for sign, kind, most in ((b",", "numbers", MOST_NUMBERS), (b"[", "lists", most_lists)):
            if text.count(sign) >= most:
                raise PayloadTooLarge(f"{name} has more than {most} {kind}: send several requests", param=name)
        if len(text) > MOST_IN_A_ROW and _in_a_row(text) > MOST_IN_A_ROW:
            raise PayloadTooLarge(f"{name} has more than {MOST_IN_A_ROW} numbers for one text", param=name)
        try:
            return decoder.decode(value)
        except msgspec.ValidationError as error:
            path = str(error) if "`$" in str(error) else f"{error} - at `$`"
            raise _misfit(path.replace("`$", f"`$.{name}")) from None
        except UNREADABLE as error:  # what is left as it is at first is not looked at
            raise _unreadable(error) from None

    def _too_many(self, most: int) -> PayloadTooLarge:
        param = next(iter(self._lists), None)
        return PayloadTooLarge(f"more than {most} strings in one request: send several requests", param=param)

    def _too_long(self, begun: bytes, longest: int) -> InvalidRequest:
        param = self._field_behind(begun) if len(begun) <= CHEAP else None
        where = "a string" if param is None else f"{param}: the string"
        return InvalidRequest(f"{where} has more than {longest} bytes, and no right one has: shorten it", param=param)

    def _field_behind(self, begun: bytes) -> str | None:
        """Name the field whose value would come next: of what msgspec says of another kind of value there."""
        try:
            self._decoder.decode(begun + b"0")
        except msgspec.ValidationError as error:
            return _misfit(str(error)).param
        except UNREADABLE:  # a field of numbers, which is left as it is at first, or a name
            return None
        return None


@dataclass(frozen=True)
class Excess:
    """A place in a JSON text where there is more than a right one has."""

    place: int
    """Up to which there are too many strings, or at which a string begins that is too long."""
    is_long: bool


def excess_in(body: bytes, most_strings: int, longest: int) -> Excess | None:
    """Find a place in a JSON text up to which it has more strings than that, or where a longer one begins.

    A string begins with a quote that no backslash precedes, and has at most one more of these. Backslashes stand in
    strings alone: those without such a quote between them are in one. A long string without any costs little.
    """
    text, quotes = np.frombuffer(body, np.uint8), 0
    before, first = 0, None  # where parts begin: the last with such a quote, and the first with a backslash after it
    for start in range(0, len(text), CHUNK):
        found, slashes = _quotes(text, start)
        count = int(np.count_nonzero(found))
        quotes += count
        if quotes > 2 * most_strings:
            return Excess(start + len(found), is_long=False)
        if count:
            before, first = start, None
        elif slashes.any():
            first = start if first is None else first
            if start - first >= longest and quotes:
                return Excess(before + int(np.flatnonzero(_quotes(text, before)[0])[-1]), is_long=True)
    return None


def _in_a_row(text: bytes) -> int:
    """Count the elements of a list of numbers, and of lists of such, that are no lists."""
    place, lists, commas = text.find(b"[") + 1, 0, 0
    while (opening := text.find(b"[", place)) >= 0:
        commas += text.count(b",", place, opening)
        lists += 1
        place = text.find(b"]", opening) + 1
        if not place:
            return 0  # no JSON, as will be said
    return commas + text.count(b",", place) + 1 - lists


def _quotes(text: NDArray[np.uint8], start: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find, in a part of a text, the quotes that no backslash precedes, and the backslashes."""
    part = text[start : start + CHUNK]
    found, slashes = part == QUOTE, part == BACKSLASH
    found[1:] &= ~slashes[:-1]
    found[0] &= start == 0 or text[start - 1] != BACKSLASH
    return found, slashes


async def _body(request: Request) -> bytes:
    """Read a request's body.

    Raises:
        InvalidRequest: it is none, or not said to be JSON.
        HTTPException: it is too large, or does not come.
    """
    try:
        body = await request.body()
    except ClientDisconnect:
        raise InvalidRequest("the caller left before the body was there") from None
    if not body or not _is_json(request.headers.get("content-type", "")):
        raise InvalidRequest(NO_OBJECT)
    return body


def param_of(loc: tuple[Any, ...]) -> str | None:
    """Name a field as the contract does, `vectors[3]` or `chats[0].role`, from pydantic's location."""
    name, before, object_follows = "", None, False
    for part in loc:
        if isinstance(part, int):
            name += f"[{part}]" if name else ""
        elif not name:
            name = str(part)
        elif object_follows:  # what else it says are forms that a value may have
            name += f".{part}"
        object_follows = part == ONE_TAG or (isinstance(part, int) and before == MANY_TAG)
        before = part
    return name or None


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type
    kind, subtype = message.get_content_maintype(), message.get_content_subtype()
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def _holds(annotation: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a field's values are of one of these kinds, or may have such in them."""
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    kind = get_origin(annotation) or annotation
    return (isinstance(kind, type) and issubclass(kind, kinds)) or any(_holds(part, kinds) for part in parts)


def form_of(annotation: Any) -> Any:
    """Form the type that msgspec is to read: of a model that is part of another, whatever strings it has.

    Such a part, and a list of such, is not empty.
    """
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return form_of(parts[0])
    if kind is Literal:
        return str
    if kind is list:
        form: Any = list[form_of(parts[0])]  # type: ignore[misc]  # made at run time
        return Annotated[form, NOT_EMPTY] if _is_model(parts[0]) else form
    if kind in (Union, UnionType):
        return Union[tuple(form_of(part) for part in parts)]  # noqa: UP007
    return Annotated[dict[str, str], NOT_EMPTY] if _is_model(annotation) else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unreadable(error: Exception) -> InvalidRequest:
    if isinstance(error, RecursionError):
        problem = "it is nested too deeply"
    elif "utf-8" in str(error).lower():  # of either kind, by msgspec's release
        problem = "its text is not UTF-8"
    else:
        problem = str(error).removeprefix("JSON is malformed: ").lower()
    return InvalidRequest(f"{NO_JSON}: {problem}")


def _misfit(problem: str) -> InvalidRequest:
    """Say in the contract's words what msgspec says of the first value that has another form."""
    if problem.startswith(UNKNOWN):  # and perhaps it is megabytes
        name = problem[len(UNKNOWN) : len(UNKNOWN) + min(LONGEST_NAME, len(problem) - len(UNKNOWN) - 1)]
        return InvalidRequest(f"unknown field {name!r}", param=name)
    if (misfit := MISFIT.fullmatch(problem)) is None:
        return InvalidRequest(NO_OBJECT)
    expected, got, other, param = misfit.groups()
    param = param.removesuffix(ANY_KEY)
    if other and (empty := EMPTY.fullmatch(other)):
        return InvalidRequest(f"{param}: the {JSON_WORDS[empty[1]].partition(' ')[2]} is empty", param=param)
    if other:  # a number that no type holds
        return InvalidRequest(f"{NO_JSON}: {param}: {other.lower()}")
    wanted = _in_words(expected, JSON_WORDS | {"int": "a whole number"})
    return InvalidRequest(f"{param}: expected {wanted}, not {_in_words(got, JSON_WORDS)}", param=param)


def _in_words(names: str, words: dict[str, str]) -> str:
    if set(names.split(" | ")) == SCALARS:
        return "one value"
    return " or ".join(dict.fromkeys(words.get(name, name) for name in names.split(" | ")))


def refused(error: ValidationError) -> InvalidRequest:
    """Say in the contract's words what pydantic says of the first value that is wrong."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = param_of(problem["loc"])
    if param is None:
        return InvalidRequest(NO_OBJECT)
    return InvalidRequest(f"{param}: {problem['msg'][:1].lower()}{problem['msg'][1:]}", param=param)
