"""The routes of the explorer's API under ``/api/v1``, documented by OpenAPI.

A request that needs a model becomes a job of the one worker (``queue.py``) and is dropped when the client goes away.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.responses import Response

import inversionview
from inversionview.core.errors import InversionViewError
from inversionview.explorer.allowed_files import AllowedFiles
from inversionview.explorer.answers import confirm, info, maps, readings
from inversionview.explorer.banks import default_site, first_now, held, of_texts
from inversionview.explorer.events import Events, EventStream
from inversionview.explorer.parameters import At, Client, DistanceName, Epsilon, ReadOptions, Seed, SiteName, StudyId, Text
from inversionview.explorer.problems import API, RESPONSES
from inversionview.explorer.queue import Task, TimeUpError, WorkQueue
from inversionview.explorer.shelf import Shelf
from inversionview.model.sites.patterns import find_site
from inversionview.model.sites.site import Site
from inversionview.page import contract, preimages
from inversionview.preimage.preimage import Query as ReadQuery
from inversionview.sources.registry import sources, sources_named
from inversionview.studies.study import Study

GRACE = 2.0
"""Seconds beyond its limit after which a job that does not even report is given up."""
LOADING = 60.0
"""Seconds that a request waits for a study that is still being loaded."""
_EVENTS = """The reading. As `text/event-stream`: `place` (PlaceEvent), then `rows` (Rows: new samples as they are measured) and
`progress` (Progress) in turn, at last `done` (the Reading, which alone counts) or `failed` (Failure). `rows` are a first
look: true samples, but not all of them need be among those that the Reading chooses. Whoever goes away ends the work. Where no
bank has been built yet, the corpus' first reading builds one if that is soon done: in a stream with its progress; as JSON the
request may end with 504, and what was harvested up to the last whole shard stands. Where it would take long, that is said
(422, and `lacking` of StudyInfo), and `inversionview bank` builds it beforehand. Of natural text no bank is built: a site that
none holds is read by a walk, and a note of the Reading says which command harvests it."""


class Explorer:
    """The routes."""

    def __init__(self, shelf: Shelf, queue: WorkQueue, files: AllowedFiles) -> None:
        self.shelf, self.queue, self.files = shelf, queue, files

    def router(self) -> APIRouter:
        """Return all routes of the API."""
        router = APIRouter(prefix=API)
        one = "/studies/{id}"
        for path, route, model in (
            ("/healthz", self.healthz, contract.Health),
            ("/studies", self.studies, contract.Studies),
            (one, self.study, contract.StudyInfo),
            (f"{one}/place", self.place, contract.Place),
            (f"{one}/site", self.site, contract.SiteInfo),
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
            router.add_api_route(path, route, methods=["HEAD"], response_model=model, include_in_schema=False)
        return router

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
        return _json(info.place(await self._loaded(id), text, at).json_bytes())

    async def site(self, request: Request, client: Client, id: StudyId, site: SiteName = None) -> Response:
        """Return what is known of a site, of whichever kind and style of name it is; it is one of the model's, or refused."""

        def work(study: Study, task: Task) -> contract.SiteInfo:
            return info.site_info(study, find_site(site or default_site(study), study.model.sites))

        return await self._of(request, id, work, site=site, client=client, kind=f"site {id}")

    async def _allowed(self, id: str, site: str | None) -> Study:
        """Return a study once it is loaded, unless a site is named that may not be read through what it names."""
        study = await self._loaded(id)
        self.files.checked(site, study.sites)
        return study

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
        return await self._of(request, id, lambda study, task: info.random_place(study, seed), client=client, kind="random")

    async def attention(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None
    ) -> Response:
        """Return how much a head attends from a position to each token."""

        def work(study: Study, task: Task) -> contract.Attention:
            return info.attention(_query(study, text, at, site))

        return await self._of(request, id, work, site=site, client=client, kind="attention")

    async def read(
        self,
        request: Request,
        client: Client,
        id: StudyId,
        text: Text,
        options: Annotated[ReadOptions, Depends()],
        at: At = None,
        site: SiteName = None,
        accept: Annotated[str, Header(description="application/json or text/event-stream.")] = "*/*",
    ) -> Response:
        """Read an activation: verified samples of its ε-preimage, by distance."""
        study = await self._allowed(id, site)
        first = options.source or _first(study, site, self.shelf.first(id))
        job: dict[str, Any] = {"client": client, "kind": f"read {id} {first}"}
        if any("seconds" in source.options for source in sources_named(first)):
            job |= {"kind": f"{job['kind']} {options.seconds:.0f}", "guess": options.seconds}
        if "text/event-stream" in accept:
            return self._streamed(request, study, id, partial(_query, study, text, at, site), options, job)

        def work(study: Study, task: Task) -> contract.Reading:
            query = _query(study, text, at, site)
            if any(source.needs_bank for source in sources_named(first)):
                _counts_as_bank(study, task, id, query.site)
            return readings.read(study, query, report=task.report, id=id, **vars(options))

        return await self._of(request, id, work, **job)

    def _streamed(
        self,
        request: Request,
        study: Study,
        id: str,
        query: Callable[[], ReadQuery],
        options: ReadOptions,
        job: dict[str, Any],
    ) -> Response:
        """Answer with the events of a reading."""
        if request.method == "HEAD":
            return Bodiless("text/event-stream")
        stream = Events(asyncio.get_running_loop())

        def work(task: Task) -> bytes:
            asked = query()
            chosen = options.source or first_now(study, asked, options.fixed, options.told).name
            if any(source.needs_bank for source in sources_named(chosen)) and _needs_bank(study, asked.site):
                task.limit = math.inf  # a bank may have to be built: it is seen to go on
                _counts_as_bank(study, task, id, asked.site)
            stream.begin(task, info.place_event(study, asked, chosen))
            read = {**vars(options), "source": chosen, "id": id}
            return readings.read(study, asked, report=stream.report, rows=stream.rows, **read).json_bytes()

        task = self.queue.submit(work, **job)
        task.future.add_done_callback(stream.finish)
        return EventStream(stream, lambda: self.queue.cancel(task))

    async def map(
        self,
        request: Request,
        client: Client,
        id: StudyId,
        text: Text,
        at: At = None,
        kind: Annotated[
            Literal["bits", "ratio", "foretold"],
            Query(description="Corpus bits, the decoder's good ratio, or how well D foretells what can stand in for what."),
        ] = "bits",
        epsilon: Epsilon = None,
        distance: DistanceName = None,
    ) -> Response:
        """Return a number for every site at a position: bits of this input's activation, or the decoder's good ratio there.

        The good ratio is the study's, at its own ε and distance; what D foretells is of model and corpus (``calibrate``).
        """

        def work(study: Study, task: Task) -> contract.Map:
            if kind == "ratio":
                return maps.ratio_map(study, text, at, report=task.report)
            if kind == "foretold":
                return maps.foretold_map(study, text, at)
            _counts_as_bank(study, task, id)
            return maps.bits_map(study, text, at, epsilon=epsilon, distance=distance, report=task.report)

        return await self._of(request, id, work, client=client, kind=f"map {id} {kind}")

    async def patch(
        self,
        request: Request,
        client: Client,
        id: StudyId,
        text: Text,
        at: At = None,
        site: SiteName = None,
        target: Annotated[
            str | None, Query(max_length=100, description="The answer that changes; by default the first at or behind.")
        ] = None,
        count: Annotated[int, Query(ge=1, le=2000, description="Pairs.")] = 64,
        seed: Seed = 0,
    ) -> Response:
        """Replace the activation by those of inputs of another answer, and see the logit difference of the answers."""

        def work(study: Study, task: Task) -> contract.Patch:
            return confirm.patched(study, _query(study, text, at, site), target or None, count=count, seed=seed)

        return await self._of(request, id, work, site=site, client=client, kind=f"patch {id}")

    async def complete(
        self,
        request: Request,
        client: Client,
        id: StudyId,
        text: Text,
        at: At = None,
        site: SiteName = None,
        epsilon: Epsilon = None,
        limit: Annotated[int, Query(ge=10, le=100_000, description="Inputs to score.")] = 20_000,
        seed: Seed = 0,
    ) -> Response:
        """Return log p(x ∣ z_q) of the decoder against D(z_q, x) for random inputs of the study."""

        def work(study: Study, task: Task) -> contract.Complete:
            query = _query(study, text, at, site)
            return confirm.completed(study, query, epsilon=epsilon, limit=limit, seed=seed, report=task.report)

        return await self._of(request, id, work, site=site, client=client, kind=f"complete {id} {len(str(limit))}")

    async def interpret(
        self,
        request: Request,
        client: Client,
        id: StudyId,
        text: Text,
        at: At = None,
        site: SiteName = None,
        epsilon: Epsilon = None,
        distance: DistanceName = None,
    ) -> Response:
        """Say in features what is common to the exact preimage, with a score on unseen inputs."""

        def work(study: Study, task: Task) -> contract.Interpretation:
            query = _query(study, text, at, site)
            _counts_as_bank(study, task, id, query.site)
            return confirm.interpretation(study, query, epsilon=epsilon, distance=distance, report=task.report)

        return await self._of(request, id, work, site=site, client=client, kind=f"interpret {id}")

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def _of(
        self, request: Request, id: str, work: Callable[[Study, Task], preimages.Model], site: str | None = None, **job: Any
    ) -> Response:
        """Have the worker do something with a study and answer with what it returns; for HEAD nothing is done."""
        study = await self._allowed(id, site)
        if request.method == "HEAD":
            return Bodiless("application/json")
        task = self.queue.submit(lambda task: work(study, task).json_bytes(), **job)
        return await _answer(request, self.queue, task)


async def _answer(request: Request, queue: WorkQueue, task: Task) -> Response:
    """Answer with what a job returns, which ends when the client goes away."""
    done, gone = asyncio.wrap_future(task.future), asyncio.ensure_future(_disconnected(request))
    done.add_done_callback(lambda future: future.cancelled() or future.exception())  # it may be that nobody asks
    try:
        while not done.done() and not gone.done():
            if task.elapsed > task.limit + GRACE:
                raise TimeUpError("")
            await asyncio.wait({done, gone}, timeout=GRACE, return_when=asyncio.FIRST_COMPLETED)
        if done.cancelled():
            raise HTTPException(503, "The server is shutting down.")
        return _json(done.result()) if done.done() else Response(status_code=499)  # nobody reads it
    finally:
        gone.cancel()
        queue.cancel(task)


def _counts_as_bank(study: Study, task: Task, id: str, site: Site | None = None) -> None:
    """Where a bank may have to be built first, what that takes is not what readings take."""
    if _needs_bank(study, site):
        task.kind = f"bank {id}"


def _needs_bank(study: Study, site: Site | None = None) -> bool:
    return not study.bare and not of_texts(study) and study.known_bank(site) is None


def _query(study: Study, text: str, at: str | None, site: str | None) -> ReadQuery:
    """Return what is read; where no site is named, at the one that ``StudyInfo`` names as the first to show."""
    return study.query(text, at=at, site=site or default_site(study))


def _first(study: Study, site: str | None, usual: str) -> str:
    """Return which source is likely to read a site: ``usual``, unless no bank holds that."""
    try:
        known = held(study, find_site(site or default_site(study), study.model.sites))
    except InversionViewError:
        return usual  # which says what is wrong
    if known:
        return usual
    return next(source.name for source in sources(study) if not source.needs_bank)


async def _disconnected(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Bodiless(Response):
    """The head of an answer whose body nobody has made."""

    def __init__(self, media_type: str) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
