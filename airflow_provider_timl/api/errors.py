"""One shape for every error: ``{"error": {"reason", "message", "details"}}`` with the status of its class.

Example of a refused body::

    400 {"error": {"reason": "invalid_input", "message": "instances: ...", "details": {"field": "instances"}}}
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from airflow_provider_timl.exceptions import TimlError

log = logging.getLogger(__name__)

_REASONS = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(TimlError, _answer_timl_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_unknown_error)


def build_answer(
    status: int, reason: str, message: str, details: dict[str, Any], headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"reason": reason, "message": message, "details": details}}, status, headers)


def _answer_timl_error(_: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, TimlError):
        raise exc
    headers = {"Retry-After": "1"} if exc.retryable else None
    return build_answer(exc.status, exc.reason, exc.message, exc.details, headers)


def _answer_validation_error(_: Request, exc: Exception) -> JSONResponse:
    """Names the first wrong field, and lists all. What was sent is not repeated: it may hold a secret."""
    if not isinstance(exc, RequestValidationError):
        raise exc
    problems = [{"field": _name(error["loc"]), "message": error["msg"]} for error in exc.errors()]
    first = problems[0]
    message = f"{first['field']}: {first['message']}"
    return build_answer(400, "invalid_input", message, {"field": first["field"], "errors": problems})


def _answer_http_error(_: Request, exc: Exception) -> JSONResponse:
    """Airflow's own refusals (no login, not allowed) and unknown paths."""
    if not isinstance(exc, HTTPException):
        raise exc
    reason = _REASONS.get(exc.status_code, "error")
    return build_answer(exc.status_code, reason, str(exc.detail), {}, dict(exc.headers or {}))


def _answer_unknown_error(request: Request, exc: Exception) -> JSONResponse:
    """A defect: the caller gets a number to find it by in the log, and nothing of what went wrong inside."""
    number = uuid4().hex[:12]
    log.error("error %s in %s %s", number, request.method, request.url.path, exc_info=exc)
    return build_answer(500, "internal", f"unexpected error {number}; the API server's log has the details", {})


def _name(location: tuple[int | str, ...]) -> str:
    """``body.traffic.1`` without the part that only says where in the request it stood."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])
