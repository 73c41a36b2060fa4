"""Puts the API together. Airflow mounts the app at ``/timl`` and runs its lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from airflow_provider_timl.api import events, gateway, keys, models, services
from airflow_provider_timl.api.access import READ
from airflow_provider_timl.api.context import ContextHolder, ServerContext, build_context
from airflow_provider_timl.api.errors import add_error_handlers
from airflow_provider_timl.provider_info import VERSION

API_PREFIX = "/api/v1"
_MOST_GATEWAY_CONNECTIONS = 256
_DESCRIPTION = (
    "Model repository and model services of airflow-provider-timl. Errors: {error: {reason, message, details}}."
)


def create_app(build: Callable[[], ServerContext] = build_context) -> FastAPI:
    """:param build: makes what the handlers work with, at the first request."""
    app = FastAPI(title="TIML", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan)
    app.state.context = ContextHolder(build)
    add_error_handlers(app)
    for router in (models.router, services.router, keys.router, events.router, _build_document_router(app)):
        app.include_router(router, prefix=API_PREFIX)
    app.include_router(gateway.router)
    return app


def build_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, as committed in ``docs/reference/openapi.json``."""
    return get_openapi(title="TIML", version=VERSION, description=_DESCRIPTION, routes=app.routes)


def _build_document_router(app: FastAPI) -> APIRouter:
    router = APIRouter()

    @router.get("/openapi.json", dependencies=[READ], include_in_schema=False)
    def get_document() -> dict[str, Any]:
        return build_document(app)

    return router


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Airflow runs it with its own: the connections to the gateway live as long as the server does."""
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=_MOST_GATEWAY_CONNECTIONS)) as client:
        app.state.gateway_client = client
        yield
