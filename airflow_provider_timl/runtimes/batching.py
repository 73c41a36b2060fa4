"""The bounded queue in front of an engine, and the one thread that runs it.

The thread takes all that waits, up to a number of rows, and runs it as one batch; results go back to the event loop in
one call. Under load this makes the cost of changing threads vanish; alone, a request waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_provider_timl.exceptions import QueueFullError, TimeoutExpiredError, TimlError
from airflow_provider_timl.runtimes.contract import Engine

log = logging.getLogger(__name__)

_MOST_ROWS = 4096
Deliver = Callable[[bytes | TimlError], None]


@dataclass(eq=False)
class Job:
    """One request on its way through the engine. ``cancel`` frees its place at once."""

    request: Any
    rows: int
    deliver: Deliver
    deadline: float
    done: bool = False


class EngineQueue:
    """:param size: requests that may wait or run; one more is refused.
    :param timeout_seconds: after so long a request is answered with an error and forgotten.
    """

    def __init__(self, engine: Engine[Any], size: int, timeout_seconds: float) -> None:
        self._engine = engine
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[Job, None] = {}  # a set that keeps the order of arrival
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="engine")
        self._thread.start()

    @property
    def depth(self) -> int:
        """Requests waiting or running."""
        return len(self._jobs)

    def submit(self, request: Any, deliver: Deliver) -> Job:
        """:raises QueueFullError: as many requests as may wait do."""
        if len(self._jobs) >= self._size:
            raise QueueFullError(f"{self._size} requests are waiting already; try again shortly")
        deadline = time.monotonic() + self._timeout_seconds
        job = Job(request, self._engine.count_rows(request), deliver, deadline)
        self._jobs[job] = None
        self._queue.put(job)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_seconds, self._expire)
        return job

    def cancel(self, job: Job) -> None:
        """The client went away: nobody waits for the answer."""
        job.done = True
        self._jobs.pop(job, None)

    def close(self) -> None:
        """End the thread when the running batch is done, and the engine with it."""
        if self._timer is not None:
            self._timer.cancel()
        self._queue.put(None)
        self._thread.join()
        self._engine.close()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            batch, ended = self._take(job)
            if batch:
                results = self._run_batch(batch)
                self._loop.call_soon_threadsafe(self._deliver, batch, results)
            if ended:
                return

    def _take(self, first: Job) -> tuple[list[Job], bool]:
        """``first`` and what else waits, without the cancelled; and whether the end was among it."""
        batch: list[Job] = []
        rows = 0
        job: Job | None = first
        while True:
            if job is None:
                return batch, True
            if not job.done:
                batch.append(job)
                rows += job.rows
            if rows >= _MOST_ROWS:
                return batch, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return batch, False

    def _run_batch(self, batch: list[Job]) -> list[bytes | TimlError]:
        try:
            return self._engine.run([job.request for job in batch])
        except Exception:  # the thread's outermost loop: a defect in the engine must not end the server
            log.exception("the engine failed on a batch of %d", len(batch))
            error = TimlError("the model failed on this request; the server's log has the details")
            return [error] * len(batch)

    def _deliver(self, batch: list[Job], results: list[bytes | TimlError]) -> None:
        for job, result in zip(batch, results, strict=True):
            self._finish(job, result)

    def _finish(self, job: Job, result: bytes | TimlError) -> None:
        if not job.done:
            job.done = True
            del self._jobs[job]
            job.deliver(result)

    def _expire(self) -> None:
        """Answer those whose time is over; one timer serves all: they arrive in the order of their deadlines."""
        now = time.monotonic()
        error = TimeoutExpiredError(f"the model did not answer within {self._timeout_seconds:g} s")
        while (job := next(iter(self._jobs), None)) is not None and job.deadline <= now:
            self._finish(job, error)
        self._timer = None if job is None else self._loop.call_later(job.deadline - now, self._expire)
