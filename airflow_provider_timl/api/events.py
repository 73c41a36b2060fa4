"""Routes of the audit."""

from __future__ import annotations

from fastapi import APIRouter

from airflow_provider_timl.api.access import READ
from airflow_provider_timl.api.bodies import Limit, Listing, Offset
from airflow_provider_timl.api.context import Context
from airflow_provider_timl.entities import Event

router = APIRouter(tags=["events"])


@router.get("/events", dependencies=[READ])
def list_events(context: Context, subject: str | None = None, limit: Limit = 100, offset: Offset = 0) -> Listing[Event]:
    """Changes, newest first; ``subject`` as in ``service:iris`` or ``model:iris``."""
    events, total = context.registry.list_events(limit, offset, subject)
    return Listing(items=events, total=total, limit=limit, offset=offset)
