"""Create or upgrade the database: ``airflow timl db upgrade``, and the first thing the controller does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url, text

from airflow_provider_timl.database.sessions import Database

VERSION_TABLE = "timl_alembic_version"
#: Any number that no other program takes in the same database.
_LOCK_NUMBER = 0x74696D6C
_thread_lock = threading.Lock()  # Alembic keeps its context in a module
_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade_database(url: str) -> None:
    """Bring the database at ``url`` to the newest migration; creates an SQLite file and its folder. Idempotent.

    Whoever comes while somebody else upgrades waits: in SQLite for the writer, in PostgreSQL for an advisory lock.
    """
    database_file = _find_sqlite_file(url)
    if database_file is not None:
        database_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(database_file, os.O_CREAT, 0o600))  # SQLite would make it readable for everybody
    database = Database(url)
    try:
        with _thread_lock, database.engine.execution_options(timl_write=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
            config = _build_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.dispose()


def find_missing_migrations(url: str) -> bool:
    """Whether the database is not at the newest migration (or was never created)."""
    database_file = _find_sqlite_file(url)
    if database_file is not None and not database_file.exists():
        return True
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            current = MigrationContext.configure(
                connection, opts={"version_table": VERSION_TABLE}
            ).get_current_revision()
    finally:
        database.dispose()
    return current != ScriptDirectory.from_config(_build_config()).get_current_head()


def _build_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _find_sqlite_file(url: str) -> Path | None:
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
