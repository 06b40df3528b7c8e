"""Work on several slices of a bank at a time, each in a thread of its own, as many as the process may use.

torch and numpy leave the interpreter free while they compute. Threads that wait for one another inside every operation, as
those of OpenMP do, lose more than they gain where the processors have other work as well; so in here each operation has one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what ``work`` makes of each item, in their order; with ``torch.set_num_threads(1)`` one after the other."""
    threads, items = torch.get_num_threads(), list(items)
    if threads < 2 or len(items) < 2:
        yield from map(work, items)
        return
    waiting = [_pool(os.getpid(), threads).submit(work, item) for item in items]
    try:
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return threads of this process (those of one that it was forked from are not there), whose operations have one each."""
    begun = Barrier(threads + 1)

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread that was never asked takes the process' number when it first is
        begun.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="bank", initializer=alone)
    for _ in range(threads):
        pool.submit(int)
    begun.wait()
    torch.set_num_threads(threads)  # which is in part of the whole process
    return pool
