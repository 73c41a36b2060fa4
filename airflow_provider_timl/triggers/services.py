"""Waits for a service without a worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_timl.exceptions import TimeoutExpiredError, TimlError
from airflow_provider_timl.hooks.timl import TimlHook

_POLL_SECONDS = 20.0
_PAUSE_SECONDS = 2.0


class ServiceInSyncTrigger(BaseTrigger):
    """Fires when the gateway serves what is wanted of a service, when the service failed, or when the time is over.

    :param deadline: Unix time. It goes on counting while the triggerer restarts.
    """

    def __init__(self, service_name: str, timl_conn_id: str, deadline: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.service_name = service_name
        self.timl_conn_id = timl_conn_id
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"service_name": self.service_name, "timl_conn_id": self.timl_conn_id, "deadline": self.deadline},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: ``{"service": ...}`` or ``{"error": ..., "retryable": ...}``."""
        hook = TimlHook(self.timl_conn_id)
        while True:
            left_seconds = self.deadline - time.time()
            wait_seconds = max(0.1, min(_POLL_SECONDS, left_seconds))
            try:
                service = await asyncio.to_thread(hook.poll_service, self.service_name, wait_seconds)
            except TimlError as exc:
                if (exc.retryable or isinstance(exc, TimeoutExpiredError)) and left_seconds > 0:
                    await asyncio.sleep(0 if isinstance(exc, TimeoutExpiredError) else _PAUSE_SECONDS)
                    continue
                yield _build_event({"error": str(exc), "retryable": exc.retryable})
                return
            yield _build_event({"service": service.model_dump(mode="json")})
            return


def _build_event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
