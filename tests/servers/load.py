"""Steady load from keep-alive clients that count every failure and never retry."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any


class Load:
    """Clients on threads, started and ended with the ``with`` block.

    :param rate: requests a second of all clients together; ``None`` is as fast as they can.
    :param most: stop by itself after so many requests.
    """

    def __init__(
        self,
        port: int,
        headers: dict[str, str],
        body: Any,
        *,
        clients: int,
        rate: float | None,
        most: int | None = None,
    ) -> None:
        self._port = port
        self._headers = {"Content-Type": "application/json", **headers}
        self._body = json.dumps(body).encode()
        self._pause = clients / rate if rate else 0.0
        self._most = most
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        self.served_by: Counter[str | None] = Counter()
        self.failures: list[str] = []

    @property
    def count(self) -> int:
        return self.served_by.total() + len(self.failures)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._most is None or kind is not None:
            self._stop.set()
        for thread in self._threads:
            thread.join()

    def share(self, served_by: str) -> float:
        """Percent of the answers that came from one version."""
        return 100 * self.served_by[served_by] / self.served_by.total()

    def _connect(self) -> Any:
        return HTTPConnection("127.0.0.1", self._port, timeout=30)

    def _run(self) -> None:
        connection = self._connect()
        due = time.monotonic()
        while not self._stop.is_set() and (self._most is None or self.count < self._most):
            self._record(connection)
            due += self._pause
            self._stop.wait(max(0.0, due - time.monotonic()))
        connection.close()

    def _record(self, connection: Any) -> None:
        try:
            connection.request("POST", "/v1/models/m:predict", self._body, self._headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as exc:
            connection.close()
            self._fail(f"{time.strftime('%X')} {exc!r}")
            return
        if response.status != 200:
            self._fail(f"{time.strftime('%X')} {response.status} {content[:200]!r}")
            return
        self._succeed(response.getheader("X-TIML-Served-By"))

    def _succeed(self, served_by: str | None) -> None:
        with self._lock:
            self.served_by[served_by] += 1

    def _fail(self, text: str) -> None:
        with self._lock:
            self.failures.append(text)


def describe(failures: Iterable[str]) -> str:
    return "\n".join(list(failures)[:20])
