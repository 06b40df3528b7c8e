"""An OpenAI-compatible server on loopback that answers as a script says: right, late, broken, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Reply:
    """One answer of the server.

    ``body`` is what the chat's message holds, or with ``raw`` the whole body; ``cut`` sends half of it and breaks off.
    """

    def __init__(
        self, body: str = "", *, status: int = 200, raw: bool = False, cut: bool = False, wait: float = 0.0,
        refusal: str | None = None, headers: dict[str, str] | None = None, usage: bool = True,
    ) -> None:  # fmt: skip
        self.body, self.status, self.raw, self.cut, self.wait = body, status, raw, cut, wait
        self.refusal, self.headers, self.usage = refusal, headers or {}, usage

    def encoded(self) -> bytes:
        if self.raw:
            return self.body.encode()
        message = {"role": "assistant", "content": self.body, "refusal": self.refusal}
        value: dict[str, Any] = {
            "id": "x", "object": "chat.completion", "created": 0, "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }  # fmt: skip
        if self.usage:
            value["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return json.dumps(value).encode()


class Scripted:
    """What the server was sent, and how it answers."""

    def __init__(self, script: Callable[[dict[str, Any], int], Reply]) -> None:
        self.script, self.lock = script, threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.at_once = self.most_at_once = 0
        self.url = ""

    def take(self, body: dict[str, Any], key: str) -> Reply:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            number = len(self.bodies)
        return self.script(body, number)


@contextmanager
def serving(script: Callable[[dict[str, Any], int], Reply]) -> Iterator[Scripted]:
    state = Scripted(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                reply = state.take(body, self.headers.get("Authorization", ""))
                time.sleep(reply.wait)
                data = reply.encoded()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if reply.cut else data)
                if reply.cut:
                    self.close_connection = True
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked has gone
            finally:
                with state.lock:
                    state.at_once -= 1

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def form(body: dict[str, Any]) -> str:
    """Return which form a request asks for."""
    return str(body["response_format"]["json_schema"]["name"])


def sensible(body: dict[str, Any], number: int = 0) -> Reply:
    """Answer in the form that is asked for."""
    user = body["messages"][1]["content"]
    if form(body) == "Statement":
        return Reply(json.dumps({"statement": "The hundreds digits are those of the query.", "varies": "the rest"}))
    if form(body) == "Summary":
        return Reply(json.dumps({"summary": "The hundreds digits in either order."}))
    count = user.count("\n") - user[: user.index("inputs:")].count("\n") - 2
    return Reply(json.dumps({"guesses": [{"input": i, "probability": 0.5} for i in range(1, count + 1)]}))
