"""Servers and models that several test modules share; each is made when it is first asked for and ends with the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def tensorflow_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with those of ``tests/tensorflow_models.py``; who changes one takes a copy."""
    folder = tmp_path_factory.mktemp("tensorflow")
    program = Path(__file__).parents[1] / "tensorflow_models.py"
    done = subprocess.run([sys.executable, program, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder
