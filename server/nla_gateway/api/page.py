"""The page: static files, with what browsers are told of them."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER: Final = Path(__file__).parents[1] / "page"
AT: Final = "/page"
HEADERS: Final = {
    # Texts of models and of strangers are shown: nothing runs or is fetched but what this server sends.
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_router() -> APIRouter:
    """Serve the page at `/`, and what it is made of below `/page`."""
    router = APIRouter(routes=[Mount(AT, GZipMiddleware(_Files(directory=FOLDER), compresslevel=6))])

    @router.head("/", include_in_schema=False)
    @router.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    return router


def is_of_the_page(path: str) -> bool:
    """Whether a path needs no key: the page itself asks for one."""
    return path == "/" or path.startswith(f"{AT}/")


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
