"""The bounded queue in front of an engine, and the one thread that runs it.

The thread takes all that waits, up to a number of rows, waits for more where the engine asks for that, and runs it as
one batch; results go back to the event loop in one call. A request that comes alone, finds the thread idle, and is
known to take less time than changing threads does, is run on the event loop at once: for most PMML requests that is
half of their latency. The engine is never run by both at a time.
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

#: What a request may take on the event loop, which others wait for meanwhile.
_INLINE_SECONDS = 0.0003
#: Weight of the newest batch in the running mean of the time that a row takes.
_NEWEST_WEIGHT = 0.05
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
        self._batching = engine.batching
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[Job, None] = {}  # a set that keeps the order of arrival
        self._arrived: list[Job] = []  # in this turn of the event loop
        self._in_thread = 0  # batches' jobs that the thread has or will get, cancelled ones included
        self._row_seconds = 1.0  # until the first batch told: slow
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="engine")
        self._thread.start()

    @property
    def depth(self) -> int:
        """Requests waiting or running."""
        return len(self._jobs)

    def check_room(self) -> None:
        """Ask before a request is parsed: one that will be refused should cost nothing.

        :raises QueueFullError: as many requests as may wait do.
        """
        if len(self._jobs) >= self._size:
            raise QueueFullError(f"{self._size} requests are waiting already; try again shortly")

    def submit(self, request: Any, deliver: Deliver) -> Job:
        """:raises QueueFullError: as many requests as may wait do."""
        self.check_room()
        rows = self._engine.count_rows(request)
        job = Job(request, rows, deliver, time.monotonic() + self._timeout_seconds)
        self._jobs[job] = None
        if not self._arrived:
            self._loop.call_soon(self._dispatch)
        self._arrived.append(job)
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

    def _dispatch(self) -> None:
        """A quick request that came alone runs here; all others go to the thread."""
        jobs, self._arrived = [job for job in self._arrived if not job.done], []
        is_alone = len(jobs) == 1 and not self._in_thread and not self._batching.delay_seconds
        if is_alone and jobs[0].rows * self._row_seconds < _INLINE_SECONDS:
            self._finish(jobs[0], self._run_batch(jobs)[0])
            return
        self._in_thread += len(jobs)
        for job in jobs:
            self._queue.put(job)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            batch, taken, ended = self._take(job)
            results = self._run_batch(batch) if batch else []
            self._loop.call_soon_threadsafe(self._deliver, batch, results, taken)
            if ended:
                return

    def _take(self, first: Job) -> tuple[list[Job], int, bool]:
        """``first`` and what else waits, without the cancelled; how many were taken; whether the end was among it."""
        batch: list[Job] = []
        rows = taken = 0
        until = time.monotonic() + self._batching.delay_seconds
        job: Job | None = first
        while job is not None:
            taken += 1
            if not job.done:
                batch.append(job)
                rows += job.rows
            if rows >= self._batching.most_rows:
                return batch, taken, False
            try:
                job = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, taken, False
        return batch, taken, True

    def _run_batch(self, batch: list[Job]) -> list[bytes | TimlError]:
        started = time.perf_counter()
        try:
            results = self._engine.run([job.request for job in batch])
        except Exception:  # the thread's outermost loop: a defect in the engine must not end the server
            log.exception("the engine failed on a batch of %d", len(batch))
            error = TimlError("the model failed on this request; the server's log has the details")
            return [error] * len(batch)
        row_seconds = (time.perf_counter() - started) / max(1, sum(job.rows for job in batch))
        self._row_seconds += (row_seconds - self._row_seconds) * (_NEWEST_WEIGHT if self._row_seconds < 1 else 1)
        return results

    def _deliver(self, batch: list[Job], results: list[bytes | TimlError], taken: int) -> None:
        self._in_thread -= taken
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
