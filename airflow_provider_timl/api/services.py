"""Routes of model services. A change answers at once, or with ``?wait=`` when the gateway serves it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, status
from fastapi.concurrency import run_in_threadpool

from airflow_provider_timl.api.access import READ, WRITE, Actor
from airflow_provider_timl.api.bodies import (
    AddVersion,
    CreateService,
    Limit,
    Listing,
    Offset,
    Rollback,
    ServicePath,
    SetTraffic,
    TestService,
    VersionPath,
    Wait,
)
from airflow_provider_timl.api.context import Context
from airflow_provider_timl.api.service_test import send_test_request
from airflow_provider_timl.api.waiting import wait_for_deletion, wait_for_service
from airflow_provider_timl.entities import LogChunk, Revision, Service, TestAnswer

router = APIRouter(tags=["services"])


@router.get("/services", dependencies=[READ])
def list_services(context: Context, limit: Limit = 100, offset: Offset = 0) -> Listing[Service]:
    """Services by name."""
    services, total = context.registry.list_services(limit, offset)
    return Listing(items=services, total=total, limit=limit, offset=offset)


@router.post("/services", dependencies=WRITE, status_code=status.HTTP_201_CREATED)
async def create_service(body: CreateService, actor: Actor, context: Context, wait: Wait = 0) -> Service:
    """Deploy a model version as a new service; it gets all traffic once it is ready."""
    service = await run_in_threadpool(context.registry.create_service, actor=actor, **dict(body))
    return await wait_for_service(context.registry, service, wait)


@router.get("/services/{service}", dependencies=[READ])
def get_service(service: ServicePath, context: Context) -> Service:
    return context.registry.get_service(service)


@router.get("/services/{service}/sync", dependencies=[READ])
async def wait_until_in_sync(service: ServicePath, context: Context, wait: Wait = 0) -> Service:
    """The service, once the gateway serves exactly what is wanted; 504 with the actual state when not in time."""
    return await wait_for_service(
        context.registry, await run_in_threadpool(context.registry.get_service, service), wait
    )


@router.delete("/services/{service}", dependencies=WRITE)
async def delete_service(service: ServicePath, actor: Actor, context: Context, wait: Wait = 0) -> Service:
    """Stop serving; the history stays."""
    deleting = await run_in_threadpool(context.registry.delete_service, name=service, actor=actor)
    return await wait_for_deletion(context.registry, deleting, wait)


@router.post("/services/{service}/versions", dependencies=WRITE, status_code=status.HTTP_201_CREATED)
async def add_version(
    service: ServicePath, body: AddVersion, actor: Actor, context: Context, wait: Wait = 0
) -> Service:
    """Add a version beside the others, with 0 % of the traffic."""
    changed = await run_in_threadpool(context.registry.add_version, name=service, actor=actor, **dict(body))
    return await wait_for_service(context.registry, changed, wait)


@router.delete("/services/{service}/versions/{version}", dependencies=WRITE)
async def remove_version(
    service: ServicePath, version: VersionPath, actor: Actor, context: Context, wait: Wait = 0
) -> Service:
    """Stop a version that has no traffic."""
    changed = await run_in_threadpool(context.registry.remove_version, name=service, version=version, actor=actor)
    return await wait_for_service(context.registry, changed, wait)


@router.put("/services/{service}/traffic", dependencies=WRITE)
async def set_traffic(
    service: ServicePath, body: SetTraffic, actor: Actor, context: Context, wait: Wait = 0
) -> Service:
    """Split the traffic between the versions."""
    changed = await run_in_threadpool(context.registry.set_traffic, name=service, actor=actor, **dict(body))
    return await wait_for_service(context.registry, changed, wait)


@router.post("/services/{service}/rollback", dependencies=WRITE)
async def rollback(service: ServicePath, body: Rollback, actor: Actor, context: Context, wait: Wait = 0) -> Service:
    """Go back to what a revision wanted, as a new revision."""
    changed = await run_in_threadpool(context.registry.rollback, name=service, actor=actor, **dict(body))
    return await wait_for_service(context.registry, changed, wait)


@router.get("/services/{service}/revisions", dependencies=[READ])
def list_revisions(service: ServicePath, context: Context, limit: Limit = 100, offset: Offset = 0) -> Listing[Revision]:
    """Revisions, newest first."""
    revisions, total = context.registry.list_revisions(service, limit, offset)
    return Listing(items=revisions, total=total, limit=limit, offset=offset)


@router.get("/services/{service}/logs", dependencies=[READ])
def read_logs(
    service: ServicePath,
    context: Context,
    version: Annotated[int | None, Query(ge=1)] = None,
    max_bytes: Annotated[int, Query(ge=1, le=1024 * 1024)] = 16 * 1024,
) -> list[LogChunk]:
    """The end of each instance's log, newest first."""
    context.registry.get_service(service)
    return context.logs.read_logs(service, version, max_bytes)


@router.post("/services/{service}/test", dependencies=WRITE)
def test_service(service: ServicePath, body: TestService, context: Context) -> TestAnswer:
    """Send a prediction through the gateway, as a caller would."""
    return send_test_request(context, service, body.body, body.version)
