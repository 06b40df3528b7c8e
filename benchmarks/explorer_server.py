"""The figures of the explorer's server: ``python benchmarks/explorer_server.py [RUN]``, a run of counting with a bank.

By default over the bank in the cache. What a client waits from its request to the first event and the first rows, and to the
whole reading, each the median over sites and inputs; then a burst of 50 clients. Prints a Markdown table.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import uvicorn

import inversionview as iv
from inversionview.commands.exploring import bound
from inversionview.explorer.app import create_app
from inversionview.explorer.routes import API

SITES = ("x0.pre", "a0.0", "x0.mid", "m0", "x0.post", "a1.0", "x1.mid", "m1", "x1.post")


def wait(url: str, **asked: object) -> tuple[float, float, float]:
    """Return milliseconds to the first event, to the first rows, and to the end."""
    began, first, rows = time.perf_counter(), 0.0, 0.0
    with client.stream("GET", f"{url}/read", params=asked, headers={"Accept": "text/event-stream"}) as answer:
        for line in answer.iter_lines():
            first = first or time.perf_counter()
            if line == "event: rows":
                rows = rows or time.perf_counter()
            assert line != "event: failed"
    return 1000 * (first - began), 1000 * (rows - began), 1000 * (time.perf_counter() - began)


def ask(url: str, number: int) -> tuple[int, float]:
    began = time.perf_counter()
    asked = {
        "text": texts[number % len(texts)],
        "site": SITES[number % len(SITES)],
        "source": ("corpus", "decoder")[number % 2],
    }
    answer = client.get(f"{url}/read", params=asked, headers={"X-Client": str(number)})
    return answer.status_code, time.perf_counter() - began


if __name__ == "__main__":
    study = iv.load(sys.argv[1] if len(sys.argv) > 1 else "counting")
    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app({"counting": lambda: study}), log_level="error"))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}{API}/studies/counting"
    client = httpx.Client(timeout=600, limits=httpx.Limits(max_connections=None))
    client.get(url)
    texts = [client.get(f"{url}/random", params={"seed": seed}).json()["text"] for seed in range(5)]
    print(f"| source, bank of {len(study.bank()):,} | first event | first rows | all |\n| --- | --- | --- | --- |")
    for source in ("corpus", "decoder"):
        times = [wait(url, text=text, site=site, source=source) for text in texts for site in SITES]
        shown = [f"{statistics.median(part):.0f} ms (most {max(part):.0f})" for part in zip(*times, strict=True)]
        print(f"| {source} | {' | '.join(shown)} |")
    print()
    for _ in range(4):
        with ThreadPoolExecutor(50) as pool:
            found = list(pool.map(lambda number: ask(url, number), range(50)))
        answered = [seconds for code, seconds in found if code == 200]
        codes, memory = sorted({code for code, _ in found}), psutil.Process().memory_info().rss / 1e6
        p95 = np.quantile(answered, 0.95)
        print(f"burst of 50: {len(answered)} answered, p95 {p95:.2f} s; codes {codes}; {memory:.0f} MB afterwards")
    server.should_exit = True
