"""The work on the models, which are not made for several threads: one job computes at a time; fair between clients, bounded.

A job is a function of a ``Task``. It tells the task how far it is, and in that call it gives way: a long job lets short ones go
first and takes turns with other long ones, each where it stands, in a thread of its own. The call raises ``StoppedError`` as
soon as nobody waits any more, and ``TimeUpError`` when its time is up. No result is kept: who submits a job holds its future.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from inversionview.core.errors import InversionViewError

_FIRST_GUESS = 0.5
"""Seconds that a kind of work is thought to take before one has been seen."""
_SOON = 1.0
"""Seconds after which the share of its work that a job has done tells when it will end."""
_NEWEST = 0.3
"""Weight of the newest duration in the moving average."""
BRIEF = 1.0
"""Seconds of computing after which a job is a long one."""
SLICE = 0.2
"""Seconds that a long job computes before it looks whether others wait."""
_HUNGRY = 2.0
"""Seconds after which a job that gave way has a slice again, even though short ones wait."""
_BEGUN, _LONG, _OWN = 6, 3, 2
"""Jobs that are under way at once, at most: all; begun as long ones; of these one client's."""
_TIMES = 10.0
"""A long job may wait so many times as long as it takes."""
_MOST = 256
"""Jobs of all clients that may wait."""


class StoppedError(Exception):
    """Nobody waits for the job any more."""


class TimeUpError(Exception):
    """The job has run longer than it may; the message is the note of its last report."""


class BusyError(Exception):
    """There is too much to do already.

    Attributes:
        retry_after: seconds, a whole number, after which to ask again.
    """

    def __init__(self, seconds: float, why: str = "The server is busy") -> None:
        self.retry_after = min(600, max(1, math.ceil(seconds)))
        super().__init__(f"{why}: ask again in {self.retry_after} s.")


@dataclass(eq=False)
class Task:
    """A job in the queue, and what it is asked while it runs."""

    work: Callable[[Task], Any]
    client: str
    kind: str
    limit: float
    """Seconds that it may compute."""
    patience: float
    """Seconds that others may keep it waiting."""
    guess: float
    """Seconds that it is thought to take, while nothing is known of its kind."""
    pause: Callable[[Task], None]
    """Called where it may give way; returns when it may go on."""
    future: Future[Any] = field(default_factory=Future)
    long: bool = False
    gave_way: float = 0.0
    """When it last gave way."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _share: float = 0.0
    _used: float = 0.0
    _since: float | None = None
    """Since when it computes."""

    def report(self, share: float, note: str = "") -> None:
        """Say which share of the work is done, and give way to others where it is time to.

        Raises:
            StoppedError: nobody waits for it.
            TimeUpError: it has computed too long.
        """
        self._share = share
        if self._stop.is_set():
            raise StoppedError
        if self.elapsed > self.limit:
            raise TimeUpError(note)
        self.pause(self)

    def stop(self) -> None:
        """Have it end at its next report."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Nobody waits for it."""
        return self._stop.is_set()

    @property
    def slice(self) -> float:
        """Seconds that it has computed since it last had to wait."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @property
    def elapsed(self) -> float:
        """Seconds that it has computed; what it waited does not count."""
        return self._used + self.slice

    def go(self) -> None:
        """Its time counts from now on."""
        self._since = time.monotonic()

    def rest(self) -> None:
        """Its time stands still from now on."""
        self._used, self._since, self.gave_way = self.elapsed, None, time.monotonic()

    def left(self, expected: float) -> float:
        """Return the seconds it will still compute: by what its kind takes, then by its share; none where it was stopped."""
        elapsed = self.elapsed
        if self.stopped:
            return 0.0
        if elapsed > max(_SOON, expected) and self._share:
            return elapsed * (1 - min(1.0, self._share)) / self._share
        return max(0.0, expected - elapsed)


class WorkQueue:
    """Jobs that wait and jobs that are under way, of which one computes at a time.

    Clients take turns. Short jobs go before long ones; a job that nobody has seen the like of is a short one until it has
    computed for a second. Long jobs that are under way take turns by slices, and have some even if short ones never end.

    Args:
        patience: seconds that others may keep a short job waiting; a long one ten times what it takes. Who would wait longer,
            by what each kind of work took before, is told so at once.
        most: jobs of one client that may wait.
        limit: seconds that a job may compute, unless it says otherwise: more than the longest walk.
    """

    def __init__(self, *, patience: float = 3.0, most: int = 16, limit: float = 90.0) -> None:
        self.patience, self.most, self.limit = patience, most, limit
        self._waiting: OrderedDict[str, deque[Task]] = OrderedDict()
        self._begun: list[Task] = []
        self._turn: Task | None = None
        self._handed: dict[int, Task] = {}
        self._idle = list(range(_BEGUN))
        self._seconds: dict[str, float] = {}
        self._change, self._closed = threading.Condition(), False
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"explorer-worker-{i}", daemon=True) for i in range(_BEGUN)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        work: Callable[[Task], Any],
        *,
        client: str = "",
        kind: str = "",
        limit: float | None = None,
        guess: float = _FIRST_GUESS,
    ) -> Task:
        """Put a job in the queue, perhaps with a limit of its own; ``guess``: what its kind takes, if none was seen yet.

        Raises:
            BusyError: others would keep it waiting too long, the client has too many waiting, or the queue is closed.
        """
        task = Task(work, client, kind, self.limit if limit is None else limit, self.patience, guess, self._pause)
        with self._change:
            self._sort(task)
            wait, own = self._wait(task), len(self._waiting.get(client, ()))
            full = own >= self.most or sum(map(len, self._waiting.values())) >= _MOST
            if self._closed or full or wait > task.patience:
                raise BusyError(wait)
            self._waiting.setdefault(client, deque()).append(task)
            self._choose()
        return task

    def cancel(self, task: Task) -> None:
        """Drop a job that waits, stop one that is under way; nothing where it is done."""
        task.stop()
        with self._change:
            if task in self._waiting.get(task.client, ()):
                self._take(task)
                task.future.cancel()
            self._change.notify_all()

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        return len(self._begun)

    @property
    def waiting(self) -> int:
        """How many jobs wait to begin."""
        with self._change:
            return sum(map(len, self._waiting.values()))

    def close(self, timeout: float = 5.0) -> None:
        """Drop what waits, stop what is under way, end the threads."""
        with self._change:
            self._closed = True
            for task in self._every():
                task.future.cancel()
            self._waiting.clear()
            for task in self._begun:
                task.stop()
            self._change.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    # -- how long it takes --------------------------------------------------------------------------------------------

    def _expected(self, task: Task) -> float:
        return self._seconds.get(task.kind, task.guess)

    def _sort(self, task: Task) -> None:
        """Tell whether a job is a long one, by what is known now."""
        expected = self._expected(task)
        if expected >= BRIEF:
            task.long, task.patience = True, max(task.patience, _TIMES * expected)

    def _wait(self, new: Task) -> float:
        """Return the seconds for which others will keep a job waiting: clients take turns, long jobs keep no short one."""
        own = sum(task.long == new.long for task in self._waiting.get(new.client, ()))
        ahead: list[float] = [
            task.left(self._expected(task)) for task in self._begun if task.client != new.client and task.long == new.long
        ]
        for client, tasks in self._waiting.items():
            if client != new.client:
                ahead += [self._expected(task) for task in tasks if task.long == new.long][: own + 1]
        return sum(ahead)

    def _learn(self, task: Task) -> None:
        """Expect the next job of the kind to take about as long; one that was stopped or failed at once says nothing."""
        old = self._seconds.get(task.kind, task.elapsed)
        self._expect(task.kind, old + _NEWEST * (task.elapsed - old))

    def _expect(self, kind: str, seconds: float) -> None:
        with self._change:
            self._seconds[kind] = seconds
            for task in (*self._every(), *self._begun):
                self._sort(task)

    # -- whose turn it is ---------------------------------------------------------------------------------------------

    def _every(self) -> Iterator[Task]:
        return (task for tasks in self._waiting.values() for task in tasks)

    def _take(self, task: Task) -> None:
        """Take a job out of those that wait; its client's turn comes again last."""
        tasks = self._waiting.pop(task.client)
        tasks.remove(task)
        if tasks:
            self._waiting[task.client] = tasks

    def _choose(self) -> None:
        """Give the turn, if nobody has it, to a job under way or to one that begins now."""
        if self._turn is not None or self._closed:
            return
        hungry = next((t for t in self._begun if time.monotonic() - t.gave_way > _HUNGRY), None)
        fresh = None if hungry is not None else self._fresh()
        self._turn = hungry or fresh or next((task for task in self._begun if not task.stopped), None)
        if fresh is not None:
            self._take(fresh)
            self._begun.append(fresh)
            self._handed[self._idle.pop()] = fresh  # the thread that was busy last: others need no memory of their own
        if self._turn is not None:
            self._turn.go()
            self._change.notify_all()

    def _fresh(self) -> Task | None:
        """Return the job that may begin: a short one before a long one, of which few are under way at once."""
        if len(self._begun) >= _BEGUN:
            return None
        long = [task.client for task in self._begun if task.long]
        short = next((task for task in self._every() if not task.long), None)
        if short is not None or len(long) >= _LONG:
            return short
        return next((task for task in self._every() if long.count(task.client) < _OWN), None)

    def _pause(self, task: Task) -> None:
        """Let others go first where a job has had its slice."""
        if task.slice < SLICE or (not task.long and task.elapsed < BRIEF):
            return
        with self._change:
            if not task.long:  # its kind takes longer than was thought: so do others of it
                task.long = True
                self._expect(task.kind, max(self._expected(task), task.elapsed))
            self._leave(task)
            self._begun.remove(task)
            self._begun.append(task)
            self._choose()
            while self._turn is not task:
                if task.stopped or self._closed:
                    raise StoppedError
                self._change.wait()

    def _leave(self, task: Task) -> None:
        """Take the turn from a job that has it."""
        if self._turn is task:
            self._turn = None
            task.rest()

    # -- the threads --------------------------------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        while True:
            with self._change:
                while number not in self._handed and not self._closed:
                    self._change.wait()
                task = self._handed.pop(number, None)
            if task is None:
                return
            answer = self._do(task)
            with self._change:
                self._leave(task)
                self._begun.remove(task)
                self._idle.append(number)
                self._choose()
            if answer is not None:  # who has the answer finds the worker free
                answer()
            del task, answer

    def _do(self, task: Task) -> Callable[[], None] | None:
        """Do a job; return what gives its outcome to who waits."""
        if not task.future.set_running_or_notify_cancel():
            return None
        try:
            if task.stopped:
                raise StoppedError
            result = task.work(task)
        except BaseException as error:  # whatever it is belongs to who waits, and the worker lives on
            if isinstance(error, TimeUpError):
                self._learn(task)
            if isinstance(error, StoppedError | TimeUpError | BusyError | InversionViewError):
                error.__traceback__ = error.__context__ = None  # it would keep all that the work had in hand
            return partial(task.future.set_exception, error)
        self._learn(task)
        return partial(task.future.set_result, result)
