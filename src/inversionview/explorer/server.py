"""The explorer's web server: the API under ``/api/v1``, OpenAPI documented, and the page's files.

A request that needs a model becomes a job of the one worker (``queue.py``) and is dropped when the client goes away. Only for
whoever asks from this machine: no CORS, and names of other hosts are turned away, against DNS rebinding.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import inversionview
from inversionview.distances import Distance
from inversionview.errors import InversionViewError, did_you_mean
from inversionview.explorer import contract, service
from inversionview.explorer.queue import BusyError, StoppedError, Task, TimeUpError, WorkQueue
from inversionview.study import Study

API = "/api/v1"
STATIC = Path(__file__).parent / "static"
HEARTBEAT = 10.0
"""Seconds without an event after which a stream says that it is alive."""
PROGRESS = 0.2
"""Seconds between events that only tell progress."""
LOADING = 60.0
"""Seconds that a request waits for a study that is still being loaded."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_PROBLEMS = {
    400: "The host name is not this server's.",
    404: "There is no such study.",
    422: "Something that was asked for is not there or out of range.",
    429: "The queue is full: ask again after `Retry-After` seconds.",
    503: "The server is shutting down.",
    504: "The request took too long.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": contract.Problem, "description": said} for code, said in _PROBLEMS.items()
}
RESPONSES[429]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_EVENTS = """The reading. As `text/event-stream`: `place` (PlaceEvent), then `rows` (Rows: new samples as they are measured) and
`progress` (Progress) in turn, at last `done` (the Reading, which alone counts) or `failed` (Failure). `rows` are a first look:
true samples, but not all of them need be among those that the Reading chooses. Whoever goes away ends the work. Where no bank
has been built yet, the corpus' first reading builds one if that is soon done: in a stream with its progress; as JSON the
request may end with 504, and what was harvested up to the last whole shard stands. Where it would take long, that is said
(422, and `lacking` of StudyInfo), and `inversionview bank` builds it beforehand."""

StudyId = Annotated[str, PathParameter(max_length=200, description="A study.", examples=["addition"])]
Text = Annotated[
    str, Query(min_length=1, max_length=4000, description="The input, without or with BOS and EOS.", examples=["615+861=1476"])
]
At = Annotated[
    str | None,
    Query(
        min_length=1, max_length=200, description="A token, a named position or an index; by default the study's.",
        examples=["="],
    ),
]  # fmt: skip
SiteName = Annotated[
    str | None,
    Query(max_length=100, description="x0.post, a0.3, m1, or the TransformerLens or LaTeX name; by default the study's."),
]
Epsilon = Annotated[
    float | None, Query(gt=0, le=1e6, allow_inf_nan=False, description="Threshold of the preimage; by default the study's.")
]
DistanceName = Annotated[Distance | None, Query(description="By default the study's.")]
Seed = Annotated[int, Query(ge=0, lt=2**31, description="The same seed gives the same result.")]
SourceName = Annotated[
    Literal["decoder", "corpus", "walk", "all"] | None, Query(description="What makes it; by default the first that can.")
]


def _client(
    request: Request,
    x_client: Annotated[str, Header(max_length=100, description="Who asks, where several share an address.")] = "",
) -> str:
    return f"{request.client.host if request.client else ''} {x_client}"


Client = Annotated[str, Depends(_client)]


class Shelf:
    """The studies that are served, each loaded by a thread of its own once it is asked for: none waits for another.

    Args:
        openers: for each study, under the name that addresses call it, what opens it.
    """

    def __init__(self, openers: Mapping[str, Callable[[], Study]]) -> None:
        self.openers = openers
        self._begun: dict[str, Future[tuple[Study, contract.StudyInfo]]] = {}
        self._lock = Lock()

    def known(self, id: str) -> str:
        """Return the name; HTTP 404 where there is no such study."""
        if id not in self.openers:
            said = f"There is no study {id!r}; there are {', '.join(self.openers)}.{did_you_mean(id, self.openers)}"
            raise HTTPException(404, said)
        return id

    def begin(self, id: str, again: bool = True) -> Future[tuple[Study, contract.StudyInfo]]:
        """Return the study as it is being loaded; ``again``: once more, where it could not be."""
        with self._lock:
            loading = self._begun.get(id)
            if loading is None or (again and loading.done() and loading.exception() is not None):
                loading = self._begun[id] = Future()
                loading.set_running_or_notify_cancel()  # who no longer waits does not end it for the others
                Thread(target=self._load, args=(id, loading), name=f"load {id}").start()
            return loading

    def _load(self, id: str, loading: Future[tuple[Study, contract.StudyInfo]]) -> None:
        try:
            study = self.openers[id]()
            loading.set_result((study, service.study_info(study, id)))
        except BaseException as error:  # whoever asks for it is told
            loading.set_exception(error)

    def study(self, id: str) -> Study:
        """Return a study, once it is loaded."""
        return self.begin(id).result()[0]

    def info(self, id: str) -> contract.StudyInfo:
        """Return what can be read of a study that is loaded, as it is now: a bank that it lacked may have been built."""
        study, info = self.begin(id).result()
        return info if info.lacking is None else service.study_info(study, id)

    def all(self) -> contract.Studies:
        """Return the studies that are loaded by now, those that cannot be, and those that are not yet."""
        every = {id: self.begin(id, again=False) for id in self.openers}
        failed = {id: loading.exception() for id, loading in every.items() if loading.done()}
        return contract.Studies(
            studies=[self.info(id) for id, error in failed.items() if error is None],
            failed=[contract.Failed(id=id, detail=_sentence(error)) for id, error in failed.items() if error is not None],
            loading=[id for id in every if id not in failed],
        )


class Explorer:
    """The routes."""

    def __init__(self, shelf: Shelf, queue: WorkQueue) -> None:
        self.shelf, self.queue = shelf, queue

    def router(self) -> APIRouter:
        """Return all routes of the API."""
        router = APIRouter(prefix=API)
        one = "/studies/{id}"
        for path, route, model in (
            ("/healthz", self.healthz, contract.Health),
            ("/studies", self.studies, contract.Studies),
            (one, self.study, contract.StudyInfo),
            (f"{one}/place", self.place, contract.Place),
            (f"{one}/random", self.random, contract.Place),
            (f"{one}/attention", self.attention, contract.Attention),
            (f"{one}/read", self.read, contract.Reading),
            (f"{one}/map", self.map, contract.Map),
            (f"{one}/patch", self.patch, contract.Patch),
            (f"{one}/complete", self.complete, contract.Complete),
            (f"{one}/interpret", self.interpret, contract.Interpretation),
        ):
            wrong = {code: said for code, said in RESPONSES.items() if code != 404 or one in path}
            if route == self.read:
                wrong[200] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": _EVENTS}
            router.add_api_route(path, route, response_model=model, responses=wrong, operation_id=route.__name__)
        return router

    # -- cheap --------------------------------------------------------------------------------------------------------

    async def healthz(self) -> Response:
        """Say that the server is up, and how much there is to do."""
        work = contract.Work(running=self.queue.running, waiting=self.queue.waiting)
        return _json(contract.Health(status="ok", version=inversionview.__version__, queue=work).json_bytes())

    async def studies(
        self, wait: Annotated[bool, Query(description="Wait, up to a minute, until all of them are loaded.")] = True
    ) -> Response:
        """Return all studies."""
        if wait:
            every = [asyncio.wrap_future(self.shelf.begin(id, again=False)) for id in self.shelf.openers]
            await asyncio.wait(every, timeout=LOADING) if every else None
        return _json(self.shelf.all().json_bytes())

    async def study(self, id: StudyId) -> Response:
        """Return what can be read of a study."""
        await self._loaded(id)
        return _json(self.shelf.info(id).json_bytes())

    async def place(self, id: StudyId, text: Text, at: At = None) -> Response:
        """Return an input's tokens and positions."""
        return _json(service.place(await self._loaded(id), text, at).json_bytes())

    async def _loaded(self, id: str) -> Study:
        """Return a study once it is loaded; its error where it cannot be, a time-out where that takes long."""
        loading = asyncio.wrap_future(self.shelf.begin(self.shelf.known(id)))
        await asyncio.wait({loading}, timeout=LOADING)
        if not loading.done():
            raise TimeUpError(f"{id} is still being loaded")
        return loading.result()[0]

    # -- by the worker ------------------------------------------------------------------------------------------------

    async def random(self, request: Request, client: Client, id: StudyId, seed: Seed = 0) -> Response:
        """Return a random input of the test split."""
        return await self._of(request, client, "random", id, lambda study, task: service.random_place(study, seed))

    async def attention(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None
    ) -> Response:
        """Return how much a head attends from a position to each token."""

        def work(study: Study, task: Task) -> contract.Attention:
            return service.attention(study.query(text, at=at, site=site))

        return await self._of(request, client, "attention", id, work)

    async def read(
        self,
        request: Request,
        client: Client,
        id: StudyId,
        text: Text,
        at: At = None,
        site: SiteName = None,
        source: SourceName = None,
        epsilon: Epsilon = None,
        distance: DistanceName = None,
        count: Annotated[int, Query(ge=1, le=2000, description="Samples at most.")] = 100,
        seed: Seed = 0,
        temperature: Annotated[
            float | None, Query(gt=0, le=100, description="Of the decoder; by default a pool of several.")
        ] = None,
        noise: Annotated[float, Query(ge=0, le=10, description="On the activation, in units of std(z).")] = 0.0,
        fixed: Annotated[str | None, Query(min_length=1, max_length=200, description="Compare this position only.")] = None,
        seconds: Annotated[float, Query(gt=0, le=60, description="How long a walk goes.")] = 5.0,
        accept: Annotated[str, Header(description="application/json or text/event-stream.")] = "*/*",
    ) -> Response:
        """Read an activation: verified samples of its ε-preimage, by distance."""
        options: dict[str, Any] = {
            "source": source, "epsilon": epsilon, "distance": distance, "count": count, "seed": seed, "fixed": fixed,
            "temperature": temperature, "noise": noise, "seconds": seconds, "id": id,
        }  # fmt: skip
        study = await self._loaded(id)
        kind = f"read {id} {source}" + (f" {seconds:.0f}" if source in ("walk", "all") else "")
        if "text/event-stream" in accept:
            stream = _Events(asyncio.get_running_loop())

            def streamed(task: Task) -> bytes:
                query = study.query(text, at=at, site=site)
                chosen = source or service.first_source(study, query, fixed)
                if chosen in ("corpus", "all") and not study.bare and study.known_bank() is None:
                    task.limit = math.inf  # a bank may have to be built: it is seen to go on
                stream.begin(task, contract.PlaceEvent(
                    **service.place(study, text, query.position).model_dump(), site=query.site.short,
                    attention=None if query.attention is None else list(query.attention), source=chosen,
                ))  # fmt: skip
                told = {**options, "source": chosen}
                return service.read(study, query, report=stream.report, rows=stream.rows, **told).json_bytes()

            task = self.queue.submit(streamed, client=client, kind=kind)
            task.future.add_done_callback(stream.finish)
            return _EventStream(stream, lambda: self.queue.cancel(task))

        def work(study: Study, task: Task) -> contract.Reading:
            return service.read(study, study.query(text, at=at, site=site), report=task.report, **options)

        return await self._of(request, client, kind, id, work)

    async def map(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None,
        kind: Annotated[Literal["bits", "ratio"], Query(description="Corpus bits, or the decoder's good ratio.")] = "bits",
        epsilon: Epsilon = None, distance: DistanceName = None,
    ) -> Response:  # fmt: skip
        """Return a number for every site at a position: bits of this input's activation, or the decoder's good ratio there.

        The good ratio is the study's, at its own ε and distance.
        """

        def work(study: Study, task: Task) -> contract.Map:
            if kind == "ratio":
                return service.ratio_map(study, text, at, report=task.report)
            return service.bits_map(study, text, at, epsilon=epsilon, distance=distance, report=task.report)

        return await self._of(request, client, f"map {id} {kind}", id, work)

    async def patch(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None,
        target: Annotated[
            str | None, Query(max_length=100, description="The answer that changes; by default the first at or behind.")
        ] = None,
        count: Annotated[int, Query(ge=1, le=2000, description="Pairs.")] = 64, seed: Seed = 0,
    ) -> Response:  # fmt: skip
        """Replace the activation by those of inputs of another answer, and see the logit difference of the answers."""

        def work(study: Study, task: Task) -> contract.Patch:
            return service.patch(study, study.query(text, at=at, site=site), target or None, count=count, seed=seed)

        return await self._of(request, client, f"patch {id}", id, work)

    async def complete(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None,
        epsilon: Epsilon = None, limit: Annotated[int, Query(ge=10, le=100_000, description="Inputs to score.")] = 20_000,
        seed: Seed = 0,
    ) -> Response:  # fmt: skip
        """Return log p(x ∣ z_q) of the decoder against D(z_q, x) for random inputs of the study."""

        def work(study: Study, task: Task) -> contract.Complete:
            query = study.query(text, at=at, site=site)
            return service.complete(study, query, epsilon=epsilon, limit=limit, seed=seed, report=task.report)

        return await self._of(request, client, f"complete {id} {len(str(limit))}", id, work)

    async def interpret(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None,
        epsilon: Epsilon = None, distance: DistanceName = None,
    ) -> Response:  # fmt: skip
        """Say in features what is common to the exact preimage, with a score on unseen inputs."""

        def work(study: Study, task: Task) -> contract.Interpretation:
            query = study.query(text, at=at, site=site)
            return service.interpretation(study, query, epsilon=epsilon, distance=distance, report=task.report)

        return await self._of(request, client, f"interpret {id}", id, work)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def _of(
        self, request: Request, client: str, kind: str, id: str, work: Callable[[Study, Task], contract.Model]
    ) -> Response:
        """Have the worker do something with a study and answer with what it returns."""
        study = await self._loaded(id)
        return await self._answer(request, client, kind, lambda task: work(study, task))

    async def _answer(self, request: Request, client: str, kind: str, work: Callable[[Task], contract.Model]) -> Response:
        task = self.queue.submit(lambda task: work(task).json_bytes(), client=client, kind=kind)
        done, gone = asyncio.wrap_future(task.future), asyncio.ensure_future(_disconnected(request))
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # it may be that nobody asks
        try:
            longest = task.limit + 2 * task.patience
            await asyncio.wait({done, gone}, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            if done.cancelled():
                raise HTTPException(503, "The server is shutting down.")
            if done.done():
                return _json(done.result())
            if gone.done():
                return Response(status_code=499)  # nobody reads it
            raise TimeUpError("")
        finally:
            gone.cancel()
            self.queue.cancel(task)


async def _disconnected(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


# -- events -----------------------------------------------------------------------------------------------------------


class _Events:
    """Events on their way from the worker to a stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._queue = loop, asyncio.Queue[bytes | None]()
        self._task: Task | None = None
        self._told = 0.0

    def begin(self, task: Task, place: contract.PlaceEvent) -> None:
        """Send the first event."""
        self._task = task
        self._send("place", place.json_bytes())

    def rows(self, samples: list[contract.Sample], values: list[list[contract.Value]]) -> None:
        """Send new rows."""
        self._send("rows", contract.Rows(samples=samples, values=values).json_bytes())

    def report(self, share: float, note: str) -> None:
        """Send progress, where the last was sent some time ago; raise what ends the work."""
        assert self._task is not None
        self._task.report(share, note)
        if time.monotonic() - self._told >= PROGRESS:
            self._told = time.monotonic()
            self._send("progress", contract.Progress(share=share, note=note).json_bytes())

    def finish(self, future: Future[bytes]) -> None:
        """Send the last event."""
        error = RuntimeError() if future.cancelled() else future.exception()
        if error is None:
            self._send("done", future.result())
        else:
            after = error.retry_after if isinstance(error, BusyError) else None
            self._send("failed", contract.Failure(detail=_sentence(error), retry_after=after).json_bytes())
        self._put(None)

    def _send(self, name: str, data: bytes) -> None:
        self._put(b"event: %s\ndata: %s\n\n" % (name.encode(), data))

    def _put(self, event: bytes | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                event = await asyncio.wait_for(self._queue.get(), HEARTBEAT)
            except TimeoutError:
                event = b": alive\n\n"
            if event is None:
                return
            yield event


class _EventStream(StreamingResponse):
    """A response of events; when it ends, however it does, ``end`` is called."""

    def __init__(self, events: _Events, end: Callable[[], None]) -> None:
        super().__init__(aiter(events), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


def _sentence(error: BaseException) -> str:
    """Return what to tell a client of an error."""
    if isinstance(error, InversionViewError | BusyError):
        return " ".join(str(error).split())
    if isinstance(error, TimeUpError):
        during = f" ({error})" if str(error) else ""
        return f"The request took too long{during}: ask for less, or run `inversionview bank` first if it is a bank that lacks."
    if isinstance(error, StoppedError):
        return "The request was stopped."
    return f"The server could not go on ({type(error).__name__}): ask again."


# -- the application --------------------------------------------------------------------------------------------------


class _Guard:
    """Turns away requests for other hosts, and sets headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app, self.hosts = app, {host.lower() for host in hosts}
        self.everywhere = bool(self.hosts & {"0.0.0.0", "::", "[::]"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = Headers(scope=scope).get("host", "")
        if self._ours(host):
            await self.app(scope, receive, guarded)
            return
        said = f"This server is not {host[:200]!r}: open it by the address that it prints."
        await JSONResponse({"detail": said}, 400)(scope, receive, guarded)

    def _ours(self, host: str) -> bool:
        name = host.lower()
        name = name[: name.index("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]
        return name in self.hosts or (self.everywhere and _is_address(name.strip("[]")))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def create_app(
    openers: Mapping[str, Callable[[], Study]], *, hosts: Iterable[str] = (), queue: WorkQueue | None = None
) -> FastAPI:
    """Return the explorer as an ASGI application.

    Args:
        openers: for each study, under the name that addresses call it, what opens it.
        hosts: names by which the server may be called, besides those of this machine.
        queue: of the work; by default a new one, closed at the end.
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
        openapi_url=f"{API}/openapi.json", docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    app.state.queue = work
    explorer = Explorer(shelf, work)
    app.include_router(explorer.router())
    app.add_api_route("/healthz", explorer.healthz, include_in_schema=False)  # where probes look for it
    app.add_exception_handler(InversionViewError, _problem(422))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(TimeUpError, _problem(504))
    app.add_exception_handler(StoppedError, _problem(503))
    app.add_exception_handler(BusyError, _busy)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=4)
    app.add_middleware(_Guard, hosts=[*LOCAL, *hosts])
    return app


def _warmed(study: Study, task: Task) -> None:
    service.warm(study)


async def _warm(shelf: Shelf, work: WorkQueue) -> None:
    """Load one study after the other, and do ahead what its first readings would wait for."""
    for id in shelf.openers:
        loading = asyncio.wrap_future(shelf.begin(id, again=False))
        await asyncio.wait({loading})
        if loading.exception() is None:
            study = loading.result()[0]
            with suppress(BusyError):  # then there is no need to
                work.submit(partial(_warmed, study), kind="warm")


def _problem(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: JSONResponse({"detail": _sentence(error)}, status)


def _busy(request: Request, error: Exception) -> Response:
    assert isinstance(error, BusyError)
    return JSONResponse({"detail": _sentence(error)}, 429, {"Retry-After": str(error.retry_after)})


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg'][:1].lower()}{e['msg'][1:]}" for e in error.errors()]
    return JSONResponse({"detail": "; ".join(parts) + "."}, 422)
