"""Server-sent events: what the worker tells of a reading, on its way to a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from inversionview.explorer.problems import sentence
from inversionview.explorer.queue import BusyError, Task
from inversionview.page import contract, preimages

HEARTBEAT = 10.0
"""Seconds without an event after which a stream says that it is alive."""
PROGRESS = 0.2
"""Seconds between events that only tell progress."""


class Events:
    """Events on their way from the worker to a stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._queue = loop, asyncio.Queue[bytes | None]()
        self._task: Task | None = None
        self._told = 0.0

    def begin(self, task: Task, place: contract.PlaceEvent) -> None:
        """Send the first event."""
        self._task = task
        self._send("place", place.json_bytes())

    def rows(self, samples: list[preimages.Sample], values: list[list[contract.Value]]) -> None:
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
            self._send("failed", contract.Failure(detail=sentence(error), retry_after=after).json_bytes())
        self._put(None)
        self._task = None

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


_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Kept by nobody, nor held back by a proxy until there is more."""


class EventStream(StreamingResponse):
    """A response of events; when it ends, however it does, ``end`` is called."""

    def __init__(self, events: Events, end: Callable[[], None]) -> None:
        super().__init__(aiter(events), media_type="text/event-stream", headers=_HEADERS)
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()
