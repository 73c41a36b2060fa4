"""What Airflow reads to know this provider. Imports nothing: an error here would break Airflow everywhere."""

from __future__ import annotations

from typing import Any

VERSION = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """:source: Airflow 3.3, ``provider_info.schema.json``."""
    name = "TIML"
    package = "airflow_provider_timl"
    return {
        "package-name": "airflow-provider-timl",
        "name": name,
        "description": "Model repository, model services and batch prediction.",
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://airflow.apache.org/ecosystem/",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": name,
                "python-modules": [f"{package}.hooks.{module}" for module in ("timl", "cos", "prediction")],
            }
        ],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [f"{package}.operators.{module}" for module in ("models", "services", "batch")],
            }
        ],
        "triggers": [{"integration-name": name, "python-modules": [f"{package}.triggers.services"]}],
        "connection-types": [
            {
                "connection-type": "timl",
                "hook-name": name,
                "hook-class-name": f"{package}.hooks.timl.TimlHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["extra"],
                    "relabeling": {
                        "host": "Airflow API server",
                        "schema": "http or https",
                        "login": "User",
                        "password": "Password",
                    },
                    "placeholders": {"host": "127.0.0.1", "port": "8080", "schema": "http", "login": "admin"},
                },
            }
        ],
        "extra-links": [f"{package}.links.timl.ServiceLink", f"{package}.links.timl.ModelVersionLink"],
        "cli": [f"{package}.cli.commands.get_cli_commands"],
        "config": {
            "timl": {
                "description": "Model repository and model services. Tasks need none of it, only the connection.",
                "options": _build_options(),
            }
        },
    }


def _build_options() -> dict[str, Any]:
    """Defaults that depend on AIRFLOW_HOME are ``None`` here and stand in ``config.py``."""
    return {
        "database_url": _option(
            "SQLAlchemy URL of the provider's own database: SQLite or PostgreSQL. Without it, "
            "``<AIRFLOW_HOME>/timl/timl.db``.",
            example="postgresql+psycopg://timl:secret@127.0.0.1/timl",
            sensitive=True,
        ),
        "artifact_store": _option(
            "Where model files are: ``file:///folder`` or ``s3://bucket/prefix``. API server, controller and workers "
            "must reach it. Without it, ``file://<AIRFLOW_HOME>/timl/artifacts``.",
            example="s3://models-1250000000/timl",
        ),
        "artifact_conn_id": _option("Connection (type aws) of an ``s3://`` artifact store.", example="cos_default"),
        "cos_conn_id": _option("Connection (type aws) that imports read from.", default="cos_default"),
        "data_dir": _option(
            "Folder of the controller: logs, gateway files, instances. Without it, ``<AIRFLOW_HOME>/timl``.",
            example="/var/lib/timl",
        ),
        "encryption_key": _option(
            "Fernet key that access keys are encrypted with; several behind commas, the newest first. Without it, "
            "Airflow's own ``[core] fernet_key``.",
            sensitive=True,
        ),
        "gateway_host": _option("Address that the gateway listens on.", default="127.0.0.1"),
        "gateway_port": _option("Port that the gateway listens on.", kind="integer", default="31292"),
        "service_domain": _option("Domain below which services get their hosts.", default="timl.local"),
        "max_request_bytes": _option(
            "Largest prediction request; above it the gateway answers 413.", kind="integer", default="33554432"
        ),
        "request_timeout_seconds": _option(
            "Longest prediction; after it the gateway answers 504.", kind="float", default="60"
        ),
        "start_timeout_seconds": _option(
            "How long a model server may take to be ready before it is started anew.", kind="float", default="120"
        ),
        "drain_timeout_seconds": _option(
            "How long a model server that is taken out of service may take to finish.", kind="float", default="60"
        ),
    }


def _option(
    description: str,
    *,
    kind: str = "string",
    default: str | None = None,
    example: str | None = None,
    sensitive: bool = False,
) -> dict[str, Any]:
    option: dict[str, Any] = {
        "description": description,
        "version_added": VERSION,
        "type": kind,
        "example": example,
        "default": default,
    }
    return {**option, "sensitive": True} if sensitive else option
