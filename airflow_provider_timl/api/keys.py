"""Routes of access keys. Secrets are answered only here, to those who may operate the service, and never cached."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

from airflow_provider_timl.api.access import READ, SECRET, WRITE, Actor
from airflow_provider_timl.api.bodies import CreateKey, ServicePath, SetKeyEnabled
from airflow_provider_timl.api.context import Context
from airflow_provider_timl.entities import AccessKey, AccessKeySecret

router = APIRouter(prefix="/services/{service}/keys", tags=["keys"])


@router.get("", dependencies=[READ])
def list_keys(service: ServicePath, context: Context) -> list[AccessKey]:
    """Keys without their secrets."""
    return context.registry.list_keys(service)


@router.post("", dependencies=WRITE, status_code=status.HTTP_201_CREATED)
def create_key(service: ServicePath, body: CreateKey, actor: Actor, context: Context) -> AccessKey:
    """Add a key; the others stay valid, so that callers can move over."""
    return context.registry.create_key(name=service, key_name=body.name, expires_at=body.expires_at, actor=actor)


@router.patch("/{key}", dependencies=WRITE)
def set_key_enabled(service: ServicePath, key: int, body: SetKeyEnabled, actor: Actor, context: Context) -> AccessKey:
    return context.registry.set_key_enabled(name=service, key_id=key, enabled=body.enabled, actor=actor)


@router.delete("/{key}", dependencies=WRITE, status_code=status.HTTP_204_NO_CONTENT)
def delete_key(service: ServicePath, key: int, actor: Actor, context: Context) -> Response:
    context.registry.delete_key(name=service, key_id=key, actor=actor)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get("/{key}/secret", dependencies=[SECRET])
def get_key_secret(service: ServicePath, key: int, context: Context, response: Response) -> AccessKeySecret:
    """A key with its secret."""
    response.headers["Cache-Control"] = "no-store"
    return context.registry.get_key_secret(service, key)
