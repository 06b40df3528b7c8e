"""The explorer's server is closed to others, answers everything with a sentence, and is kept from nobody by slow clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

import inversionview as iv
from inversionview.explorer.app import STATIC, create_app
from inversionview.explorer.command import bound, shown
from inversionview.explorer.connections import Connection, settings
from inversionview.explorer.guard import HEADERS
from inversionview.explorer.queue import WorkQueue
from inversionview.studies.load import keep
from tests.test_explorer_api import ADD, API, Served, wait_for

ONE = f"{API}/studies/addition"
PLUS = ADD.replace("+", "%2B")
CHEAP = ["/healthz", f"{API}/healthz", f"{API}/studies", ONE, f"{ONE}/place?text={PLUS}", f"{API}/openapi.json"]
WORK = [
    f"{ONE}/{what}text={PLUS}"
    for what in (
        "random?", "attention?site=a0.0&", "read?", "read?source=walk&seconds=60&", "map?", "map?kind=ratio&", "patch?",
        "complete?", "interpret?",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    """Addition as a run with a small bank."""
    folder = tmp_path_factory.mktemp("served") / "addition"
    shipped = iv.load("addition")
    iv.build_bank(shipped, folder / "bank", rows=2000, positions=["=", "A1"], sites="a0.*")
    keep(shipped, folder)
    return iv.load(folder)


@pytest.fixture(scope="module")
def client(run: iv.Study) -> Iterator[TestClient]:
    with TestClient(create_app({"addition": lambda: run}), base_url="http://localhost") as made:
        made.get(f"{API}/studies")
        yield made


@pytest.fixture(scope="module")
def served(run: iv.Study) -> Iterator[Served]:
    with Served({"addition": run}, WorkQueue(), http=Hasty) as made:
        yield made


def problem(answer: httpx.Response, code: int) -> str:
    """Return the one sentence of an error."""
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["detail"]
    detail = str(answer.json()["detail"])
    assert len(detail.splitlines()) == 1
    assert detail[-1] in ".?/", detail
    for name in HEADERS:
        assert name in answer.headers
    return detail


# -- names of the host ------------------------------------------------------------------------------------------------

FOREIGN = [
    "evil.example", "localhost.evil.com", "127.0.0.1.evil.com", "LocalHost.evil.com", "localhost:1@evil", "localhost:80:80",
    "127.0.0.1x", "localhost.", "127.0.0.1.", "localhost.:8642", ".localhost", "xlocalhost", "localhost:", "localhost:x",
    "localhost:123456", "localhost evil", "localhost/", "localhost#", "localhost\\", "localhost,evil.com", "evil.com,localhost",
    "127.1", "127.0.0.2", "127.0.0.01", "0x7f.0.0.1", "2130706433", "0.0.0.0", "[::1", "::1", "[::1]x", "[::1].evil.com",
    "[::2]", "[::]", "[::ffff:127.0.0.1]", "[::1%lo]", "[127.0.0.1]", "[localhost]", "[]", "[::1]:", "", " ", "user@localhost",
    "local\u00adhost", "ⅼocalhost".encode().decode("latin-1"), "localhost\tx",
]  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_names_are_turned_away(client: TestClient, host: str) -> None:
    answer = client.get(f"{API}/healthz", headers={"Host": host.encode("latin-1")})  # type: ignore[dict-item]
    assert "open it by the address that it prints, http://" in problem(answer, 400)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "LocalHost", "127.0.0.1:8642", "[::1]", "[::1]:8642", "[0:0:0:0:0:0:0:1]:1"]
)
def test_its_own_names_are_known(client: TestClient, host: str) -> None:
    assert client.get(f"{API}/healthz", headers={"Host": host}).status_code == 200


def test_one_name_and_no_more(client: TestClient) -> None:
    for hosts in ([("Host", "localhost"), ("Host", "evil.com")], [("Host", "localhost"), ("Host", "localhost")]):
        assert "2 host names" in problem(client.get("/", headers=hosts), 400)


@pytest.mark.parametrize(
    ("hosts", "known", "foreign"),
    [
        (["0.0.0.0", "0.0.0.0"], ["192.168.1.5:8642", "10.0.0.1", "[fe80::1]", "localhost"], ["evil.com", "1.2.3.4.evil.com"]),
        (["::", "::"], ["192.168.1.5", "[2001:db8::1]:80"], ["evil.com", "mine.lan"]),
        (["mine.lan", "192.168.1.5"], ["mine.lan", "MINE.lan:1", "192.168.1.5", "127.0.0.1"],
         ["mine.lan.evil.com", "192.168.1.6", "evil.com", "lan"]),
        (["2001:db8::1", "2001:db8::1"], ["[2001:db8::1]:8642", "[2001:0DB8::0:1]"], ["[2001:db8::2]", "192.168.1.5"]),
    ],
)  # fmt: skip
def test_where_it_listens_for_others(hosts: list[str], known: list[str], foreign: list[str]) -> None:
    """As ``explore`` gives them: what was asked for, and the address that was bound."""
    client = TestClient(create_app({}, hosts=hosts), base_url="http://localhost")
    for host in known:
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
    for host in foreign:
        problem(client.get("/healthz", headers={"Host": host}), 400)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "0", "::", "::1"])
def test_the_address_that_is_printed_is_its_own(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("This machine has no IPv6.")
    with bound(host, 0) as listening:
        address = httpx.URL(shown(host, listening))
        socket.create_connection((address.host, address.port or 80), timeout=20).close()
        client = TestClient(create_app({}, hosts=[host, listening.getsockname()[0]]), base_url="http://localhost")
        assert client.get("/healthz", headers={"Host": address.netloc.decode()}).status_code == 200


# -- from where -------------------------------------------------------------------------------------------------------

VISIT = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "x", ""])
def test_pages_of_other_sites_may_not_ask(client: TestClient, monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(WorkQueue, "submit", lambda *a, **k: begun.append(1))
    for path in (*CHEAP, *WORK, "/app.js"):
        for more in ({}, VISIT, {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}):
            said = problem(client.get(path, headers={"Sec-Fetch-Site": site, **more}), 403)
            assert "open the page itself, http://" in said
    for more in ({"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Mode": "cors"}, {}):
        problem(client.get("/", headers={"Sec-Fetch-Site": site, **more}), 403)
    assert client.get("/", headers={"Sec-Fetch-Site": site, **VISIT}).status_code == 200  # a link to the page
    assert begun == []


def test_its_own_page_its_user_and_scripts_may(client: TestClient) -> None:
    for headers in ({}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none", **VISIT}, {"Origin": "http://localhost"}):
        for path in ("/", "/app.js", f"{API}/healthz", f"{ONE}/place?text={PLUS}"):
            assert client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://localhost.evil.com", "http://localhost:3000", "file://", "localhost"]
)
def test_origins_of_others_are_turned_away(client: TestClient, origin: str) -> None:
    for path in ("/", f"{API}/studies", *WORK):
        answer = client.get(path, headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"})
        problem(answer, 403)
        assert "access-control-allow-origin" not in answer.headers


# -- methods ----------------------------------------------------------------------------------------------------------


def test_head_is_get_without_a_body_and_without_work(
    served: Served, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    submit = WorkQueue.submit
    monkeypatch.setattr(WorkQueue, "submit", lambda *a, **k: (begun.append(1), submit(*a, **k))[1])
    files = ["/", *(f"/{path.name}" for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html"))]
    web = httpx.Client(base_url=served.url.removesuffix(API), timeout=60)
    for path in (*CHEAP, *files, "/nowhere", f"{API}/nowhere", f"{API}/studies/nowhere", f"{ONE}/place?text="):
        head, whole = web.head(path), web.get(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        for name in ("content-type", "content-length", "content-encoding", "etag", *HEADERS):
            assert head.headers.get(name) == whole.headers.get(name), (path, name)
    assert begun == []
    for path in WORK:
        head = web.head(path)
        assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "application/json")
        assert "content-length" not in head.headers
    stream = web.head(WORK[2], headers={"Accept": "text/event-stream"})
    assert (stream.status_code, stream.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    assert web.head(f"{ONE}/read?text={PLUS}&count=0").status_code == 422
    assert begun == []


@pytest.mark.parametrize("path", ["/", "/app.js", f"{API}/studies", f"{ONE}/read?text={PLUS}", "/nowhere"])
def test_other_methods_are_told_which_there_are(client: TestClient, path: str) -> None:
    answer = client.options(path)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, "GET, HEAD, OPTIONS", b"")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "get"):
        answer = client.request(method, path) if method != "get" else client.request("PURGE", path)
        assert "ask by GET" in problem(answer, 405)
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


# -- fairness ---------------------------------------------------------------------------------------------------------


def opened(served: Served, request: str) -> socket.socket:
    port = int(served.url.split(":")[2].split("/")[0])
    made = socket.create_connection(("127.0.0.1", port), timeout=60)
    made.sendall(request.encode("latin-1"))
    return made


@pytest.mark.parametrize("clients", [20, 1])
def test_a_corpus_read_comes_before_twenty_walks_end(served: Served, clients: int) -> None:
    """Of as many clients, or of one; the walks take a minute each, and all of them are still there afterwards."""
    head = "Host: localhost\r\nAccept: text/event-stream\r\n"
    with ExitStack() as stack:
        for number in range(20):
            path = f"{ONE}/read?text={PLUS}&source=walk&seconds=60&seed={number}"
            request = f"GET {path} HTTP/1.1\r\n{head}X-Client: {number % clients}\r\n\r\n"
            stack.enter_context(opened(served, request))
        begun = served.queue
        assert served.wait(lambda: begun.running >= min(clients, 2) and begun.running + begun.waiting >= 10, 60)
        asked = {"text": ADD, "at": "=", "site": "a0.0", "source": "corpus", "count": 10}
        for number in range(5):
            answer = httpx.get(f"{served.url}/studies/addition/read", params=asked, headers={"X-Client": "me"}, timeout=60)
            assert answer.status_code == 200, number
        assert begun.running + begun.waiting >= 10
    assert served.wait(served.idle, 60)


@pytest.mark.parametrize("deaf", [True, False])
def test_who_waits_when_it_ends_is_told(run: iv.Study, monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    """One waits for what is under way, which may look up from its work or not, and one for what has not begun."""
    held, begun = threading.Event(), threading.Event()

    def bits_map(*_: object, report: Callable[..., None], **__: object) -> None:
        begun.set()
        while not held.wait(0.01):
            if not deaf:
                report(0.1)

    monkeypatch.setattr("inversionview.explorer.answers.maps.bits_map", bits_map)
    queue = WorkQueue()
    with Served({"addition": run}, queue) as made, ExitStack() as stack:
        request = f"GET {ONE}/map?text={PLUS} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        first = stack.enter_context(opened(made, request))
        assert begun.wait(60)
        second = stack.enter_context(opened(made, request))
        assert made.wait(lambda: queue.waiting + queue.running >= 2, 60)
        made.end()
        answers = [connection.makefile("rb").read().decode() for connection in (first, second)]
        held.set()
    for answer in answers:
        assert answer.startswith("HTTP/1.1 503")
        assert json.loads(answer.rpartition("\r\n")[2])["detail"]


# -- slow clients -----------------------------------------------------------------------------------------------------


class Quick(Connection):
    """Deadlines that a test can wait for."""

    head, stalled, most = 0.4, 0.4, 4
    paused: ClassVar[set[int]] = set()
    """Ports of clients that do not read."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.paused.add(self.client[1] if self.client else 0)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.paused.discard(self.client[1] if self.client else 0)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.paused.discard(self.client[1] if self.client else 0)


class Hasty(Connection):
    """Closes a connection soon after its last answer."""

    head = 0.1


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with as many bytes as the path says, after as many tenths of a second as the query says."""
    await asyncio.sleep(int(scope["query_string"] or b"0") / 10)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(scope["path"].strip("/") or 0)):
        await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})


@pytest.fixture(scope="module")
def quick() -> Iterator[int]:
    """The port of a server with short deadlines."""
    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(settings(_app, http=Quick, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def until_closed(connection: socket.socket, drip: bytes = b"") -> bytes:
    """Return all that comes until the server closes, sending a byte again and again; fail where it never does."""
    got, end = b"", time.monotonic() + 30
    connection.settimeout(0.05)
    while time.monotonic() < end:
        try:
            if drip:
                connection.sendall(drip)
            part = connection.recv(2**20)
        except TimeoutError:
            continue
        except OSError:
            return got
        if not part:
            return got
        got += part
    raise AssertionError("The connection is still open.")


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"G", b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
        (b"GET /", b"x"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET", b"x"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_who_is_slow_to_ask_is_closed(quick: int, sent: bytes, drip: bytes) -> None:
    with socket.create_connection(("127.0.0.1", quick)) as connection:
        connection.sendall(sent)
        got = until_closed(connection, drip)
    assert (b"end" in got) == (b"\r\n\r\n" in sent)  # whose head had come was answered first


def test_who_does_not_read_is_closed(quick: int) -> None:
    """There is more than the buffers of both ends hold."""
    with socket.create_connection(("127.0.0.1", quick)) as connection:
        connection.sendall(b"GET /5000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wait_for(lambda: Quick.paused == {connection.getsockname()[1]}, 30)
        assert wait_for(lambda: Quick.paused == set(), 30)
        got = until_closed(connection)
    assert len(got) < 50_000_000


def test_who_reads_slowly_has_it_all(quick: int) -> None:
    with socket.create_connection(("127.0.0.1", quick)) as connection:
        connection.sendall(b"GET /1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got, end = 0, b""
        while end[-8:] != b"end\r\n0\r\n":
            part = connection.recv(300_000)
            assert part
            got, end = got + len(part), (end + part)[-12:].removesuffix(b"\r\n")
            time.sleep(0.01)
        assert got > 10_000_000


def test_who_waits_for_an_answer_is_not_closed(quick: int) -> None:
    assert httpx.get(f"http://127.0.0.1:{quick}/?15", timeout=20).text == "end"  # thrice as long as the deadline


def test_there_is_room_for_one_more(quick: int) -> None:
    """Idle connections, more than are let in, and then a request."""
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", quick))) for _ in range(20)]
        assert httpx.get(f"http://127.0.0.1:{quick}/", timeout=20).text == "end"
        until_closed(idle[0])


# -- what a client may send -------------------------------------------------------------------------------------------

LINE = f"GET {API}/healthz HTTP/1.1\r\nHost: localhost\r\n"
READ = f"GET {ONE}/read?text={PLUS}&site=a0.0&count=3&source=corpus"
RAW = {
    "no HTTP": "hello\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.0": f"GET {API}/healthz HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "HTTP/1.0 without a host": f"GET {API}/healthz HTTP/1.0\r\n\r\n",
    "HTTP/1.1 without a host": f"GET {API}/healthz HTTP/1.1\r\n\r\n",
    "HTTP/0.9": "GET /\r\n\r\n",
    "two hosts": f"{LINE}Host: localhost\r\n\r\n",
    "a huge header": f"{LINE}X: {'x' * 200_000}\r\n\r\n",
    "many headers": LINE + "".join(f"X{i}: x\r\n" for i in range(3000)) + "\r\n",
    "a huge address": f"GET {API}/healthz?{'x' * 200_000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long address": f"GET /{'x' * 30_000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long study": f"GET {API}/studies/{'x' * 30_000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a deep address": f"GET /{'x/' * 10_000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a whole address": "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another's address": "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy": "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a star": "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "get of a star": "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nul": "GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nul in a file": "GET /app%00.js HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nul in a study": f"GET {API}/studies/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a character": f"GET {API}/studies/%ED%A0%BD HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a file": "GET /%ED%A0%BD%FF HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no UTF-8": f"GET {ONE}/place?text=%FF%FE HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a quote": f"GET {ONE}/place?text=%F HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes in the address": f"GET {API}/studies/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes in a header": f"{LINE}X-Client: \xff\xfe\r\n\r\n",
    "line breaks in the address": f"GET {API}/studies/%0d%0aX:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "line breaks in the text": f"GET {ONE}/place?text=1%0a2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "up": "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "quoted up": "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "back up": "GET /..%5c..%5cwindows HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two slashes": "GET //evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a slash behind": f"GET {API}/studies/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a range": "GET /app.js HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-10\r\n\r\n",
    "ranges": "GET /app.js HTTP/1.1\r\nHost: localhost\r\nRange: bytes=" + "0-1," * 5000 + "5-\r\n\r\n",
    "no range": "GET /app.js HTTP/1.1\r\nHost: localhost\r\nRange: bytes=999999-,x\r\n\r\n",
    "an odd accept": f"{READ} HTTP/1.1\r\nHost: localhost\r\nAccept: ;;q=x,,/\r\n\r\n",
    "accepts nothing": f"{READ} HTTP/1.1\r\nHost: localhost\r\nAccept: image/png\r\n\r\n",
    "no accept": f"{READ} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "odd encodings": "GET /app.js HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip;q=0, br, \xff, *;q=x\r\n\r\n",
    "an odd date": "GET /app.js HTTP/1.1\r\nHost: localhost\r\nIf-Modified-Since: Mon, 99 Xyz 99999999999\r\n\r\n",
    "a body": f"{LINE}Content-Length: 5\r\n\r\nhello",
    "an empty body": f"{LINE}Content-Length: 0\r\n\r\n",
    "a huge body": f"{LINE}Content-Length: 999999999999\r\n\r\nhello",
    "a negative body": f"{LINE}Content-Length: -1\r\n\r\n",
    "chunks": f"{LINE}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "broken chunks": f"{LINE}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunks of a stream": f"{READ} HTTP/1.1\r\nHost: localhost\r\n"
    "Accept: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "both lengths": f"{LINE}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an odd coding": f"{LINE}Transfer-Encoding: gzip\r\n\r\n",
    "expects": f"{LINE}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "an upgrade": f"{LINE}Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "upgrade to HTTP/2": f"{LINE}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
    "one after another": f"{LINE}\r\n{READ} HTTP/1.1\r\nHost: localhost\r\n\r\n{LINE}\r\n",
    "one after another, the last bad": f"{LINE}\r\n{READ} HTTP/1.1\r\nHost: localhost\r\n\r\nnonsense\r\n\r\n",
    "a folded header": f"{LINE}X: 1\r\n 2\r\n\r\n",
    "a space before the colon": f"{LINE}X : 1\r\n\r\n",
    "an odd method": "G\x00T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a small method": "get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_whatever_is_sent_is_answered_with_a_sentence(served: Served, name: str) -> None:
    """No 5xx, no hang, no traceback: every answer is a success or one sentence as JSON."""
    with opened(served, RAW[name]) as connection:
        got = until_closed(connection)
    assert got.startswith(b"HTTP/1.1 "), got[:100]
    for answer in got.split(b"HTTP/1.1 ")[1:]:
        head, _, body = answer.partition(b"\r\n\r\n")
        code = int(head[:3])
        assert code < 500, got
        if code >= 400:
            detail = json.loads(body)["detail"]
            assert b"content-type: application/json" in head.lower()
            assert len(detail.splitlines()) == 1
            assert detail[-1] in ".?/"
    assert httpx.get(f"{served.url}/healthz").status_code == 200
