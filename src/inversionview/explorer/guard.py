"""Who may ask, and how: this server's own pages and whoever names it rightly; headers that keep the page to itself."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Iterable

from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inversionview.explorer.problems import API
from inversionview.page.bundle import STATIC

_INLINE = " ".join(re.findall("'sha256-[^']*'", (STATIC / "index.html").read_text(encoding="utf-8")))
"""Hash of the page's one script that is no file: behind a proxy that left out the last slash, it puts it there."""
LOCAL = ("localhost", "127.0.0.1", "::1")
METHODS = "GET, HEAD, OPTIONS"
HEADERS = {
    "Content-Security-Policy": f"default-src 'self'; script-src 'self' {_INLINE}; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_HOST = re.compile(r"(?:\[(?P<inner>[0-9a-f:.]+)\]|(?P<name>[0-9a-z._-]+))(?::[0-9]{1,5})?", re.ASCII)
_NAME = re.compile(r"[0-9a-z_]([0-9a-z_-]*[0-9a-z_])?(\.[0-9a-z_]([0-9a-z_-]*[0-9a-z_])?)*", re.ASCII)
_IGNORED = (b"range", b"if-range")
"""Files are small and are sent whole."""
_TOLD = 20
"""Names that are told of, at most."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Guard:
    """Turns away requests for other hosts, from other sites, of other methods, and those with a body.

    The host's name has to be one of this server's, letter by letter, against DNS rebinding; where it listens everywhere, any
    address will do, for no name in the DNS is one. Where a request comes from, as browsers say it, has to be this server; only
    the page itself may be opened from anywhere. Whoever says nothing of that is no browser.

    Args:
        app: what answers the others.
        hosts: names and addresses of this server.
        proxies: of proxies before it, as ``host_name`` gives them. These may call the server by their own name or by one of
            its names; what their pages ask comes from the page itself.
        foreign: is told of each other name by which the server was called, once, if it is one of a host.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str],
        proxies: Iterable[str] = (),
        foreign: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.app, self.foreign = app, foreign
        self.told: set[str] = set()
        self.proxies = {address(name) or name for name in proxies}
        self.hosts = {address(host) or host.lower() for host in hosts} | self.proxies
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
            return _problem(400, self._foreign(hosts, _own(scope)))
        if not self._at_home(scope, headers, hosts[0]):
            more = self._allowing(origin.partition("://")[2]) if (origin := headers.get("origin")) else ""
            return _problem(403, f"Pages of other sites may not ask this server: open the page itself, {_own(scope)}{more}.")
        if scope["method"] not in METHODS.split(", "):
            said = f"There is no {scope['method'][:20]} here: ask by GET."
            return _problem(405, said, {"Allow": METHODS})
        if "transfer-encoding" in headers or headers.get("content-length", "0").strip("0"):
            return _problem(400, "Requests have no body here: leave it out.", {"Connection": "close"})
        return None

    def _foreign(self, hosts: list[str], own: str) -> str:
        """Return what is said to who calls the server by a name that is not its own, and tell of that name."""
        if len(hosts) != 1:
            return f"This server is not called by {len(hosts)} host names: open it by the address that it prints, {own}."
        return f"This server is not {hosts[0][:200]!r}: open it by the address that it prints, {own}{self._allowing(hosts[0])}."

    def _allowing(self, host: str) -> str:
        """Return what is added to a refusal: how to allow a proxy of that name, which is told of; nothing if it is none."""
        number = _named(host)
        name = None if number is None else host_name(str(number))
        if name is None:
            return ""
        if name not in self.told and len(self.told) < _TOLD:
            self.told.add(name)
            self.foreign(name)
        return f", or, if that is your proxy, start it with --allow-host {name}"

    def _ours(self, host: str) -> bool:
        name = _named(host)
        return name in self.hosts or (name is not None and not isinstance(name, str) and self.everywhere)

    def _at_home(self, scope: Scope, headers: Headers, host: str) -> bool:
        """Return whether a request comes from this server's own page, from its user, or from no browser at all."""
        origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
        if not all(self._own_page(origin.lower(), host.lower()) for origin in origins):
            return False
        visit = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        opened = visit and not origins and scope["method"] in ("GET", "HEAD") and scope["path"] in ("/", "/index.html")
        return opened or all(site in ("same-origin", "none") for site in sites)

    def _own_page(self, origin: str, host: str) -> bool:
        """Return whether an origin is where the page came from: the host that was asked, or a proxy before it."""
        scheme, _, name = origin.partition("://")
        return scheme in ("http", "https") and (name == host or _named(name) in self.proxies)


def address(name: str) -> Address | None:
    """Return the IP address that a name is, ``None`` where it is none."""
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def host_name(text: str) -> str | None:
    """Return the name or address of a single host as browsers send it, without a port; ``None`` where a text is none.

    Names are lower case and of ASCII (``münchen.example`` is ``xn--mnchen-3ya.example``); the address that stands for all is
    that of no host.
    """
    number = address(text)
    if number is not None:
        return None if number.is_unspecified else str(number)
    try:
        name = text.encode("idna").decode().lower()
    except UnicodeError:
        return None
    return name if len(name) < 254 and _NAME.fullmatch(name) else None


def _named(host: str) -> Address | str | None:
    """Return the name or the address in a header such as ``localhost:8642``; ``None`` where it holds none."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return None
    number = address(found["inner"] or found["name"])
    if found["inner"] is not None and not isinstance(number, ipaddress.IPv6Address):
        return None
    return number or found["name"]


def _own(scope: Scope) -> str:
    """Return the address at which a request has arrived."""
    host, port = scope.get("server") or ("127.0.0.1", None)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}/" if port in (None, 80) else f"http://{name}:{port}/"


def _problem(status: int, said: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": said}, status, headers)
