"""Who may ask, and how: this server's own pages and whoever names it rightly; headers that keep the page to itself."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterable

from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inversionview.explorer.problems import API

LOCAL = ("localhost", "127.0.0.1", "::1")
METHODS = "GET, HEAD, OPTIONS"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_HOST = re.compile(r"(?:\[(?P<inner>[0-9a-f:.]+)\]|(?P<name>[0-9a-z._-]+))(?::[0-9]{1,5})?", re.ASCII)
_IGNORED = (b"range", b"if-range")
"""Files are small and are sent whole."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Guard:
    """Turns away requests for other hosts, from other sites, of other methods, and those with a body.

    The host's name has to be one of this server's, letter by letter, against DNS rebinding; where it listens everywhere, any
    address will do, for no name in the DNS is one. Where a request comes from, as browsers say it, has to be this server; only
    the page itself may be opened from anywhere. Whoever says nothing of that is no browser.

    Args:
        app: what answers the others.
        hosts: names and addresses of this server.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = {address(host) or host.lower() for host in hosts}
        self.everywhere = any(not isinstance(host, str) and host.is_unspecified for host in self.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if "accept-ranges" in headers:
                    headers["accept-ranges"] = "none"
            elif bodiless:
                message = {**message, "body": b""}
            await send(message)

        bodiless = scope["method"] == "HEAD"
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in _IGNORED]
        answer = self._refusal(scope)
        if answer is None and scope["method"] == "OPTIONS":
            answer = Response(status_code=204, headers={"Allow": METHODS})
        asked = "GET" if bodiless and not scope["path"].startswith(API) else scope["method"]  # a file's head is its GET's
        try:
            await (answer or self.app)({**scope, "method": asked}, receive, guarded)
        except asyncio.CancelledError:  # the server ends, and waits no longer for an answer
            if not begun:
                await _problem(503, "The server is shutting down.")(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return what is answered to a request that is turned away."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._ours(hosts[0]):
            name = repr(hosts[0][:200]) if len(hosts) == 1 else f"called by {len(hosts)} host names"
            return _problem(400, f"This server is not {name}: open it by the address that it prints, {_own(scope)}.")
        if not _at_home(scope, headers, hosts[0]):
            return _problem(403, f"Pages of other sites may not ask this server: open the page itself, {_own(scope)}.")
        if scope["method"] not in METHODS.split(", "):
            said = f"There is no {scope['method'][:20]} here: ask by GET."
            return _problem(405, said, {"Allow": METHODS})
        if "transfer-encoding" in headers or headers.get("content-length", "0").strip("0"):
            return _problem(400, "Requests have no body here: leave it out.", {"Connection": "close"})
        return None

    def _ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        number = address(found["inner"] or found["name"])
        if found["inner"] is not None and not isinstance(number, ipaddress.IPv6Address):
            return False
        return (number or found["name"]) in self.hosts or (number is not None and self.everywhere)


def address(name: str) -> Address | None:
    """Return the IP address that a name is, ``None`` where it is none."""
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _at_home(scope: Scope, headers: Headers, host: str) -> bool:
    """Return whether a request comes from this server's own page, from its user, or from no browser at all."""
    origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
    if any(origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}") for origin in origins):
        return False
    visit = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    opened = visit and not origins and scope["method"] in ("GET", "HEAD") and scope["path"] in ("/", "/index.html")
    return opened or all(site in ("same-origin", "none") for site in sites)


def _own(scope: Scope) -> str:
    """Return the address at which a request has arrived."""
    host, port = scope.get("server") or ("127.0.0.1", None)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}/" if port in (None, 80) else f"http://{name}:{port}/"


def _problem(status: int, said: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": said}, status, headers)
