"""``?wait=``: answers only when the gateway itself serves the change. Polls, and holds no thread while it waits."""

from __future__ import annotations

import asyncio
import time

from fastapi.concurrency import run_in_threadpool

from airflow_provider_timl.entities import Service
from airflow_provider_timl.exceptions import NotFoundError, TimeoutExpiredError
from airflow_provider_timl.services.registry import ServiceRegistry
from airflow_provider_timl.states import ServiceState, ServiceVersionState

_POLL_SECONDS = 0.1


async def wait_for_service(registry: ServiceRegistry, service: Service, timeout_seconds: float) -> Service:
    """The service when it is in sync.

    :param timeout_seconds: 0 answers ``service`` as it is.
    :raises ServiceFailedError: it, or one of its versions, is FAILED; with the last log lines.
    :raises TimeoutExpiredError: it was not in sync in time; with its actual state.
    """
    deadline = time.monotonic() + timeout_seconds
    while timeout_seconds and not service.in_sync:
        if _has_failed(service):
            raise await run_in_threadpool(registry.build_failure, service.name)
        _check_deadline(service, deadline, timeout_seconds)
        await asyncio.sleep(_POLL_SECONDS)
        service = await run_in_threadpool(registry.get_service, service.name)
    return service


async def wait_for_deletion(registry: ServiceRegistry, service: Service, timeout_seconds: float) -> Service:
    """The service when the gateway no longer serves it (state DELETED), or as it is without a wait."""
    deadline = time.monotonic() + timeout_seconds
    while timeout_seconds:
        try:
            service = await run_in_threadpool(registry.get_service, service.name)
        except NotFoundError:
            return service.model_copy(update={"state": ServiceState.DELETED, "in_sync": True})
        _check_deadline(service, deadline, timeout_seconds)
        await asyncio.sleep(_POLL_SECONDS)
    return service


def _has_failed(service: Service) -> bool:
    failed = any(version.state is ServiceVersionState.FAILED for version in service.versions)
    return failed or service.state is ServiceState.FAILED


def _check_deadline(service: Service, deadline: float, timeout_seconds: float) -> None:
    if time.monotonic() < deadline:
        return
    versions = ", ".join(f"version {version.version} is {version.state}" for version in service.versions)
    raise TimeoutExpiredError(
        f"service {service.name!r} is {service.state} after {timeout_seconds:g} s ({versions}); it goes on by itself. "
        "Is `airflow timl controller` running?",
        {"service": service.name, "state": service.state.value},
    )
