"""A test request: through the gateway with one of the service's own keys, as any caller's."""

from __future__ import annotations

import time
from typing import Any

import httpx

from airflow_provider_timl.api.context import ServerContext
from airflow_provider_timl.entities import Service, TestAnswer
from airflow_provider_timl.exceptions import ConflictError, ExternalSystemError, InvalidInputError

_PREDICT_PATH = "/v1/models/m:predict"


def send_test_request(
    context: ServerContext, name: str, body: dict[str, Any] | None, version: int | None
) -> TestAnswer:
    """:param body: the example of the version's signature when ``None``.
    :raises ConflictError: the service has no enabled key.
    :raises ExternalSystemError: the gateway does not answer.
    """
    service = context.registry.get_service(name)
    headers = {"Host": service.host, "Authorization": _get_secret(context, name)}
    if version is not None:
        headers["X-TIML-Version"] = str(version)
    started = time.perf_counter()
    try:
        answer = httpx.post(
            service.gateway_url + _PREDICT_PATH,
            json=body if body is not None else _get_example(context, service, version),
            headers=headers,
            timeout=context.settings.request_timeout_seconds + 5,
        )
    except httpx.HTTPError as exc:
        raise ExternalSystemError(f"the gateway at {service.gateway_url} does not answer: {exc}") from exc
    return TestAnswer(
        status=answer.status_code,
        body=answer.json() if answer.headers.get("content-type", "").startswith("application/json") else answer.text,
        version=answer.headers.get("X-TIML-Served-By"),
        duration_ms=round((time.perf_counter() - started) * 1000, 3),
    )


def _get_secret(context: ServerContext, name: str) -> str:
    key = next((key for key in context.registry.list_keys(name) if key.enabled), None)
    if key is None:
        raise ConflictError(f"service {name!r} has no enabled access key; add one first")
    return context.registry.get_key_secret(name, key.id).secret


def _get_example(context: ServerContext, service: Service, version: int | None) -> dict[str, Any]:
    number = version or max(service.versions, key=lambda found: found.traffic_percent).version
    signature = context.repository.get_version(name=service.model, version=number).inspection.signature
    if signature is None or signature.example is None:
        raise InvalidInputError("the version has no example request; send one", field="body")
    return signature.example
