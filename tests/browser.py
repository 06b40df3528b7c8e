"""A browser for tests: Debian's Chromium or the one that CHROMIUM names, with nothing that a page must not do left unseen."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE = 60_000
"""Milliseconds until what does not come is told: the machine may have other work, such as these tests in another clone."""
expect.set_options(timeout=PATIENCE)
WATCH = """
window.seen = [];
document.addEventListener("securitypolicyviolation", (e) => window.seen.push(`policy: ${e.violatedDirective} ${e.blockedURI}`));
"""
LONE = re.compile(r"(?<= ) | (?= |$|[\x00-\x1f\x7f-\x9f\u2028\u2029])")
"""A space that a page shows as a dot: any but the one before what is seen."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; fails, with the way out, where there is none."""
    wanted = os.environ.get("CHROMIUM", "")
    paths = (shutil.which(name) for name in (wanted, "chromium", "chromium-browser", "google-chrome"))
    path = next(filter(None, paths), None)
    assert path, "There is no Chromium: apt-get install chromium, or set CHROMIUM to its path."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str, *, offline: bool = True, expected: str = "(?!)", **options: Any) -> Iterator[Page]:
    """Open an address in a fresh context; at the end nothing was said on the console, refused by policy or popped up.

    ``expected``: a pattern of what may be said on the console all the same.
    """
    context = browser.new_context(offline=offline, accept_downloads=True, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    if offline:
        page.on("request", lambda asked: heard.extend([asked.url] * (not asked.url.startswith(("file:", "blob:", "data:")))))
    page.add_init_script(WATCH)
    try:
        page.goto(address)
        page.wait_for_selector(".iv main")
        yield page
        unexpected = [said for said in heard + page.evaluate("window.seen") if not re.search(expected, said)]
        assert unexpected == [], unexpected
    finally:
        context.close()
