"""Every error of this package, in one tree.

Each class carries the HTTP status it becomes, a stable ``reason`` that programs may compare, and whether a retry of the
same call can help. Nothing here imports Airflow; the edges (API, operators, CLI) translate.

::

    TimlError
    ├── InvalidInputError                400  the caller must change the request
    │   ├── InvalidModelError            422  the model's files were refused by inspection
    │   └── TooLargeError                413
    ├── UnauthorizedError                401
    ├── ForbiddenError                   403
    ├── NotFoundError                    404
    ├── ConflictError                    409  the state forbids it now
    ├── QueueFullError                   429  retry
    ├── NotReadyError                    503  retry
    ├── TimeoutExpiredError              504  retry
    ├── ServiceFailedError               500  a service reached FAILED while someone waited for it
    └── ExternalSystemError              502  COS, the artifact store, the gateway: retry
"""

from __future__ import annotations

from typing import Any, ClassVar

#: Metadata of a failed gRPC call with the error's ``reason``: one status stands for several errors.
REASON_METADATA = "x-timl-reason"


class TimlError(Exception):
    """Root of the tree.

    :param message: one sentence for a person: what happened, in which state, what to do next.
    :param details: values a program may want (names, versions, limits); JSON-serialisable, never a secret.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details)
        self.message = message
        self.details = details or {}

    def __str__(self) -> str:
        return self.message


class InvalidInputError(TimlError):
    """A value in the request is wrong; ``field`` names it (a JSON path such as ``instances[0].x1``)."""

    status = 400
    reason = "invalid_input"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message, {"field": field} if field else None)
        self.args = (message, field)


class InvalidModelError(InvalidInputError):
    """Inspection refused the model's files."""

    status = 422
    reason = "invalid_model"


class TooLargeError(InvalidInputError):
    """The body or a file is over a limit."""

    status = 413
    reason = "too_large"


class UnauthorizedError(TimlError):
    """No valid login or key."""

    status = 401
    reason = "unauthorized"


class ForbiddenError(TimlError):
    """Logged in, but not allowed."""

    status = 403
    reason = "forbidden"


class NotFoundError(TimlError):
    """``kind`` ('model', 'service', ...) ``name`` does not exist. ``known``: what there is instead."""

    status = 404
    reason = "not_found"

    def __init__(self, kind: str, name: str, known: str = "") -> None:
        instead = f"; there is {known}" if known else ""
        super().__init__(f"{kind} {name!r} does not exist{instead}", {"kind": kind, "name": name})
        self.args = (kind, name, known)


class ConflictError(TimlError):
    """The present state forbids the change; the message says which state and what would allow it."""

    status = 409
    reason = "conflict"


class QueueFullError(TimlError):
    """The model server has as many requests waiting as it may."""

    status = 429
    reason = "queue_full"
    retryable = True


class NotReadyError(TimlError):
    """Starting, draining, or without a ready instance."""

    status = 503
    reason = "not_ready"
    retryable = True


class TimeoutExpiredError(TimlError):
    """The work or the wait took longer than allowed."""

    status = 504
    reason = "timeout"
    retryable = True


class ServiceFailedError(TimlError):
    """A service version is FAILED; the message carries its reason and the last log lines."""

    reason = "service_failed"


class ExternalSystemError(TimlError):
    """Something we depend on (COS, artifact store, gateway) did not answer as it must."""

    status = 502
    reason = "external_system"
    retryable = True


def find_class(reason: str) -> type[TimlError] | None:
    """The class with that ``reason``, for clients that read errors off the wire."""
    kinds: list[type[TimlError]] = [TimlError]
    for kind in kinds:
        if kind.reason == reason:
            return kind
        kinds.extend(kind.__subclasses__())
    return None
