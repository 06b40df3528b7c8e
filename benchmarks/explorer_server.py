"""The figures of the explorer's server: ``python benchmarks/explorer_server.py [RUN]``, a run of counting with a bank.

By default over the bank in the cache. ``inversionview explore`` runs as a process of its own, on 127.0.0.1 only.
What a client waits from its request to the first event and the first rows, and to the whole reading, each the median over sites
and inputs; a burst of 50 clients; the same readings while twenty walks of a minute are under way or wait; memory after many
clients that went away in the middle of a stream. Prints Markdown; takes some four minutes.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil

from inversionview.explorer.routes import API

SITES = ("x0.pre", "a0.0", "x0.mid", "m0", "x0.post", "a1.0", "x1.mid", "m1", "x1.post")
STREAM = {"Accept": "text/event-stream"}
WALK = {"source": "walk", "seconds": 60}
GONE = (100, 500, 1000, 2000)


@contextmanager
def explorer(runs: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """Serve; yield the address and the process."""
    command = [sys.executable, "-m", "inversionview.cli", "explore", *runs, "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        yield found[0], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def wait(text: str, name: str = "me", **asked: object) -> tuple[float, float, float]:
    """Return milliseconds to the first event, to the first rows, and to the end."""
    began, first, rows = time.perf_counter(), 0.0, 0.0
    with client.stream("GET", f"{url}/read", params={"text": text, **asked}, headers={**STREAM, "X-Client": name}) as answer:
        for line in answer.iter_lines():
            first = first or time.perf_counter()
            if line == "event: rows":
                rows = rows or time.perf_counter()
            assert line != "event: failed"
    return 1000 * (first - began), 1000 * (rows - began), 1000 * (time.perf_counter() - began)


def table(title: str, times: dict[str, list[tuple[float, float, float]]]) -> None:
    print(f"\n| {title} | first event | first rows | all |\n| --- | --- | --- | --- |")
    for name, each in times.items():
        shown = [f"{statistics.median(part):.0f} ms (most {max(part):.0f})" for part in zip(*each, strict=True)]
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


def ask(number: int) -> tuple[int, float]:
    began = time.perf_counter()
    site, source = SITES[number % len(SITES)], ("corpus", "decoder")[number % 2]
    asked = {"text": texts[number % len(texts)], "site": site, "source": source}
    answer = client.get(f"{url}/read", params=asked, headers={"X-Client": str(number)})
    return answer.status_code, time.perf_counter() - began


def leave(number: int, seconds: float) -> None:
    """Begin a stream and go away after some time."""
    asked = {"text": texts[number % len(texts)], "site": SITES[number % len(SITES)], "seed": number}
    asked |= (WALK, {"source": "decoder"}, {"source": "corpus"})[number % 3]
    end = time.perf_counter() + seconds
    with client.stream("GET", f"{url}/read", params=asked, headers={**STREAM, "X-Client": str(number)}) as answer:
        for _ in answer.iter_bytes():
            if time.perf_counter() > end:
                return


@contextmanager
def walks(clients: int) -> Iterator[None]:
    """Twenty walks of a minute, of so many clients, that are under way or wait."""
    over = threading.Event()

    def walk(number: int) -> None:
        headers = {**STREAM, "X-Client": f"walker {number % clients}"}
        asked = {"text": texts[number % len(texts)], "seed": number, **WALK}
        while not over.is_set():
            with client.stream("GET", f"{url}/read", params=asked, headers=headers) as answer:
                if answer.status_code == 429:
                    time.sleep(1)
                for _ in answer.iter_bytes():
                    if over.is_set():
                        return

    threads = [threading.Thread(target=walk, args=(number,), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(5)
    yield
    over.set()


def memory() -> float:
    """Return the server's megabytes, once nothing is under way."""
    while client.get(f"{base}/healthz").json()["queue"] != {"running": 0, "waiting": 0}:
        time.sleep(0.1)
    return process.memory_info().rss / 1e6


if __name__ == "__main__":
    client = httpx.Client(timeout=600, limits=httpx.Limits(max_connections=None))
    with explorer(sys.argv[1:]) as (base, process):
        url = f"{base}{API}/studies/{Path(sys.argv[1]).name if sys.argv[1:] else 'counting'}"
        client.get(url)
        texts = [client.get(f"{url}/random", params={"seed": seed}).json()["text"] for seed in range(5)]
        places = [(text, site) for text in texts for site in SITES]
        each = {source: [wait(t, site=s, source=source) for t, s in places] for source in ("corpus", "decoder")}
        table("source", each)
        print()
        for _ in range(4):
            with ThreadPoolExecutor(50) as pool:
                found = list(pool.map(ask, range(50)))
            answered = [seconds for code, seconds in found if code == 200]
            codes, p95 = sorted({code for code, _ in found}), np.quantile(answered, 0.95)
            print(f"burst of 50: {len(answered)} answered, p95 {p95:.2f} s; codes {codes}; {memory():.0f} MB afterwards")
        beside = {}
        for clients in (20, 1):
            with walks(clients):
                some = [wait(t, site=s, source="corpus") for t, s in places[:10]]
                beside[f"corpus, beside twenty walks of {clients}"] = some
                print(f"beside twenty walks of {clients}: {process.memory_info().rss / 1e6:.0f} MB", flush=True)
            memory()
        table("source", beside)
        rng, done = np.random.default_rng(0), 0
        for gone in GONE:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(leave, range(done, gone), rng.uniform(0, 0.4, gone - done)))
            done = gone
            print(f"after {gone} who went away: {memory():.0f} MB, {process.num_threads()} threads", flush=True)
            began = process.cpu_times().user
            time.sleep(2)
            print(f"processor while idle: {(process.cpu_times().user - began) / 2:.0%}", flush=True)
