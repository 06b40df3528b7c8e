"""Every error as one JSON ``Problem``: a sentence that says what was wrong and the way out."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from inversionview.core.errors import InversionViewError
from inversionview.explorer.queue import BusyError, StoppedError, TimeUpError
from inversionview.page import contract

API = "/api/v1"
_PROBLEMS = {
    400: "The host name is not this server's, or the request has a body.",
    403: "A page of another site asks.",
    404: "There is no such study.",
    422: "Something that was asked for is not there or out of range.",
    429: "The queue is full: ask again after `Retry-After` seconds.",
    503: "The server is shutting down.",
    504: "The request took too long.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": contract.Problem, "description": said} for code, said in _PROBLEMS.items()
}
RESPONSES[429]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def sentence(error: BaseException) -> str:
    """Return what to tell a client of an error."""
    if isinstance(error, InversionViewError | BusyError):
        return " ".join(str(error).split())
    if isinstance(error, TimeUpError):
        during = f" ({error})" if str(error) else ""
        return f"The request took too long{during}: ask for less, or run `inversionview bank` first if it is a bank that lacks."
    if isinstance(error, StoppedError):
        return "The request was stopped."
    return f"The server could not go on ({type(error).__name__}): ask again."


def handle(app: FastAPI) -> None:
    """Have an application answer every error so."""
    app.add_exception_handler(InversionViewError, _problem(422))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(TimeUpError, _problem(504))
    app.add_exception_handler(StoppedError, _problem(503))
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(HTTPException, _missing)
    app.add_exception_handler(Exception, _problem(500))


def _problem(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: JSONResponse({"detail": sentence(error)}, status)


def _busy(request: Request, error: Exception) -> Response:
    assert isinstance(error, BusyError)
    return JSONResponse({"detail": sentence(error)}, 429, {"Retry-After": str(error.retry_after)})


def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said, path = error.detail, request.url.path
    if said == HTTPStatus(error.status_code).phrase:  # nobody has said it in a sentence
        what = f"There is nothing at {path[:200]!r}" if error.status_code == 404 else f"{said} at {path[:200]!r}"
        said = f"{what}: the page is at /, and {API}/openapi.json describes the rest."
    return JSONResponse({"detail": said}, error.status_code, error.headers)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg'][:1].lower()}{e['msg'][1:]}" for e in error.errors()]
    return JSONResponse({"detail": "; ".join(parts) + "."}, 422)
