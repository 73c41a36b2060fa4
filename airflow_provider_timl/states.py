"""States that outsiders see, and which of them are final for someone who waits."""

from __future__ import annotations

from enum import Enum


class _State(str, Enum):
    """An enum whose members print and serialise as their value (``StrEnum`` needs Python 3.11)."""

    __str__ = str.__str__


class ServiceState(_State):
    """State of a whole service, derived from its versions by the controller."""

    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    DELETING = "DELETING"
    DELETED = "DELETED"


class ServiceVersionState(_State):
    """State of one version inside a service."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


class ModelSource(_State):
    """How a model version came into the repository."""

    SAVED = "saved"
    IMPORTED = "imported"
