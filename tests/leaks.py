"""No test leaves a process behind. A pytest plugin; in a conftest its hook would not see fixtures of the whole run."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.waiting import wait_until

#: Inherited by what tests start, so that it is recognised although its parent ended.
MARK = ("TIML_TEST_RUN", uuid4().hex)
END_SECONDS = 10.0

os.environ[MARK[0]] = MARK[1]

#: Processes of fixtures that live for the whole run; they end with it.
lasting: set[psutil.Process] = set()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    if fixturedef.scope != "session":
        return (yield)
    before = find_started_processes()
    value = yield
    lasting.update(find_started_processes() - before)
    return value


@pytest.fixture(autouse=True, scope="module")
def _no_process_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the last test of a module when a process that its tests started outlives them."""
    folder = f"{tmp_path_factory.getbasetemp()}/"  # with its end, or it would be the beginning of another run's
    before = find_started_processes(folder)
    yield

    def find_left() -> set[psutil.Process]:
        return find_started_processes(folder) - before - lasting

    try:
        wait_until(lambda: not find_left(), timeout_seconds=END_SECONDS)
    except AssertionError:
        left = find_left()
        described = []
        for process in left:
            with suppress(psutil.NoSuchProcess):  # it ended after all, too late
                described.append(f"{process.pid}: {' '.join(process.cmdline())}")
                process.kill()
        pytest.fail("processes left behind:\n" + "\n".join(described))


def find_started_processes(folder: str | None = None) -> set[psutil.Process]:
    """Living descendants of this process, and what inherited our mark or works below ``folder``."""
    me = psutil.Process()
    children = set(me.children(recursive=True))
    found = set()
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            ours = process in children or process.environ().get(MARK[0]) == MARK[1]
            if process == me or "multiprocessing.resource_tracker" in " ".join(line):
                continue
            if (ours or (folder and any(folder in word for word in line))) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended while we looked, or is not ours to see
            continue
    return found
