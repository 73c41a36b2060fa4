"""Each contract of the database is held by SQLite and by PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'below' / 'timl.db'}"
    url: str = request.getfixturevalue("postgresql_server").create_database()
    return url
