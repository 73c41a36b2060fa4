"""What every operator of this provider does around its one call."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_timl.entities import Lineage, ModelVersion
from airflow_provider_timl.exceptions import TimlError
from airflow_provider_timl.hooks.timl import TimlHook
from airflow_provider_timl.links.timl import MODEL_VERSION_URL_KEY, SERVICE_URL_KEY


class TimlOperator(BaseOperator):
    """:param timl_conn_id: connection to the control plane. (templated)"""

    template_fields: tuple[str, ...] = ("timl_conn_id",)
    ui_color = "#d7ecff"

    def __init__(self, *, timl_conn_id: str = TimlHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.timl_conn_id = timl_conn_id

    @property
    def hook(self) -> TimlHook:
        return TimlHook(self.timl_conn_id)


@contextmanager
def fail_for_good() -> Generator[None]:
    """Fail the task without a retry when no retry can mend the error."""
    try:
        yield
    except TimlError as exc:
        if exc.retryable:
            raise
        raise AirflowFailException(str(exc)) from exc


def build_lineage(context: Context) -> Lineage:
    """The task instance that asks: what makes a retry idempotent, and what the repository shows as the origin."""
    instance = context["ti"]
    return Lineage(
        dag_id=instance.dag_id,
        run_id=instance.run_id,
        task_id=instance.task_id,
        map_index=-1 if instance.map_index is None else instance.map_index,
    )


def push_service_link(context: Context, hook: TimlHook, service_name: str) -> None:
    context["ti"].xcom_push(key=SERVICE_URL_KEY, value=hook.get_service_url(service_name))


def push_model_version_link(context: Context, hook: TimlHook, version: ModelVersion) -> None:
    context["ti"].xcom_push(key=MODEL_VERSION_URL_KEY, value=hook.get_model_version_url(version.model, version.version))
