"""One operating system process that outlives who started it: spawned here, or found again by its command line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

#: What a child may know of our environment: enough to find its interpreter, and nothing secret.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TZ")


class ManagedProcess:
    """A process by pid and start time, so that a reused pid is never mistaken for it."""

    def __init__(self, process: psutil.Process, popen: subprocess.Popen[bytes] | None = None) -> None:
        self._process = process
        self._popen = popen
        self.started_at = process.create_time()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def is_alive(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        return bool(self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE)

    def describe_exit(self) -> str:
        """How it ended, as far as can be known: only a parent learns the status."""
        code = self._popen.poll() if self._popen is not None else None
        if code is None:
            return "ended"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def get_memory_mb(self) -> float:
        """Resident memory; 0 when it is gone."""
        try:
            return float(self._process.memory_info().rss) / 2**20
        except psutil.NoSuchProcess:
            return 0.0

    def send_signal(self, number: signal.Signals) -> None:
        """A process that is gone already is no error."""
        try:
            self._process.send_signal(number)
        except psutil.NoSuchProcess:
            return

    def wait(self, timeout_seconds: float) -> bool:
        """Whether it ended in time."""
        try:
            self._process.wait(timeout_seconds)
        except psutil.TimeoutExpired:
            return False
        return True


def spawn(
    command: Sequence[str], log_file: Path, extra_environment: dict[str, str], cpus: Sequence[int] | None = None
) -> ManagedProcess:
    """Start a process of its own session, with a small environment and its output appended to a private log."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    log = os.open(log_file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environment, **extra_environment},
            start_new_session=True,
        )
    finally:
        os.close(log)
    process = psutil.Process(popen.pid)
    if cpus is not None:
        process.cpu_affinity(list(cpus))
    return ManagedProcess(process, popen)


def find_processes(matches: Callable[[list[str]], bool]) -> list[ManagedProcess]:
    """Our own living processes whose command line matches."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and matches(process.cmdline()):
                found.append(ManagedProcess(process))
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended while we looked, or is not ours to see
            continue
    return found
