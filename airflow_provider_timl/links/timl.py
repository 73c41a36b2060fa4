"""Links from a task instance to what it made. The operator pushes the address; the link reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink
from airflow.sdk.bases.xcom import BaseXCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

SERVICE_URL_KEY = "timl_service_url"
MODEL_VERSION_URL_KEY = "timl_model_version_url"


class ServiceLink(BaseOperatorLink):
    """To the service in the control plane."""

    name = "Model service"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _get_url(SERVICE_URL_KEY, ti_key)


class ModelVersionLink(BaseOperatorLink):
    """To the model version in the control plane."""

    name = "Model version"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _get_url(MODEL_VERSION_URL_KEY, ti_key)


def _get_url(key: str, ti_key: TaskInstanceKey) -> str:
    """What the task pushed; empty when it did not come so far."""
    return BaseXCom.get_value(key=key, ti_key=ti_key) or ""  # type: ignore[arg-type]
