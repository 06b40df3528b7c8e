"""Makes the README's pictures of explorer and terminal again: ``make screenshots``, or those that are named as arguments.

Needs Chromium, and SmolLM2-135M for ``explorer-ioi``; banks are built where they lack, that of ``ioi`` takes some minutes.
"""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console

import inversionview as iv
from tests.browser import chromium, opened

COUNTING = {"study": "counting", "text": "vvzccvczvvvzvcvc|v:8"}
SHOTS = {
    "explorer": ({**COUNTING, "at": ":", "site": "a1.0"}, {"width": 1240, "height": 900}, "light"),
    "explorer-compare": (
        {**COUNTING, "at": "query", "site": "x0.pre", "pins": "x0.post@query|a1.0@:"},
        {"width": 1240, "height": 900}, "light",
    ),
    "explorer-ioi": (
        {"study": "ioi", "at": "END", "site": "a23.0", "source": "corpus"},
        {"width": 1240, "height": 900}, "light",
    ),
    "explorer-dark": ({"study": "addition"}, {"width": 1240, "height": 900}, "dark"),
}  # fmt: skip
"""For each picture: the state in the link, the window, the colour scheme."""


CLI = [sys.executable, "-m", "inversionview.cli"]
TERMINAL = (("counting", COUNTING["text"], "query", "x0.post"), ("addition", "615+861=1476", "=", "a0.0"))
"""What ``reading``, the picture of a terminal, shows: study, text, position and site."""


def terminal() -> None:
    """Make the picture of readings in a terminal."""
    console = Console(file=io.StringIO(), width=82, record=True, force_terminal=True, color_system="truecolor")
    for name, text, at, site in TERMINAL:
        study = iv.load(name)
        console.print(iv.read(study, study.query(text, at=at, site=site), count=12, fixed=at, source="decoder"), "")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1000})
        page.set_content(f"<body style='margin:0'>{console.export_svg(title='inversionview read --source decoder')}")
        page.locator("svg").screenshot(path=ROOT / "docs" / "images" / "reading.png", omit_background=True)
    print("docs/images/reading.png")


def main() -> None:
    if "reading" in sys.argv[1:] or len(sys.argv) == 1:
        terminal()
    wanted = {name: shot for name, shot in SHOTS.items() if name in sys.argv[1:] or len(sys.argv) == 1}
    if not wanted:
        return
    if "explorer-ioi" in wanted:
        subprocess.run([*CLI, "bank", "ioi", "--inputs", "20000"], check=True)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*CLI, "explore", "ioi", "--no-browser", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/healthz")
        with chromium() as browser:
            for name, (state, window, scheme) in wanted.items():
                address = f"http://127.0.0.1:{port}/#{urlencode(state)}"
                busy = "status of 429"
                with opened(browser, address, offline=False, expected=busy, viewport=window, color_scheme=scheme) as page:
                    page.wait_for_selector(".panel.read:not([aria-busy=true]) .body .row", timeout=180_000)
                    page.wait_for_selector(".map:not(.waiting)", timeout=180_000)
                    page.wait_for_load_state("networkidle", timeout=180_000)
                    page.wait_for_timeout(1500)
                    page.screenshot(path=ROOT / "docs" / "images" / f"{name}.png", full_page=True)
                print(f"docs/images/{name}.png")
    finally:
        server.terminate()
        server.wait()


def _wait(address: str, seconds: float = 60) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main()
