"""Engines and transactions.

Writes begin as writers (``BEGIN IMMEDIATE`` in SQLite), so two of them queue instead of failing half-way with
"database is locked"; PostgreSQL relies on row locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

from airflow_provider_timl.database.tables import EventRow

_SQLITE_BUSY_TIMEOUT_SECONDS = 30


class Database:
    """One engine; made lazily by each process and not shared across a fork.

    :param url: SQLAlchemy URL. SQLite files are put in WAL mode so that readers never wait for a writer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _build_engine(url)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading; whatever it holds is rolled back."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed as a whole, or not at all when the block raises."""
        options = {"timl_write": True}
        with Session(self.engine.execution_options(**options)) as session, session.begin():
            yield session

    def dispose(self) -> None:
        self.engine.dispose()


def record_event(session: Session, actor: str, action: str, subject: str, **details: Any) -> None:
    """Add an audit event to the caller's transaction. Never pass a secret."""
    session.add(EventRow(actor=actor, action=action, subject=subject, details=details))


def _build_engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": _SQLITE_BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN is deferred; ours is below
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        immediate = connection.get_execution_options().get("timl_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
