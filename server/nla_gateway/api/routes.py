"""The contract's endpoints. Each hands its parsed request to a job and its answer to the caller."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Annotated, Any, Final, TypeVar, cast

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from nla_client.wire import (
    EVENT_NAMES,
    AblateRequest,
    AblateResponse,
    CriticMatrix,
    CriticRequest,
    CriticResponse,
    ErrorResponse,
    ExplainEvent,
    ExplainRequest,
    ExplainResponse,
    ExtractRequest,
    ExtractResponse,
    Info,
    ModelInfo,
    ModelList,
    ReconstructRequest,
    ReconstructResponse,
    StreamEvent,
    TokenizeRequest,
    TokenizeResponse,
    Usage,
    VerbalizeRequest,
    VerbalizeResponse,
)
from nla_gateway.api import jobs, scoring_jobs, texts
from nla_gateway.api.http import GONE, error_detail, retry_after_header
from nla_gateway.api.json_route import JsonRoute
from nla_gateway.callers import exchange
from nla_gateway.engines.engine_metrics import engine_metrics
from nla_gateway.errors import EngineUnavailable, RequestTimeout
from nla_gateway.gateway import Gateway
from nla_gateway.served import ServedPair
from nla_gateway.settings import Share
from nla_gateway.states import EngineState

T = TypeVar("T")
E = TypeVar("E", StreamEvent, ExplainEvent)
Event = StreamEvent | ExplainEvent

router = APIRouter(route_class=JsonRoute)

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "The request is wrong; `param` names the field.",
        401: "The API key is missing or wrong.",
        404: "No pair of that name is served.",
        413: "The body or the batch is over the limit.",
        429: "The queue is full, or a limit of the caller's own is reached; wait for `Retry-After` seconds.",
        500: "A bug.",
        503: "The engine is starting, gone, or not served.",
        504: "The request took too long.",
    }.items()
}
NO_SUCH_PAIR: Final = ERRORS[404]
Model = Annotated[str | None, Query(description="Name of a pair, as at `/v1/models`; left out: the first.")]
OfPair = Annotated[str | None, Query(description="Ask of this pair alone, by its name.")]
UNBUFFERED: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""For proxies: events are to be passed on as they come, and kept by nobody."""
SIGN_OF_LIFE_S: Final = 15.0
"""After so long without an event a comment is sent: proxies close connections on which nothing comes."""


def _or_events(names: str) -> dict[int | str, dict[str, Any]]:
    """Describe an answer that may also be a stream."""
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: {"content": content, "description": f"JSON, or with stream=true the server-sent events {names}."}}


STREAMED: Final = ERRORS | _or_events("sample.delta, sample.done, error and done")
STREAMED_TEXTS: Final = ERRORS | _or_events("tokens, sample.delta, sample.done, error and done")


class EngineStatus(BaseModel):
    """State of one engine; the reason says why it failed."""

    state: EngineState
    reason: str | None


class ReadyResponse(BaseModel):
    """Whether all engines have passed their self-tests; of several alike, at least one."""

    ready: bool
    engines: dict[str, EngineStatus]


class UsageReport(BaseModel):
    """What one caller has used; where callers need no key, nobody is told apart, and nothing is counted."""

    caller: str | None = Field(description="Name of the key.")
    requests: int = Field(description="Sent for work, refused ones too.")
    usage: Usage
    share: Share


class NotReadyResponse(ReadyResponse, ErrorResponse):
    """The same beside the contract's error body, which names the engines that have not."""


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _pair(request: Request, model: str | None) -> ServedPair:
    """Choose the pair that a request names; from now on it is counted as that one's."""
    pair = _gateway(request).pair(model)
    exchange().model = pair.name
    return pair


@router.post("/verbalize", response_model=VerbalizeResponse, responses=STREAMED)
async def verbalize(call: Annotated[VerbalizeRequest, Body()], request: Request) -> Any:
    """Describe activation vectors in words."""
    job = await jobs.VerbalizeJob.prepare(_pair(request, call.model), call, request.state.request_id)
    return await (_streamed(request, job.events()) if call.stream else _unless_gone(request, job.run()))


@router.post("/reconstruct", response_model=ReconstructResponse, responses=ERRORS)
async def reconstruct(call: Annotated[ReconstructRequest, Body()], request: Request) -> Any:
    """Rebuild vectors from texts."""
    return await _unless_gone(request, jobs.reconstruct(_pair(request, call.model), call, request.state.request_id))


@router.post("/critic", response_model=CriticResponse | CriticMatrix, responses=ERRORS)
async def critic(call: Annotated[CriticRequest, Body()], request: Request) -> Any:
    """Score texts against vectors, pair by pair, or each against all."""
    work = jobs.critic if call.pairs == "each" else _critic_all
    return await _unless_gone(request, work(_pair(request, call.model), call, request.state.request_id))


async def _critic_all(pair: ServedPair, call: CriticRequest, request_id: str) -> Response:
    answer = await scoring_jobs.critic_all(pair, call, request_id)
    return Response(answer, media_type="application/json")


@router.post("/ablate", response_model=AblateResponse, responses=ERRORS)
async def ablate(call: Annotated[AblateRequest, Body()], request: Request) -> Any:
    """Score texts without each of their parts, and up to each: which of them carry the explanation."""
    return await _unless_gone(request, scoring_jobs.ablate(_pair(request, call.model), call, request.state.request_id))


@router.post("/tokenize", response_model=TokenizeResponse, responses=ERRORS)
async def tokenize(call: Annotated[TokenizeRequest, Body()], request: Request) -> Any:
    """Split texts into the source model's tokens."""
    return await _unless_gone(request, texts.tokenize(_pair(request, call.model), call))


@router.post("/extract", response_model=ExtractResponse, responses=ERRORS)
async def extract(call: Annotated[ExtractRequest, Body()], request: Request) -> Any:
    """Read the source model's activation vectors at positions of texts."""
    return await _unless_gone(request, texts.extract(_pair(request, call.model), call, request.state.request_id))


@router.post("/explain", response_model=ExplainResponse, responses=STREAMED_TEXTS)
async def explain(call: Annotated[ExplainRequest, Body()], request: Request) -> Any:
    """Describe in words what the source model holds at positions of texts."""
    work = texts.ExplainJob.prepare(_pair(request, call.model), call, request.state.request_id)
    job = await _unless_gone(request, work)
    if isinstance(job, Response):
        return job
    return await (_streamed(request, job.events(), job.lost) if call.stream else _unless_gone(request, job.run()))


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> dict[str, str]:
    """Answer while the process lives."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=ReadyResponse, responses={404: NO_SUCH_PAIR, 503: {"model": NotReadyResponse}})
async def ready(request: Request, model: OfPair = None) -> JSONResponse:
    """Tell whether every engine has passed its self-test, and which has not; of several alike one is enough."""
    gateway, known = _gateway(request), request.state.known
    pairs = gateway.pairs if model is None else [_pair(request, model)]
    engines = [engine for pair in pairs for engine in pair.engines]
    # What an engine says of itself is for callers with a key alone.
    states = {one.label: EngineStatus(state=one.state, reason=one.reason if known else None) for one in engines}
    problems = [problem for pair in pairs for problem in pair.problems()]
    if not problems:
        return JSONResponse(ReadyResponse(ready=True, engines=states).model_dump())
    unready = [f"the {label} is {status.state}" for label, status in states.items() if status.state != "ready"]
    message = "; ".join([problem.message for problem in problems] if known else unready)
    error = EngineUnavailable(message, retry_after_s=problems[0].retry_after_s)
    detail = error_detail(error, request.state.request_id)
    body = NotReadyResponse(error=detail, ready=False, engines=states)
    return JSONResponse(body.model_dump(), error.status, retry_after_header(error))


@router.get("/v1/info", response_model=Info, responses={401: ERRORS[401], 404: NO_SUCH_PAIR})
async def info(request: Request, model: Model = None) -> Info:
    """Tell a pair's models, base model, layer, d_model, scales, what fits into its engines, limits and versions."""
    return _pair(request, model).info_now()


@router.get("/v1/models", response_model=ModelList, responses={401: ERRORS[401]})
async def models(request: Request) -> ModelList:
    """List the pairs, as OpenAI's servers list models; requests name one of them as `model`."""
    gateway = _gateway(request)
    return ModelList(data=[pair.model_info(gateway.started) for pair in gateway.pairs])


@router.get("/v1/models/{model:path}", response_model=ModelInfo, responses={401: ERRORS[401], 404: NO_SUCH_PAIR})
async def one_model(request: Request, model: str) -> ModelInfo:
    """Describe one pair so."""
    return _pair(request, model).model_info(_gateway(request).started)


@router.get("/v1/usage", response_model=UsageReport, responses={401: ERRORS[401]})
async def usage(request: Request) -> UsageReport:
    """Tell what the caller, by their key, has used since the server was started, and what they may."""
    caller = exchange().caller
    requests, used = await asyncio.to_thread(_gateway(request).metrics.used_by, caller.name)
    return UsageReport(caller=caller.name or None, requests=requests, usage=used, share=caller.share)


@router.get("/metrics", response_class=PlainTextResponse, responses={401: ERRORS[401]})
async def metrics(request: Request) -> Response:
    """Show Prometheus metrics: the gateways' and, under the label `engine`, those of the engines themselves."""
    gateway = _gateway(request)
    engines = await engine_metrics(engine for pair in gateway.pairs for engine in pair.engines)
    return Response(gateway.metrics.text() + engines, media_type=CONTENT_TYPE_LATEST)


async def _streamed(
    request: Request, events: AsyncGenerator[E, None], lost: Callable[[Exception], Iterable[E]] | None = None
) -> Response:
    limits, rest = _gateway(request).limits, _with_signs_of_life(events, lost)
    # Before the headers go out: a request that the queue has no room for still gets its 429.
    first = await _unless_gone(request, anext(rest))
    if isinstance(first, Response):
        return first
    return EventsResponse(first, rest, limits.request_timeout_s + limits.stall_timeout_s)


class EventsResponse(StreamingResponse):
    """Server-sent events; however the response ends, what makes them ends with it.

    Samples have a time limit of their own; this one is for a reader who takes what is left a few bytes at a time.
    """

    def __init__(self, first: Event | None, rest: AsyncGenerator[Any, None], limit_s: float) -> None:
        self._encoded = _encode_events(first, rest)
        super().__init__(self._encoded, media_type="text/event-stream", headers=UNBUFFERED)
        self._rest, self._limit_s = rest, limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events.

        Raises:
            RequestTimeout: the reader took too long, and the stream breaks off.
        """
        try:
            async with asyncio.timeout(self._limit_s):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise RequestTimeout("the answer was not read in time") from None
        finally:
            await self._encoded.aclose()
            await self._rest.aclose()


async def _with_signs_of_life(
    events: AsyncGenerator[E, None], lost: Callable[[Exception], Iterable[E]] | None
) -> AsyncGenerator[E | None, None]:
    """Give events, and None whenever none has come for some time; whatever ends this ends what makes them.

    Args:
        events: what a stream tells.
        lost: forms what it tells instead where nothing comes of it, and it is too late for another status.
    """
    silent, coming = False, asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=SIGN_OF_LIFE_S)
            if not done:
                silent = True
                yield None
                continue
            if (event := coming.result()) is None:
                return
            lost = None
            yield event
            coming = asyncio.ensure_future(anext(events, None))
    except Exception as error:
        if lost is None or not silent:
            raise
        for event in lost(error):
            yield event
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await events.aclose()


async def _encode_events(first: Event | None, rest: AsyncIterator[Event | None]) -> AsyncGenerator[str, None]:
    yield _encode_event(first)
    async for event in rest:
        yield _encode_event(event)


def _encode_event(event: Event | None) -> str:
    if event is None:
        return ": still at it\n\n"
    return f"event: {EVENT_NAMES[type(event)]}\ndata: {event.model_dump_json()}\n\n"


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | Response:
    """Run work, and cancel it when its caller goes away: nobody would read the answer."""
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    watch = asyncio.create_task(_cancel_when_gone(request, task))
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.done():
            raise
        task.uncancel()
        return Response(status_code=GONE)  # to nobody
    finally:
        watch.cancel()


async def _cancel_when_gone(request: Request, task: asyncio.Task[Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()
