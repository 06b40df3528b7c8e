"""The explorer as an ASGI application: the API, the page's files, and what guards them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

import inversionview
from inversionview.explorer import problems
from inversionview.explorer.allowed_files import AllowedFiles
from inversionview.explorer.answers import info
from inversionview.explorer.guard import LOCAL, Guard
from inversionview.explorer.queue import BusyError, Task, WorkQueue
from inversionview.explorer.routes import API, Explorer
from inversionview.explorer.shelf import Shelf
from inversionview.page.bundle import STATIC
from inversionview.studies.study import Study


def create_app(
    openers: Mapping[str, Callable[[], Study]],
    *,
    hosts: Iterable[str] = (),
    proxies: Iterable[str] = (),
    queue: WorkQueue | None = None,
    files: AllowedFiles | None = None,
    foreign: Callable[[str], None] = lambda name: None,
) -> FastAPI:
    """Return the explorer as an ASGI application.

    Args:
        openers: for each study, under the name that addresses call it, what opens it.
        hosts: names by which the server may be called, besides those of this machine.
        queue: of the work; by default a new one, closed at the end.
        files: that pages may have it read; by default none but the package's own.
        proxies: names of proxies before it, as ``guard.host_name`` gives them.
        foreign: is told, once each, by which other names the server was called.
    """
    shelf, work = Shelf(openers), queue or WorkQueue()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(_warm(shelf, work))
        yield
        warming.cancel()
        await asyncio.to_thread(work.close)

    app = FastAPI(
        title="InversionView explorer",
        version=inversionview.__version__,
        description="What does an activation encode? Verified samples of its ε-preimage, and what confirms the reading.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.queue = work
    explorer = Explorer(shelf, work, files or AllowedFiles())
    app.include_router(explorer.router())
    app.add_api_route(
        "/healthz", explorer.healthz, methods=["GET", "HEAD"], include_in_schema=False
    )  # where probes look for it
    problems.handle(app)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=4)
    app.add_middleware(Guard, hosts=[*LOCAL, *hosts], proxies=proxies, foreign=foreign)
    return app


def _warmed(study: Study, task: Task) -> None:
    info.warm(study)


async def _warm(shelf: Shelf, work: WorkQueue) -> None:
    """Load one study after the other, and do ahead what its first readings would wait for."""
    for id in shelf.openers:
        loading = asyncio.wrap_future(shelf.begin(id, again=False))
        await asyncio.wait({loading})
        if loading.exception() is None:
            study = loading.result()[0]
            with suppress(BusyError):  # then there is no need to
                work.submit(partial(_warmed, study), kind="warm")
