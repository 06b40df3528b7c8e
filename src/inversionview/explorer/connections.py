"""Connections that are idle or slow are closed: who sends a request byte by byte or does not read its answer keeps no place."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from inversionview.explorer.queue import WorkQueue

HEAD = 10.0
"""Seconds in which the head of a request must have come, from the beginning of the connection or the end of the last answer."""
STALLED = 30.0
"""Seconds in which a client must have read some of what waits for it."""
MOST = 256
"""Connections at once; where one more comes, the one that has waited longest for its request goes."""


class Connection(H11Protocol):
    """A connection as uvicorn has it, with a deadline for whoever keeps it waiting."""

    head, stalled, most = HEAD, STALLED, MOST
    _deadline: asyncio.TimerHandle | None = None
    _unread = 0

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and make room."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._watch()
        if len(self.connections) > self.most:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each.idle]
            min(waiting, key=lambda each: each.due).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; that alone does not put the deadline off."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request, anew."""
        super().on_response_complete()
        self._unwatch()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for a client that does not read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on: it has read."""
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, where no answer is under way."""
        body = json.dumps(
            {"detail": "This request cannot be understood: ask by HTTP, with a head of less than 64 kB."}
        ).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close"), (b"content-length", b"%d" % len(body))]
        try:
            parts = [self.conn.send(h11.Response(status_code=400, headers=headers, reason=b"Bad Request"))]
            parts += [self.conn.send(h11.Data(data=body)), self.conn.send(h11.EndOfMessage())]
        except h11.LocalProtocolError:
            self.transport.abort()
            return
        self.transport.write(b"".join(part for part in parts if part))
        self.transport.close()

    @property
    def due(self) -> float:
        """When its time is up."""
        return float("inf") if self._deadline is None else self._deadline.when()

    def _watch(self) -> None:
        """Set a deadline where the client is waited for and none is set; lift it where it is not."""
        if not (self.idle or self.flow.write_paused):
            self._unwatch()
        elif self._deadline is None:
            self._unread = self.transport.get_write_buffer_size()
            self._deadline = self.loop.call_later(self.stalled if self._unread else self.head, self._up)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _up(self) -> None:
        """Close the connection, unless the client has read some of what waits for it."""
        self._deadline = None
        if 0 < self.transport.get_write_buffer_size() < self._unread:
            self._watch()
        else:
            self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn's server, which stops the work when it ends: whoever waits for some is told so.

    Args:
        config: as ``settings`` gives it.
        queue: of the work.
        ready: called once requests are answered, in a thread of its own.
    """

    def __init__(self, config: uvicorn.Config, queue: WorkQueue, ready: Callable[[], Any] | None = None) -> None:
        super().__init__(config)
        self._queue, self._ready = queue, ready
        self.signalled = False
        """A signal has ended it, or is about to."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End."""
        self.signalled = True
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Listen to SIGHUP as well, which a terminal sends that closes, unless it is ignored."""
        number: int = getattr(signal, "SIGHUP", 0)
        before = signal.getsignal(number) if number else signal.SIG_IGN
        heeded = before is not signal.SIG_IGN and threading.current_thread() is threading.main_thread()
        with super().capture_signals():
            if heeded:
                signal.signal(number, self.handle_exit)
            yield
            if heeded:  # not later: uvicorn raises again what has come
                signal.signal(number, before)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin."""
        await super().startup(sockets)
        if self._ready is not None:  # not here: a browser may stay in the foreground
            threading.Thread(target=self._ready, daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._queue.close(timeout=0.0)
        await super().shutdown(sockets)


def settings(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """Return how uvicorn serves the explorer."""
    chosen = {"http": Connection, "ws": "none", "log_level": "error", "timeout_graceful_shutdown": 1, "server_header": False}
    return uvicorn.Config(app, **{**chosen, **options})
