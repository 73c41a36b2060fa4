"""Migrations and transactions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select

from airflow_provider_timl.database.migrate import VERSION_TABLE, find_missing_migrations, upgrade_database
from airflow_provider_timl.database.sessions import Database, record_event
from airflow_provider_timl.database.tables import Base, EventRow


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    upgrade_database(empty_database_url)
    database = Database(empty_database_url)
    yield database
    database.dispose()


def test_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, VERSION_TABLE}


def test_upgrade_is_repeatable_and_known(empty_database_url: str) -> None:
    assert find_missing_migrations(empty_database_url.replace("/below/", "/")) is True
    upgrade_database(empty_database_url)
    assert find_missing_migrations(empty_database_url) is False
    upgrade_database(empty_database_url)
    assert find_missing_migrations(empty_database_url) is False


@pytest.mark.parametrize("pool_type", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_concurrent_upgrades_of_an_empty_database_all_succeed(
    empty_database_url: str, pool_type: type[ThreadPoolExecutor | ProcessPoolExecutor]
) -> None:
    """The controller and an administrator may start at the same time."""
    options: dict[str, Any] = {"mp_context": get_context("spawn")} if pool_type is ProcessPoolExecutor else {}
    with pool_type(3, **options) as pool:
        list(pool.map(upgrade_database, [empty_database_url] * 3, timeout=60))
    assert find_missing_migrations(empty_database_url) is False


def test_block_that_raises_writes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            record_event(session, "tester", "kept", "model:a")
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as session:
        assert session.scalars(select(EventRow)).all() == []


def test_times_come_back_in_utc(database: Database) -> None:
    with database.write() as session:
        record_event(session, "tester", "kept", "model:a", version=1)
    with database.read() as session:
        event = session.scalars(select(EventRow)).one()
    assert event.at.utcoffset() is not None
    assert event.details == {"version": 1}
