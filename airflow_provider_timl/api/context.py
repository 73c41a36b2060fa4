"""What the handlers work with: built once a process, at the first request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from airflow_provider_timl import config
from airflow_provider_timl.backends.contract import LogReader
from airflow_provider_timl.backends.local.logs import LocalLogs
from airflow_provider_timl.database.migrate import find_missing_migrations
from airflow_provider_timl.database.sessions import Database
from airflow_provider_timl.exceptions import NotReadyError
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.services.registry import ServiceRegistry
from airflow_provider_timl.settings import Settings


@dataclass(frozen=True)
class ServerContext:
    """``build_s3_client`` makes a client from the id of an Airflow connection."""

    settings: Settings
    repository: ModelRepository
    registry: ServiceRegistry
    logs: LogReader
    build_s3_client: Callable[[str], Any]


class ContextHolder:
    """Builds the context at its first use; until the database is migrated, every use says so."""

    def __init__(self, build: Callable[[], ServerContext]) -> None:
        self._build = build
        self._context: ServerContext | None = None
        self._lock = threading.Lock()

    def get(self) -> ServerContext:
        """:raises NotReadyError: the database is not at the newest migration."""
        with self._lock:
            if self._context is None:
                self._context = self._build()
            return self._context


def build_context() -> ServerContext:
    """From Airflow's configuration."""
    settings = config.get_settings()
    if find_missing_migrations(settings.database_url):
        raise NotReadyError("the database is not at the newest version; run `airflow timl db upgrade`")
    database = Database(settings.database_url)
    repository = config.build_repository(settings, database)
    return ServerContext(
        settings=settings,
        repository=repository,
        registry=config.build_registry(settings, database, repository),
        logs=LocalLogs(settings),
        build_s3_client=config.build_s3_client,
    )


def get_context(request: Request) -> ServerContext:
    holder: ContextHolder = request.app.state.context
    return holder.get()


Context = Annotated[ServerContext, Depends(get_context)]
