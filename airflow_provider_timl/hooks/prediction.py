"""Predictions for tasks: REST through the gateway, with a service's own host and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests
from airflow.sdk import BaseHook

from airflow_provider_timl.exceptions import (
    ExternalSystemError,
    InvalidInputError,
    NotReadyError,
    QueueFullError,
    TimeoutExpiredError,
    TimlError,
    TooLargeError,
    UnauthorizedError,
)
from airflow_provider_timl.hooks.timl import TimlHook

_ERRORS: dict[int, type[TimlError]] = {
    400: InvalidInputError,
    401: UnauthorizedError,
    413: TooLargeError,
    429: QueueFullError,
    503: NotReadyError,
    504: TimeoutExpiredError,
}
_MODEL_PATH = "/v1/models/m"


class PredictionHook(BaseHook):
    """Calls one service. Its host and key are fetched once, through the control plane.

    :param timeout_seconds: for one call.
    """

    def __init__(
        self, service_name: str, timl_conn_id: str = TimlHook.default_conn_name, timeout_seconds: float = 60.0
    ) -> None:
        super().__init__()
        self.service_name = service_name
        self.timl_conn_id = timl_conn_id
        self.timeout_seconds = timeout_seconds
        self._session: requests.Session | None = None
        self._url = ""

    def get_conn(self) -> requests.Session:
        """A session with the service's host and key."""
        if self._session is None:
            timl = TimlHook(self.timl_conn_id)
            service = timl.get_service(self.service_name)
            self._url = service.gateway_url + _MODEL_PATH
            self._session = requests.Session()
            key = timl.get_access_key(self.service_name)
            self._session.headers.update({"Host": service.host, "Authorization": key})
        return self._session

    def predict(
        self,
        *,
        instances: Sequence[Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> dict[str, Any]:
        """Predict rows (``instances``) or columns (``inputs``).

        :param version: ask this version, whatever its traffic.
        :return: the answer's body, ``{"predictions": [...]}``.
        :raises TimlError: by the answer's status; its message is the server's.
        """
        body = {"instances": instances} if instances is not None else {"inputs": inputs}
        return self._call("POST", ":predict", version, body)

    def get_status(self, version: int | None = None) -> dict[str, Any]:
        """Status and input schema of the model."""
        return self._call("GET", "", version, None)

    def get_metadata(self, version: int | None = None) -> dict[str, Any]:
        """The model's signature."""
        return self._call("GET", "/metadata", version, None)

    def _call(self, method: str, suffix: str, version: int | None, body: Any) -> dict[str, Any]:
        session = self.get_conn()
        headers = {"X-TIML-Version": str(version)} if version is not None else {}
        try:
            answer = session.request(
                method, self._url + suffix, json=body, headers=headers, timeout=self.timeout_seconds
            )
            content: dict[str, Any] = answer.json()
        except (requests.RequestException, ValueError) as exc:
            raise ExternalSystemError(f"the gateway did not answer for service {self.service_name!r}: {exc}") from exc
        if not answer.ok:
            raise _ERRORS.get(answer.status_code, ExternalSystemError)(str(content.get("error", content)))
        return content
