"""The routes of the explorer's API under ``/api/v1``, documented by OpenAPI.

A request that needs a model becomes a job of the one worker (``queue.py``) and is dropped when the client goes away.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import Response

import inversionview
from inversionview.core.scope import Distance
from inversionview.explorer.answers import confirm, info, maps, readings
from inversionview.explorer.events import Events, EventStream
from inversionview.explorer.problems import API, RESPONSES
from inversionview.explorer.queue import Task, TimeUpError, WorkQueue
from inversionview.explorer.shelf import Shelf
from inversionview.page import contract
from inversionview.sources.registry import first_source
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
(422, and `lacking` of StudyInfo), and `inversionview bank` builds it beforehand."""
StudyId = Annotated[str, PathParameter(max_length=200, description="A study.", examples=["addition"])]
Text = Annotated[
    str, Query(min_length=1, max_length=4000, description="The input, without or with BOS and EOS.", examples=["615+861=1476"])
]
At = Annotated[
    str | None,
    Query(
        min_length=1, max_length=200, description="A token, a named position or an index as #8; by default the study's.",
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
            router.add_api_route(path, route, methods=["HEAD"], response_model=model, include_in_schema=False)
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
        return _json(info.place(await self._loaded(id), text, at).json_bytes())

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
            return info.attention(study.query(text, at=at, site=site))

        return await self._of(request, id, work, client=client, kind="attention")

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
        first = source or self.shelf.first(id)
        walks = first in ("walk", "all")
        job: dict[str, Any] = {"client": client, "kind": f"read {id} {first}" + (f" {seconds:.0f}" if walks else "")}
        if walks:
            job["guess"] = seconds
        if "text/event-stream" in accept:
            if request.method == "HEAD":
                return Bodiless("text/event-stream")
            stream = Events(asyncio.get_running_loop())

            def streamed(task: Task) -> bytes:
                query = study.query(text, at=at, site=site)
                chosen = source or first_source(study, query, fixed, temperature is not None or noise > 0)
                if chosen in ("corpus", "all") and not study.bare and study.known_bank() is None:
                    task.limit = math.inf  # a bank may have to be built: it is seen to go on
                    _counts_as_bank(study, task, id)
                stream.begin(task, contract.PlaceEvent(
                    **info.place(study, text, query.position).model_dump(), site=query.site.short,
                    attention=None if query.attention is None else list(query.attention), source=chosen,
                ))  # fmt: skip
                told = {**options, "source": chosen}
                return readings.read(study, query, report=stream.report, rows=stream.rows, **told).json_bytes()

            task = self.queue.submit(streamed, **job)
            task.future.add_done_callback(stream.finish)
            return EventStream(stream, lambda: self.queue.cancel(task))

        def work(study: Study, task: Task) -> contract.Reading:
            if first in ("corpus", "all"):
                _counts_as_bank(study, task, id)
            return readings.read(study, study.query(text, at=at, site=site), report=task.report, **options)

        return await self._of(request, id, work, **job)

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
                return maps.ratio_map(study, text, at, report=task.report)
            _counts_as_bank(study, task, id)
            return maps.bits_map(study, text, at, epsilon=epsilon, distance=distance, report=task.report)

        return await self._of(request, id, work, client=client, kind=f"map {id} {kind}")

    async def patch(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None,
        target: Annotated[
            str | None, Query(max_length=100, description="The answer that changes; by default the first at or behind.")
        ] = None,
        count: Annotated[int, Query(ge=1, le=2000, description="Pairs.")] = 64, seed: Seed = 0,
    ) -> Response:  # fmt: skip
        """Replace the activation by those of inputs of another answer, and see the logit difference of the answers."""

        def work(study: Study, task: Task) -> contract.Patch:
            return confirm.patched(study, study.query(text, at=at, site=site), target or None, count=count, seed=seed)

        return await self._of(request, id, work, client=client, kind=f"patch {id}")

    async def complete(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None,
        epsilon: Epsilon = None, limit: Annotated[int, Query(ge=10, le=100_000, description="Inputs to score.")] = 20_000,
        seed: Seed = 0,
    ) -> Response:  # fmt: skip
        """Return log p(x ∣ z_q) of the decoder against D(z_q, x) for random inputs of the study."""

        def work(study: Study, task: Task) -> contract.Complete:
            query = study.query(text, at=at, site=site)
            return confirm.completed(study, query, epsilon=epsilon, limit=limit, seed=seed, report=task.report)

        return await self._of(request, id, work, client=client, kind=f"complete {id} {len(str(limit))}")

    async def interpret(
        self, request: Request, client: Client, id: StudyId, text: Text, at: At = None, site: SiteName = None,
        epsilon: Epsilon = None, distance: DistanceName = None,
    ) -> Response:  # fmt: skip
        """Say in features what is common to the exact preimage, with a score on unseen inputs."""

        def work(study: Study, task: Task) -> contract.Interpretation:
            _counts_as_bank(study, task, id)
            query = study.query(text, at=at, site=site)
            return confirm.interpretation(study, query, epsilon=epsilon, distance=distance, report=task.report)

        return await self._of(request, id, work, client=client, kind=f"interpret {id}")

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def _of(self, request: Request, id: str, work: Callable[[Study, Task], contract.Model], **job: Any) -> Response:
        """Have the worker do something with a study and answer with what it returns; for HEAD nothing is done."""
        study = await self._loaded(id)
        if request.method == "HEAD":
            return Bodiless("application/json")
        task = self.queue.submit(lambda task: work(study, task).json_bytes(), **job)
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
            self.queue.cancel(task)


def _counts_as_bank(study: Study, task: Task, id: str) -> None:
    """Where a bank may have to be built first, what that takes is not what readings take."""
    if not study.bare and study.known_bank() is None:
        task.kind = f"bank {id}"


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
