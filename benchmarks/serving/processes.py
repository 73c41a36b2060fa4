"""A server as a process group: started, waited for until it answers right, weighed, and ended with all it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil

from tests.servers.stack import find_free_port

START_TIMEOUT_SECONDS = 90
_STOP_TIMEOUT_SECONDS = 10
_PROBE_SECONDS = 0.02
_ANSWER_TIMEOUT_SECONDS = 60


class ContenderFailedError(Exception):
    """It did not start, or not answer right; the message is a line for the report."""


@dataclass(frozen=True)
class Server:
    port: int
    process: psutil.Process
    started: float
    log: Path

    def wait_until_right(self, path: str, body: bytes, is_right: Callable[[Any], bool]) -> float:
        """Seconds from the start of the process to the first right answer."""
        while time.monotonic() - self.started < START_TIMEOUT_SECONDS:
            if not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE:
                raise ContenderFailedError(f"it ended at its start: {read_last_line(self.log)}")
            with suppress(OSError, HTTPException):
                status, answer = self.post(path, body)
                seconds = time.monotonic() - self.started
                if status == 200:
                    if is_right(json.loads(answer)):
                        return seconds
                    raise ContenderFailedError(f"it answers otherwise than ours: {answer[:200]!r}")
                if status < 500 and status != 404:  # Ray Serve knows no path until its replica is there
                    raise ContenderFailedError(f"it answers {status}: {answer[:200]!r}")
            time.sleep(_PROBE_SECONDS)
        raise ContenderFailedError(f"no answer within {START_TIMEOUT_SECONDS} s: {read_last_line(self.log)}")

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_TIMEOUT_SECONDS)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def measure_rss_mb(self) -> float:
        """Resident memory of the process and all below it. What they share counts for each of them."""
        total = 0
        for process in self.list_processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 2**20

    def list_processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []


@contextmanager
def run_server(command: Sequence[str], environment: Mapping[str, str], port: int, folder: Path) -> Iterator[Server]:
    """In a session of its own, so that a signal reaches all of it and nothing else."""
    log = folder / "server.log"
    with log.open("wb") as output:
        started = time.monotonic()
        child = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(port, psutil.Process(child.pid), started, log)
    try:
        yield server
    finally:
        stop(child, server.list_processes())


def stop(child: subprocess.Popen[bytes], processes: Sequence[psutil.Process]) -> None:
    """Ask the group, then end what is left of it, and of the processes that left it (Ray's do)."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_STOP_TIMEOUT_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for process in processes:  # known by their start time too, so no other process of the same number is hit
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_STOP_TIMEOUT_SECONDS)


def choose_port() -> int:
    return find_free_port()


def read_last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "its log is empty"
