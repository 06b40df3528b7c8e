"""The explorer behind a proxy that puts a path before its own, such as JupyterHub's, and that may call it by another name."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, expect

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.explorer import command as exploring
from inversionview.explorer.app import create_app
from inversionview.explorer.command import allowed, bound
from inversionview.explorer.connections import settings
from inversionview.explorer.queue import WorkQueue
from tests.browser import chromium, opened
from tests.test_cli import bad

NAME = "notebooks.localhost"
"""Which a browser takes for this machine, and the server for any name."""
PREFIX = "/user/x/proxy/8765"


@contextmanager
def proxied(port: int, host: str) -> Iterator[str]:
    """A proxy for a server on a port, whom it calls by a name or, without one, as it was called itself; yields its address,
    without the last slash."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if not re.match(f"{PREFIX}($|[/?])", self.path):
                self.send_error(404)
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "host")}
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            asked.request(
                "GET", self.path.removeprefix(PREFIX) or "/", headers={**headers, "Host": host or self.headers["Host"]}
            )
            answer = asked.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # who asked may have gone
                while part := answer.read1(65536):
                    self.wfile.write(part)
                    self.wfile.flush()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{NAME}:{server.server_address[1]}{PREFIX}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def port(addition: iv.Study) -> Iterator[int]:
    """Of an explorer of addition that a proxy may call ``NAME``."""
    listening = bound("127.0.0.1", 0)
    app = create_app({"addition": lambda: addition}, proxies=allowed([NAME]), queue=WorkQueue())
    server = uvicorn.Server(settings(app))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("host", ["127.0.0.1", ""], ids=["rewritten", "forwarded"])
def test_a_reading_and_its_export_below_a_path(browser: Browser, port: int, host: str) -> None:
    """With the last slash and without, which the page puts there; what the address says of the reading stays."""
    state = "#study=addition&at=%3D&site=a0.1&source=corpus"
    for end in ("/", "") if host else ("/index.html",):
        with proxied(port, host) as address:
            expected = "404" if end == "" else "(?!)"  # files that were asked for beside the page, before it moved
            with opened(browser, f"{address}{end}{state}", offline=False, expected=expected) as page:
                expect(page.locator(".panel.read:not([aria-busy=true])")).to_have_count(1, timeout=60_000)
                expect(page.locator(".panel").first).to_contain_text("a0.1 at =")
                assert page.url.startswith(f"{address}{end or '/'}#")
                assert "site=a0.1" in page.url
                if end == "":
                    continue
                with page.expect_download() as kept:
                    page.get_by_role("button", name="Save as JSON").click()
                preimage = json.loads(kept.value.path().read_text(encoding="utf-8"))
                assert "a0.1" in json.dumps(preimage)


def test_no_answer_names_the_root(port: int) -> None:
    """Neither the page nor an answer holds an address that begins with a slash, and nothing redirects there."""
    own = f"http://127.0.0.1:{port}"
    page = httpx.get(f"{own}/").text
    assert re.findall(r"""(?:href|src)=["']?(/|https?:)""", page) == []
    for path in ("/", "/index.html", "/api/v1/studies", "/api/v1/studies/", "/api/v1", "/static", "/healthz/"):
        answer = httpx.get(own + path)
        assert "location" not in answer.headers
        assert answer.status_code in (200, 404)


# -- other names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [NAME, NAME.upper(), f"{NAME}:443"])
def test_an_allowed_name(port: int, host: str) -> None:
    for headers in ({}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": f"https://{host}", "Sec-Fetch-Site": "same-origin"}):
        assert httpx.get(f"http://127.0.0.1:{port}/api/v1/studies", headers={"Host": host, **headers}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", f"x{NAME}", f"x.{NAME}", f"{NAME}.evil.example", "example.org", f"{NAME}.", f"{NAME}:x", "*"]
)
def test_no_other_name(port: int, host: str) -> None:
    assert httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": host}).status_code == 400


def test_an_allowed_name_lets_no_other_site_ask(port: int) -> None:
    for headers in (
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"},
        {"Origin": "http://localhost"}, {"Origin": NAME}, {"Origin": f"ftp://{NAME}"}, {"Origin": f"https://{NAME}."},
        {"Origin": f"https://{NAME}", "Sec-Fetch-Site": "cross-site"}, {"Origin": f"https://x.{NAME}"},
    ):  # fmt: skip
        for path in ("/api/v1/studies", "/app.js"):
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", headers={"Host": NAME, **headers})
            assert answer.status_code == 403, headers


def test_the_refusal_says_how_to_allow_it_and_the_terminal_once() -> None:
    told: list[str] = []
    client = TestClient(create_app({}, foreign=told.append), base_url="http://localhost")
    for host in (NAME, f"{NAME.upper()}:8000", NAME):
        answer = client.get("/", headers={"Host": host})
        assert answer.status_code == 400
        assert answer.json()["detail"].endswith(f"start it with --allow-host {NAME}.")
    for host in ("", "*", "a b", "-", "[::2", "x" * 300, "a..b", "0.0.0.0"):
        assert "--allow-host" not in client.get("/", headers={"Host": host}).json()["detail"]
    client.get("/", headers={"Host": "localhost"})
    assert told == [NAME]
    said = client.get(
        "/app.js", headers={"Host": "localhost", "Origin": "https://hub.example.org", "Sec-Fetch-Site": "same-origin"}
    )
    assert said.json()["detail"].endswith("start it with --allow-host hub.example.org.")
    assert told == [NAME, "hub.example.org"]
    for number in range(200):
        client.get("/", headers={"Host": f"{number}.example.org"})
    assert len(told) <= 20


def test_what_is_no_name_of_a_host_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed(["NoteBooks.example.org", "192.168.1.5", "2001:DB8::1", "münchen.example"]) == [
        "notebooks.example.org", "192.168.1.5", "2001:db8::1", "xn--mnchen-3ya.example",
    ]  # fmt: skip
    wrong = [
        "*", "*.example.org", "https://example.org", "example.org:80", "example.org/", "a b", "a,b", "", ".", "a..b", "x" * 64,
        "0.0.0.0", "::", "a\n", "@", "-a", "\ud83d",
    ]  # fmt: skip
    for name in wrong:
        with pytest.raises(SettingError, match="is no name of one host"):
            allowed([name])
    monkeypatch.setattr(exploring, "serve", lambda *_: pytest.fail("it was served"))
    bad(capsys, "explore", "--no-browser", "--port", "0", "--allow-host", "https://example.org", says="--allow-host")
