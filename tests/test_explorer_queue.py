"""Long jobs give way to short ones, one computes at a time, and what they find is what they find alone.

Time is told by the tests: a job that says it computed for a second moves the clock by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import inversionview as iv
from inversionview.explorer import banks, queue
from inversionview.explorer.answers import confirm
from inversionview.explorer.queue import BusyError, StoppedError, Task, TimeUpError, WorkQueue
from tests.test_explorer_api import ADD, COUNT

SOON = 60
"""Seconds after which a test gives up."""


class Clock:
    """Seconds, as the test says."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(queue, "time", made)
    return made


@pytest.fixture
def work() -> Iterator[WorkQueue]:
    made = WorkQueue()
    yield made
    made.close()


class Long:
    """A job that computes for a second between two reports until it is let go."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.begun, self.go, self.steps = clock, threading.Event(), threading.Event(), 0

    def __call__(self, task: Task) -> str:
        while not self.go.is_set():
            self.begun.set()
            self.steps += 1
            self.clock.now += 1.0
            task.limit += 1.0
            task.report(0.0)
        return "done"


def accepted(work: WorkQueue, job: Callable[[Task], Any], **how: Any) -> Task | None:
    """Return the job in the queue, ``None`` where that is too full."""
    try:
        return work.submit(job, **how)
    except BusyError:
        return None


@pytest.mark.parametrize("clients", [20, 2])
def test_short_jobs_are_done_while_long_ones_run(work: WorkQueue, clock: Clock, clients: int) -> None:
    """Twenty jobs of a minute, of as many clients or of two, and then a short one of another, and of one of these."""
    longs = [Long(clock) for _ in range(20)]
    made = [accepted(work, each, client=str(i % clients), kind="long", guess=60) for i, each in enumerate(longs)]
    tasks = [task for task in made if task is not None]
    assert len(tasks) >= 10  # of some it is said that others would keep them waiting for more than ten minutes
    longs[0].begun.wait(SOON)
    for client in ("other", "0"):
        assert work.submit(lambda task: "short", client=client).future.result(SOON) == "short"
    assert not any(task.future.done() for task in tasks)
    assert work.running <= 3
    for each in longs:
        each.go.set()
    assert {task.future.result(SOON) for task in tasks} == {"done"}


def test_what_turns_out_to_be_long_gives_way(work: WorkQueue, clock: Clock) -> None:
    """Nobody has seen the like of it, so it begins as a short job; those of its kind that wait are long ones from then on."""
    long = Long(clock)
    running = work.submit(long, client="a", kind="new")
    long.begun.wait(SOON)
    assert work.submit(lambda task: task.long, client="b", kind="other").future.result(SOON) is False
    assert work.submit(lambda task: task.long, client="c", kind="new").future.result(SOON) is True
    long.go.set()
    assert running.future.result(SOON) == "done"


def test_work_that_was_longer_than_thought_turns_nobody_away(work: WorkQueue, clock: Clock) -> None:
    """Two of a kind are begun by the server itself; the first takes six seconds: the second is a long one at once."""
    go, begun = threading.Event(), threading.Event()

    def second(task: Task) -> None:
        begun.set()
        go.wait(SOON)

    def first(task: Task) -> None:
        clock.now += 6.0
        work.submit(second, kind="warm", guess=0.5)

    work.submit(first, kind="warm").future.result(SOON)
    begun.wait(SOON)
    task = accepted(work, lambda task: "mine", client="me")
    go.set()
    assert task is not None
    assert task.future.result(SOON) == "mine"


def test_one_job_computes_at_a_time(work: WorkQueue, clock: Clock) -> None:
    busy, most = threading.Lock(), []

    def job(task: Task) -> None:
        for step in range(30):
            assert busy.acquire(blocking=False)  # else another computes
            clock.now += 1.0
            threading.Event().wait(0.001)
            most.append(work.running)
            busy.release()
            task.report(step / 30)

    tasks = [work.submit(job, client=str(i), guess=20 * (i % 2), kind=str(i)) for i in range(8)]
    for task in tasks:
        task.future.result(SOON)
    assert max(most) > 1  # they were under way side by side


def test_waiting_is_not_computing(work: WorkQueue, clock: Clock) -> None:
    """The short job takes a thousand seconds, the limit of the long one is 90: it is not over."""
    long = Long(clock)
    task = work.submit(long, client="a", guess=60)
    long.begun.wait(SOON)

    def short(task: Task) -> None:
        clock.now += 1000.0

    work.submit(short, client="b").future.result(SOON)
    long.go.set()
    assert task.future.result(SOON) == "done"
    assert task.elapsed == long.steps


def test_short_jobs_without_end_do_not_keep_a_long_one_for_ever(work: WorkQueue, clock: Clock) -> None:
    begun, over = threading.Event(), threading.Event()

    def long(task: Task) -> None:
        begun.set()
        for step in range(5):
            clock.now += 1.0
            task.report(step / 5)

    def short(task: Task) -> None:
        clock.now += 0.5
        if not over.is_set():
            work.submit(short, client="b")

    task = work.submit(long, client="a", guess=60)
    begun.wait(SOON)
    work.submit(short, client="b")
    work.submit(short, client="c")
    task.future.result(SOON)
    over.set()


def test_who_waits_in_the_middle_can_be_stopped(work: WorkQueue, clock: Clock) -> None:
    long, go, begun = Long(clock), threading.Event(), threading.Event()
    task = work.submit(long, client="a", guess=60)
    long.begun.wait(SOON)
    short = work.submit(lambda task: (begun.set(), go.wait(SOON)), client="b")
    begun.wait(SOON)
    work.cancel(task)
    with pytest.raises(StoppedError):
        task.future.result(SOON)
    assert not short.future.done()  # it has computed all the while
    go.set()
    short.future.result(SOON)


def test_one_user_is_never_told_to_come_again(work: WorkQueue, clock: Clock) -> None:
    """Who clicks around begins walks and gives them up; what its own jobs take does not count against it."""
    last: Task | None = None
    for _ in range(300):
        new = work.submit(Long(clock), client="me", kind="walk", guess=60)
        if last is not None:
            work.cancel(last)
        last = new
        for kind in ("place", "map", "complete"):
            work.submit(lambda task: None, client="me", kind=kind).future.result(SOON)
    assert last is not None
    work.cancel(last)


def test_all_that_waits_is_bounded(clock: Clock) -> None:
    work, go, begun = WorkQueue(patience=1e9, most=16), threading.Event(), threading.Event()
    work.submit(lambda task: (begun.set(), go.wait(SOON)))
    begun.wait(SOON)
    taken = [accepted(work, lambda task: None, client=str(number)) for number in range(1000)]
    assert sum(task is not None for task in taken) == 256
    assert taken[-1] is None
    go.set()
    work.close()


def test_a_failure_keeps_nothing_of_the_work(work: WorkQueue) -> None:
    """An error holds the frames it came through, with all their arrays; one that was stopped needs none of them."""

    def job(task: Task) -> None:
        task.stop()
        task.report(0.5)

    task = work.submit(job)
    with pytest.raises(StoppedError) as error:
        task.future.result(SOON)
    names = [entry.name for entry in error.traceback]
    assert "job" not in names


def test_time_is_up_by_what_was_computed(work: WorkQueue, clock: Clock) -> None:
    def job(task: Task) -> None:
        for _ in range(100):
            clock.now += 1.0
            task.report(0.0, "at work")

    with pytest.raises(TimeUpError, match="at work"):
        work.submit(job, limit=30).future.result(SOON)


# -- what is asked of studies -----------------------------------------------------------------------------------------


def test_side_by_side_they_find_what_they_find_alone(
    counting: iv.Study, addition: iv.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk, two readings by decoders and a completeness, giving way to each other at every report."""
    monkeypatch.setattr(queue, "SLICE", 0.0)
    monkeypatch.setattr(queue, "BRIEF", 0.0)
    first, second = counting.query(COUNT, at=":", site="a1.0"), addition.query(ADD, at="=", site="a0.0")

    def walk(report: Any) -> Any:
        found = iv.walk(counting, first, steps=15, chains=16, population=16, seed=3, report=report).to_json()
        return found["samples"], found["bits"]

    def complete(report: Any) -> Any:
        return confirm.completed(addition, second, limit=200, seed=4, report=report)

    jobs = [
        walk,
        lambda report: iv.read(counting, first, count=30, each=8, seed=1, report=report, source="decoder").to_json(),
        lambda report: iv.read(addition, second, count=30, each=8, seed=2, report=report, source="decoder").to_json(),
        complete,
    ]
    alone = [job(None) for job in jobs]
    gave_way = 0
    pause = WorkQueue._pause

    def counted(self: WorkQueue, task: Task) -> None:
        nonlocal gave_way
        gave_way += self.running > 1
        pause(self, task)

    monkeypatch.setattr(WorkQueue, "_pause", counted)
    together = WorkQueue(patience=1000)
    tasks = [together.submit(lambda task, job=job: job(task.report), client=str(i)) for i, job in enumerate(jobs)]
    assert [task.future.result(SOON) for task in tasks] == alone
    assert gave_way > 10
    together.close()


def test_a_walk_that_waits_goes_no_shorter(counting: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report takes a thousand seconds, all else ten milliseconds: a walk of one second has its many steps."""
    now = time.perf_counter()  # as the beginning of the walk is read

    def look() -> float:
        nonlocal now
        now += 0.01
        return now

    def report(share: float, note: str) -> None:
        nonlocal now
        now += 1000.0

    monkeypatch.setattr("inversionview.markov.run.time", SimpleNamespace(perf_counter=look))
    query = counting.query(COUNT, at=":", site="a1.0")
    found = iv.walk(counting, query, seconds=1.0, chains=8, exchange=False, report=report).walk
    assert found is not None
    assert found.steps >= 20
    assert found.seconds < 1000


def test_one_bank_is_built_once(monkeypatch: pytest.MonkeyPatch, addition: iv.Study) -> None:
    """Who asks for a bank that another request is building is told when it will be there, and waits for no lock."""
    built: list[int] = []

    class Builds:
        """A study whose bank takes ten passes."""

        bare, name, inputs = False, "addition", addition.inputs

        def known_bank(self) -> None:
            return None

        def bank(self, report: Any, site: Any) -> str:
            for done in range(1, 11):
                report(done / 10, f"{done} of 10 inputs")
            built.append(1)
            return "bank"

    monkeypatch.setattr(banks, "lacking", lambda study: None)
    study: Any = Builds()
    asked: list[str] = []
    answers: list[Any] = []

    def meanwhile(share: float, note: str) -> None:
        if share == 0.5:
            with pytest.raises(BusyError, match="building the bank of addition: ask again in"):
                banks.bank_of(study, None)
            asked.append(note)

    answers.append(banks.bank_of(study, meanwhile))
    assert (built, len(asked)) == ([1], 1)
    answers.append(banks.bank_of(study, None))  # nobody builds it any more
    assert answers == ["bank", "bank"]
