"""Owns the processes of the demo: starts each in a session of its own, so that Ctrl-C reaches the demo alone, and ends
them with all that they started, those of an earlier demo that was killed included.

All carry a mark in their environment, by which they are found again. Model servers and the gateway do not: they are the
controller's, outlive it by design, and are taken over or ended by the next one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
MARK = "TIML_DEMO"
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 8.0
STOP_SECONDS = 30.0


class Program:
    """One program with its output in a private log.

    :param stop_signal: what asks it to end in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._stop_signal = stop_signal
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            self._popen = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def find_exit_status(self) -> int | None:
        """``None`` while it runs, or before it was started."""
        return self._popen.poll() if self._popen else None

    def wait(self) -> int:
        """Its exit status; above 128 it is that of a signal, as a shell says it."""
        if self._popen is None:
            raise ValueError(f"{self.name} was never started")
        status = self._popen.wait()
        return status if status >= 0 else 128 - status

    def stop(self) -> None:
        """Ask it to end, and kill it when its time is over."""
        if self._popen is None or self._popen.poll() is not None:
            return
        self._popen.send_signal(self._stop_signal)
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


class Supervisor(threading.Thread):
    """Starts a program, and starts it again with a growing delay whenever it ends, until ``stop``."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True, name=f"supervisor of {program.name}")
        self._program = program
        self._stopping = threading.Event()

    def run(self) -> None:
        delay_seconds = FIRST_DELAY_SECONDS
        while not self._stopping.is_set():
            self._program.start()
            status = self._program.wait()
            if self._stopping.wait(delay_seconds):
                return
            print(f"The {self._program.name} ended with status {status}; it is started again.", flush=True)
            delay_seconds = min(2 * delay_seconds, LONGEST_DELAY_SECONDS)

    def stop(self) -> None:
        self._stopping.set()
        self._program.stop()
        self.join()


def find_marked(mark: str) -> list[psutil.Process]:
    """Living processes that a demo with this mark started, directly or not."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended while we looked, or is not ours to see
            continue
    return found


def kill_marked(mark: str) -> int:
    """Kill what is left; how many processes that were."""
    killed = 0
    while left := [process for process in find_marked(mark) if process.status() != psutil.STATUS_ZOMBIE]:
        for process in left:
            try:
                process.kill()
                killed += 1
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=STOP_SECONDS)
    return killed
