"""For all tests: an Airflow home of their own, the order of the folders, and their plugins.

Airflow reads its configuration when it is first imported, so its home is set here, before any test module is.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from airflow_provider_timl.runtimes.process_end import end_process

pytest_plugins = ("tests.leaks", "tests.servers.fixtures")

TESTS = Path(__file__).parent
#: The quick ones first, so that a mistake shows early.
FOLDERS = ("test_code.py", "unit", "contract", "fuzz", "integration", "e2e")

home = Path(tempfile.mkdtemp(prefix="timl-airflow-"))
atexit.register(shutil.rmtree, home, ignore_errors=True)
os.environ.update(
    {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(TESTS.parent / "dags"),
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FOLDERS.index(item.path.relative_to(TESTS).parts[0]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main() -> Generator[None, pytest.ExitCode | int | None, pytest.ExitCode | int | None]:
    """Where a JVM runs in this process, Python's own end may crash when the tests are over and their result is told."""
    status = yield
    if "jpype" in sys.modules and status is not None:
        import jpype

        atexit.unregister(jpype._core._JTerminate)
        atexit._run_exitfuncs()
        end_process(int(status))
    return status
