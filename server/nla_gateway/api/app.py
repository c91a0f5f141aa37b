"""The FastAPI app: routes, the edge around them, and the engines watched in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi

from nla_client.wire import REQUEST_ID_HEADER
from nla_gateway.api.http import EdgeMiddleware, install_error_handlers
from nla_gateway.api.page import page_router
from nla_gateway.api.routes import router
from nla_gateway.callers import RATE_LIMIT_HEADERS
from nla_gateway.gateway import open_gateway
from nla_gateway.settings import Settings
from nla_gateway.telemetry.metrics import Metrics
from nla_gateway.telemetry.tracing import start_tracing
from nla_gateway.watch import watch

DESCRIPTION: Final = (
    "Natural Language Autoencoders: activation vectors to words, words to vectors, and how near they come."
    " A vector is the base64 of its raw little-endian elements, `d_model` of them, in `dtype`."
)


def create_app(settings: Settings, ledger: int | None = None) -> FastAPI:
    """Build the gateway's app; engines are proved and watched once it runs.

    Args:
        settings: all that it needs.
        ledger: file descriptor of the memory in which all gateways keep what callers spent; None: there is one gateway.
    """
    metrics = Metrics(pair.name for pair in settings.pairs)
    tracing, docs = start_tracing(), settings.access.docs

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_gateway(settings, metrics, tracing) as gateway:
            app.state.gateway = gateway
            watches = [
                asyncio.create_task(watch(part, engine, settings.hung_after_s))
                for pair in gateway.pairs
                for part in pair.parts
                for engine in part.engines.engines
            ]
            try:
                yield
            finally:
                for one in watches:
                    one.cancel()
                await asyncio.gather(*watches, return_exceptions=True)

    app = FastAPI(title="nla-serve", version=version("nla-serve"), description=DESCRIPTION, lifespan=lifespan,
                  docs_url="/docs" if docs else None, openapi_url="/openapi.json" if docs else None,
                  redoc_url=None, redirect_slashes=False, separate_input_output_schemas=False,
                  routes=router.routes)  # fmt: skip
    if settings.access.page:
        app.include_router(page_router())
    install_error_handlers(app)
    tracing.trace_requests(app)
    app.add_middleware(
        EdgeMiddleware,
        access=settings.access,
        limits=settings.limits,
        metrics=metrics,
        ledger=ledger,
    )
    if settings.access.allow_origins:
        # Outermost: a browser asks without a key whether it may call, and refusals must reach the page too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.access.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID_HEADER],
            expose_headers=["retry-after", REQUEST_ID_HEADER, *RATE_LIMIT_HEADERS],
            allow_private_network=True,  # Chrome asks so where a page of the open web calls a private address
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Form the OpenAPI document, less FastAPI's own 422 replies, which we never send."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema
