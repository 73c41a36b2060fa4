"""Servers that several test modules share; each starts when it is first asked for and ends with the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.postgresql import PostgresqlServer, find_binaries
from tests.servers.seaweedfs import ObjectStorage


@pytest.fixture(scope="session")
def object_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    with ObjectStorage(tmp_path_factory.mktemp("seaweedfs")) as storage:
        yield storage


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    if find_binaries() is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: the package postgresql)")
    with PostgresqlServer() as server:
        yield server
