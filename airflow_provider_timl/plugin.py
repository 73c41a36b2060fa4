"""The Airflow plugin: mounts the API at ``/timl``. Light to import: every Airflow process does."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin


class TimlPlugin(AirflowPlugin):
    """Registered through the entry point ``airflow.plugins``."""

    name = "timl"

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        from airflow_provider_timl.api.app import create_app

        return [{"name": "TIML", "app": create_app(), "url_prefix": "/timl"}]
