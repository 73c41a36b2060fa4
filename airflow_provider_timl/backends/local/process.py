"""One operating system process that outlives who started it: spawned here, or found again by its command line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

#: What a child may know of our environment: enough to find its interpreter, and nothing secret.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TZ")


class ManagedProcess:
    """A process by pid and start time (psutil's identity), so that a reused pid is never mistaken for it."""

    def __init__(self, process: psutil.Process, popen: subprocess.Popen[bytes] | None = None) -> None:
        self._process = process
        self._popen = popen

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def is_alive(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        try:
            return bool(self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def describe_exit(self) -> str:
        """How it ended, as far as can be known: only a parent learns the status."""
        code = self._popen.poll() if self._popen is not None else None
        if code is None:
            return "ended"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def get_memory_mb(self) -> float:
        """Resident memory, with that of programs it started; 0 when it is gone."""
        return sum(_get_resident_bytes(each) for each in (self.pid, *self._list_children())) / 2**20

    def _list_children(self) -> list[int]:
        """Started by its main thread, by the kernel's list of them: to look at all processes takes milliseconds."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:  # it is gone, or the kernel keeps no such list
            return []

    def get_cpus(self) -> list[int]:
        """The CPUs that it may run on; none when it is gone."""
        try:
            return list(self._process.cpu_affinity())
        except psutil.NoSuchProcess:
            return []

    def get_environment(self, name: str) -> str:
        """A variable it was started with; empty when it has none or is gone."""
        try:
            return str(self._process.environ().get(name, ""))
        except psutil.NoSuchProcess:
            return ""

    def send_signal(self, number: signal.Signals) -> None:
        """A process that is gone already is no error."""
        with suppress(psutil.NoSuchProcess):
            self._process.send_signal(number)

    def wait(self, timeout_seconds: float) -> bool:
        """Whether it ended in time."""
        try:
            if self._popen is not None:  # psutil would take the exit status away from it
                self._popen.wait(timeout_seconds)
            else:
                self._process.wait(timeout_seconds)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            return False
        return True


def _get_resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


class _Child(subprocess.Popen[bytes]):
    """A child that may outlive us."""

    def __del__(self) -> None:
        """Not a leak, which is what ``Popen`` would warn of."""


def spawn(
    command: Sequence[str],
    *,
    log_file: Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    cpus: Sequence[int] | None = None,
) -> ManagedProcess:
    """Start a process of its own session in ``folder``, with a small environment and its output appended to a log.

    :param cpus: the CPUs that it may run on; ``None`` leaves all to it.
    :raises OSError: it cannot be started.
    """
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    log = os.open(log_file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    try:
        popen = _Child(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,  # private: `python -m` looks for modules in it first
            env={**inherited, **(environment or {})},
            start_new_session=True,
        )
    finally:
        os.close(log)
    process = psutil.Process(popen.pid)
    if cpus is not None:
        with suppress(psutil.NoSuchProcess):  # it ended at once; who watches it will see
            process.cpu_affinity(list(cpus))
    return ManagedProcess(process, popen)


def find_processes(matches: Callable[[list[str]], bool]) -> list[tuple[ManagedProcess, list[str]]]:
    """Our own living processes whose command line matches, with that line."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if process.uids().real == os.getuid() and matches(line) and process.status() != psutil.STATUS_ZOMBIE:
                found.append((ManagedProcess(process), line))
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended while we looked, or is not ours to see
            continue
    return found
