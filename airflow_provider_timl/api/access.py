"""Who may call what. Every route carries ``READ`` or ``WRITE``; a test fails for one that does not.

Airflow's roles: a viewer may read; an operator (Op) or administrator may write and see access keys. Airflow has no
tokens against forged requests, so writes need a header that no foreign page can send without asking first.
"""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_asset
from fastapi import Depends, Header

from airflow_provider_timl.exceptions import ForbiddenError

REQUESTED_WITH = "timl"

_may_read = requires_access_asset("GET")
_may_write = requires_access_asset("PUT")


def require_own_client(x_requested_with: Annotated[str | None, Header()] = None) -> None:
    """:raises ForbiddenError: the header is missing: the request may come from a foreign page."""
    if x_requested_with != REQUESTED_WITH:
        raise ForbiddenError(f"writes need the header 'X-Requested-With: {REQUESTED_WITH}'")


def get_actor(user: GetUserDep) -> str:
    """The name that changes are recorded under."""
    return user.get_name()


READ = Depends(_may_read)
SECRET = Depends(_may_write)
WRITE = [Depends(_may_write), Depends(require_own_client)]
Actor = Annotated[str, Depends(get_actor)]
