"""Figures of the explorer's page: ``python benchmarks/explorer_page.py`` prints a Markdown table.

Frames per second while ε sweeps over 2,000 rows, the page's weight, the size of an exported file, and the time until it shows;
the same of the live page, with a real server.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx
import uvicorn
from playwright.sync_api import Browser

import inversionview as iv
from inversionview.explorer.app import create_app
from inversionview.explorer.command import bound
from inversionview.explorer.routes import API
from inversionview.page import bundle as exported
from inversionview.preimage.reading import reading
from tests.browser import chromium, opened

SWEEP = """
async (seconds) => {
  const slider = document.querySelector(".slider"), frames = [];
  const start = performance.now();
  let before = start, now = start;
  while (now - start < 1000 * seconds) {
    slider.value = 1000 + 950 * Math.sin((now - start) / 400);
    slider.dispatchEvent(new Event("input"));
    now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    before = now;
  }
  return frames.slice(1);
}
"""
TIMES = "[performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0, window.interactive]"
SHOWN = """
new MutationObserver((_, me) => {
  if (!document.querySelector(".body .row")) return;
  window.interactive = performance.now();
  me.disconnect();
}).observe(document, { childList: true, subtree: true });
"""


def readings(rows: int) -> list[dict[str, object]]:
    """One reading of counting with that many rows."""
    study = iv.load("counting")
    preimage = iv.read(
        study, study.query("vvzccvczvvvzvcvc|v:8", at=":", site="a1.0"), count=rows, each=max(64, rows // 4), source="decoder"
    )
    return [reading(study, preimage).to_json()]


def sweep(browser: Browser, path: Path, everything: bool, seconds: float) -> tuple[float, float]:
    """Frames per second, and the slowest frame but one in a hundred, in ms."""
    with opened(browser, path.as_uri(), viewport={"width": 1300, "height": 1000}) as page:
        if everything:
            page.get_by_text("show all").click()
        frames = page.evaluate(SWEEP, seconds)
    return 1000 / statistics.mean(frames), statistics.quantiles(frames, n=100)[-1]


def shown(browser: Browser, address: str, times: int = 7) -> tuple[float, float]:
    """Median ms from opening an address to its first paint, and to its rows, which then answer."""
    found = []
    for _ in range(times):
        page = browser.new_page()
        page.add_init_script(SHOWN)
        page.goto(address)
        page.wait_for_selector(".body .row")
        found.append(page.evaluate(TIMES))
        page.close()
    return statistics.median(f[0] for f in found), statistics.median(f[1] for f in found)


@contextmanager
def served() -> Iterator[str]:
    """The explorer with counting, loaded, and its address."""
    study, listening = iv.load("counting"), bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app({"counting": lambda: study}), log_level="error"))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    httpx.get(f"{address}{API}/studies", timeout=60)
    yield f"{address}/"
    server.should_exit = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    seconds = parser.parse_args().seconds
    print("| figure | value |\n| --- | --- |")
    sources = [path.read_bytes() for path in exported.STATIC.iterdir()]
    weight, packed = sum(map(len, sources)), sum(len(gzip.compress(source)) for source in sources)
    print(f"| live page: modules, style, page | {weight / 1000:.0f} kB, {packed / 1000:.0f} kB compressed |")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        many, some = (exported.to_html(readings(rows), Path(folder) / f"{rows}.html") for rows in (2000, 500))
        print(f"| exported file without rows | {len(exported.page([]).encode()) / 1000:.0f} kB |")
        print(f"| exported file, 500 rows | {some.stat().st_size / 1000:.0f} kB |")
        paint, interactive = shown(browser, some.as_uri())
        print(f"| opened from disk, 500 rows | first paint {paint:.0f} ms, interactive {interactive:.0f} ms |")
        with served() as address:
            for source in ("corpus", "decoder"):
                paint, interactive = shown(browser, f"{address}#study=counting&source={source}")
                print(f"| live page, {source} | first paint {paint:.0f} ms, first rows {interactive:.0f} ms |")
        for name, everything in (("a choice of 18 shown", False), ("all in the list", True)):
            rate, slow = sweep(browser, many, everything, seconds)
            print(f"| ε over 2,000 rows, {name} | {rate:.0f} fps, 99 % of frames within {slow:.0f} ms |")


if __name__ == "__main__":
    main()
