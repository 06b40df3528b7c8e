"""One worker for all work on the models, which are not made for several threads: fair between clients, bounded.

A job is a function of a ``Task``. It tells the task how far it is; that raises ``StoppedError`` as soon as nobody waits any
more, and ``TimeUpError`` when its time is up. No result is kept: who submits a job holds its future.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

_FIRST_GUESS = 0.5
"""Seconds that a kind of work is thought to take before one has been seen."""
_LATE = 1.2
"""A job whose turn comes later than so many times the patience is turned away after all."""
_SOON = 1.0
"""Seconds after which the share of its work that a job has done tells when it will end."""
_NEWEST = 0.3
"""Weight of the newest duration in the moving average."""


class StoppedError(Exception):
    """Nobody waits for the job any more."""


class TimeUpError(Exception):
    """The job has run longer than it may; the message is the note of its last report."""


class BusyError(Exception):
    """There is too much to do already.

    Attributes:
        retry_after: seconds, a whole number, after which to ask again.
    """

    def __init__(self, seconds: float) -> None:
        self.retry_after = min(600, max(1, math.ceil(seconds)))
        super().__init__(f"The server is busy: ask again in {self.retry_after} s.")


@dataclass(eq=False)
class Task:
    """A job in the queue, and what it is asked while it runs."""

    work: Callable[[Task], Any]
    client: str
    kind: str
    limit: float
    """Seconds that it may run."""
    patience: float
    """Seconds that it may wait."""
    future: Future[Any] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _share: float = 0.0

    def report(self, share: float, note: str = "") -> None:
        """Say which share of the work is done.

        Raises:
            StoppedError: nobody waits for it.
            TimeUpError: it has run too long.
        """
        self._share = share
        if self._stop.is_set():
            raise StoppedError
        if self.elapsed > self.limit:
            raise TimeUpError(note)

    def stop(self) -> None:
        """Have it end at its next report."""
        self._stop.set()

    @property
    def elapsed(self) -> float:
        """Seconds since it began to run."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    def left(self, expected: float) -> float:
        """Return how many seconds it will still run: by what its kind takes, and once that has passed by its share."""
        elapsed = self.elapsed
        if elapsed > max(_SOON, expected) and self._share:
            return elapsed * (1 - min(1.0, self._share)) / self._share
        return max(0.0, expected - elapsed)


class WorkQueue:
    """Jobs of several clients and the thread that does them.

    Args:
        patience: a job that would wait longer than so many seconds is turned away; and so is one whose turn comes a fifth later
            than that, because what was ahead took longer than it used to.
        most: jobs of one client that may wait.
        limit: seconds that a job may run, unless it says otherwise.
    """

    def __init__(self, *, patience: float = 3.0, most: int = 16, limit: float = 60.0) -> None:
        self.patience, self.most, self.limit = patience, most, limit
        self._waiting: OrderedDict[str, deque[Task]] = OrderedDict()
        self._running: Task | None = None
        self._seconds: dict[str, float] = {}
        self._change, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._go, name="explorer-worker", daemon=True)
        self._thread.start()

    def submit(
        self,
        work: Callable[[Task], Any],
        *,
        client: str = "",
        kind: str = "",
        limit: float | None = None,
        patience: float | None = None,
    ) -> Task:
        """Put a job in the queue, perhaps with a limit and a patience of its own.

        Raises:
            BusyError: it would wait too long, or the client has too many waiting; or the queue is closed.
        """
        patience = self.patience if patience is None else patience
        task = Task(work, client, kind, self.limit if limit is None else limit, patience)
        with self._change:
            own, wait = len(self._waiting.get(client, ())), self._wait(client)
            if self._closed or own >= self.most or wait > patience:
                raise BusyError(wait)
            self._waiting.setdefault(client, deque()).append(task)
            self._change.notify()
        return task

    def cancel(self, task: Task) -> None:
        """Drop a job that waits, stop one that runs; nothing where it is done."""
        task.stop()
        with self._change:
            own = self._waiting.get(task.client)
            if own is not None and task in own:
                own.remove(task)
                if not own:
                    del self._waiting[task.client]
                task.future.cancel()

    @property
    def running(self) -> int:
        """How many jobs run: 0 or 1."""
        return int(self._running is not None)

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        with self._change:
            return sum(map(len, self._waiting.values()))

    def close(self, timeout: float = 5.0) -> None:
        """Drop what waits, stop what runs, end the thread."""
        with self._change:
            self._closed = True
            for tasks in self._waiting.values():
                for task in tasks:
                    task.future.cancel()
            self._waiting.clear()
            if self._running is not None:
                self._running.stop()
            self._change.notify()
        self._thread.join(timeout)

    def _wait(self, client: str) -> float:
        """Return the seconds until a new job of a client would run: clients take turns."""
        own = len(self._waiting.get(client, ()))
        ahead = [task for tasks in self._waiting.values() for task in list(tasks)[: own + 1]]
        now = 0.0 if self._running is None else self._running.left(self._expected(self._running.kind))
        return now + sum(self._expected(task.kind) for task in ahead)

    def _expected(self, kind: str) -> float:
        return self._seconds.get(kind, _FIRST_GUESS)

    def _next(self) -> Task | None:
        """Wait for a job and return it, ``None`` when the queue is closed; its client's turn comes again last."""
        with self._change:
            while not self._waiting and not self._closed:
                self._change.wait()
            if self._closed:
                return None
            client, tasks = self._waiting.popitem(last=False)
            task = tasks.popleft()
            if tasks:
                self._waiting[client] = tasks
            self._running = task
            return task

    def _go(self) -> None:
        while (task := self._next()) is not None:
            task.started = time.monotonic()
            answer: Callable[[], None] | None = None
            if task.future.set_running_or_notify_cancel():
                if task.started - task.submitted > _LATE * task.patience:
                    answer = partial(task.future.set_exception, BusyError(task.started - task.submitted))
                else:
                    answer = self._do(task)
            with self._change:
                self._running = None
            if answer is not None:  # who has the answer finds the worker free
                answer()
            del task, answer

    def _do(self, task: Task) -> Callable[[], None]:
        """Do a job; return what gives its outcome to who waits."""
        try:
            result = task.work(task)
        except BaseException as error:  # whatever it is belongs to who waits, and the worker lives on
            if isinstance(error, TimeUpError):
                self._learn(task)
            return partial(task.future.set_exception, error)
        self._learn(task)
        return partial(task.future.set_result, result)

    def _learn(self, task: Task) -> None:
        """Expect the next job of the kind to take about as long; one that was stopped or failed at once says nothing."""
        old = self._seconds.get(task.kind, task.elapsed)
        self._seconds[task.kind] = old + _NEWEST * (task.elapsed - old)
