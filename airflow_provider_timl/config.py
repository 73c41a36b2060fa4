"""The edge to Airflow's configuration: reads ``[timl]`` and builds the server side from it. Nothing at import."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_timl.artifacts import ArtifactStore, fetch_artifact, open_store
from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.settings import Settings

if TYPE_CHECKING:
    from airflow_provider_timl.backends.contract import Backend
    from airflow_provider_timl.database.sessions import Database
    from airflow_provider_timl.repository.models import ModelRepository
    from airflow_provider_timl.services.registry import ServiceRegistry

_SECTION = "timl"
Number = TypeVar("Number", int, float)


@cache
def get_settings() -> Settings:
    """Settings of this deployment; read once a process.

    :raises InvalidInputError: an option is wrong or missing; names it.
    """
    from airflow.configuration import AIRFLOW_HOME

    home = Path(_get_text("data_dir") or Path(AIRFLOW_HOME, _SECTION)).absolute()
    defaults = Settings(home, "", "", "")
    return Settings(
        data_dir=home,
        database_url=_get_text("database_url") or f"sqlite:///{home / 'timl.db'}",
        artifact_store=_get_text("artifact_store") or (home / "artifacts").as_uri(),
        encryption_key=_get_encryption_key(),
        artifact_conn_id=_get_text("artifact_conn_id"),
        cos_conn_id=_get_text("cos_conn_id") or defaults.cos_conn_id,
        gateway_host=_get_text("gateway_host") or defaults.gateway_host,
        gateway_port=_get_number("gateway_port", int, defaults.gateway_port),
        service_domain=_get_text("service_domain") or defaults.service_domain,
        max_request_bytes=_get_number("max_request_bytes", int, defaults.max_request_bytes),
        request_timeout_seconds=_get_number("request_timeout_seconds", float, defaults.request_timeout_seconds),
        start_timeout_seconds=_get_number("start_timeout_seconds", float, defaults.start_timeout_seconds),
        drain_timeout_seconds=_get_number("drain_timeout_seconds", float, defaults.drain_timeout_seconds),
    )


def build_s3_client(conn_id: str) -> Any:
    """A boto3 S3 client from an Airflow connection."""
    from airflow_provider_timl.hooks.cos import COSHook

    # without it, connections of the metadata database are invisible outside of a task
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    return COSHook(aws_conn_id=conn_id).get_conn()


def open_artifact_store(settings: Settings) -> ArtifactStore:
    """The store that ``[timl] artifact_store`` names."""
    conn_id = settings.artifact_conn_id or settings.cos_conn_id
    return open_store(settings.artifact_store, lambda: build_s3_client(conn_id))


def build_repository(settings: Settings, database: Database) -> ModelRepository:
    from airflow_provider_timl.repository.inspection import inspect_in_limited_process
    from airflow_provider_timl.repository.models import ModelRepository
    from airflow_provider_timl.services.registry import find_services_using

    inspect = partial(inspect_in_limited_process, settings=settings)
    return ModelRepository(database, settings, open_artifact_store(settings), inspect, find_services_using)


def build_registry(settings: Settings, database: Database, repository: ModelRepository) -> ServiceRegistry:
    from airflow_provider_timl.backends.local.logs import LocalLogs
    from airflow_provider_timl.services.registry import ServiceRegistry

    return ServiceRegistry(database, repository, settings, LocalLogs(settings))


def build_backend(settings: Settings) -> Backend:
    from airflow_provider_timl.backends.local.backend import LocalBackend

    return LocalBackend(settings, partial(fetch_artifact, open_artifact_store(settings)))


def _get_text(option: str) -> str | None:
    from airflow.configuration import conf

    return conf.get(_SECTION, option, fallback=None) or None


def _get_number(option: str, convert: Callable[[str], Number], default: Number) -> Number:
    text = _get_text(option)
    try:
        return default if text is None else convert(text)
    except ValueError as exc:
        raise InvalidInputError(f"{text!r} is not a number", field=f"[{_SECTION}] {option}") from exc


def _get_encryption_key() -> str:
    from airflow.configuration import conf

    key = _get_text("encryption_key") or conf.get("core", "fernet_key", fallback="")
    if not key:
        raise InvalidInputError(
            "there is neither this key nor Airflow's own [core] fernet_key; make one with `python -c 'from "
            "cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'`",
            field=f"[{_SECTION}] encryption_key",
        )
    return key
