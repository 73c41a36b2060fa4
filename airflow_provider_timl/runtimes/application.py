"""The routes of the model server: TensorFlow Serving's REST paths, health, metrics.

Errors are ``{"error": "<sentence>"}``, the form that clients of TensorFlow Serving and Angel Serving read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import orjson

from airflow_provider_timl.exceptions import InvalidInputError, TimlError
from airflow_provider_timl.runtimes.batching import EngineQueue
from airflow_provider_timl.runtimes.contract import Engine, Monitor, MonitoredEngine
from airflow_provider_timl.runtimes.http import HttpConnection, HttpRequest, HttpResponse
from airflow_provider_timl.runtimes.metrics import ServerMetrics
from airflow_provider_timl.runtimes.server_config import ServerConfig

_MODEL_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?(?::(\w+)|/(metadata))?")
_OK = HttpResponse(200, b'{"status":"ok"}')


def build_sentence(error: TimlError) -> str:
    """What a caller is told, with the field that is wrong."""
    field = error.details.get("field") if isinstance(error, InvalidInputError) else None
    return f"{field}: {error.message}" if field else error.message


class ModelApplication:
    """Answers requests with one engine. Lives on the event loop. Owns ``queue`` and ``metrics``, which other transports
    of the same server share."""

    def __init__(self, config: ServerConfig, engine: Engine[Any]) -> None:
        self.draining = False
        self.max_request_bytes = config.max_request_bytes
        self.connections: set[HttpConnection] = set()
        self._config = config
        self._engine = engine
        self.queue = EngineQueue(engine, config.queue_size, config.request_timeout_seconds)
        self.metrics = ServerMetrics(lambda: self.queue.depth)
        self._monitor: Monitor | None = engine.monitor if isinstance(engine, MonitoredEngine) else None
        self._pages = self._build_pages()
        self._predict_paths = {f"/v1/models/{name}:predict".encode(): name for name in config.model_names}
        self._jobs: dict[HttpConnection, Any] = {}

    def close(self) -> None:
        self.queue.close()

    def connection_opened(self, connection: HttpConnection) -> None:
        self.connections.add(connection)

    def connection_closed(self, connection: HttpConnection) -> None:
        self.connections.discard(connection)
        job = self._jobs.pop(connection, None)
        if job is not None:
            self.queue.cancel(job)

    def build_error(self, status: int, message: str) -> HttpResponse:
        return HttpResponse(status, orjson.dumps({"error": message}))

    def handle(self, request: HttpRequest, connection: HttpConnection) -> None:
        name = self._predict_paths.get(request.target)
        if name is not None and request.method == "POST":
            self._work(request, connection, name, None, "predict")
            return
        path = request.target.split(b"?", 1)[0].decode("latin-1")
        match = _MODEL_PATH.fullmatch(path)
        if match and match[3] and request.method == "POST" and self._config.find_problem(match[1], match[2]) is None:
            self._work(request, connection, match[1], match[2], match[3])
        else:
            connection.respond(request, self._answer(request.method, path))

    def _work(
        self, request: HttpRequest, connection: HttpConnection, name: str, version: str | None, verb: str
    ) -> None:
        """Parse, queue, and answer when the engine is done."""
        started = time.perf_counter()

        def deliver(result: bytes | TimlError) -> None:
            self._jobs.pop(connection, None)
            response = self._build_failure(result) if isinstance(result, TimlError) else HttpResponse(200, result)
            seconds = time.perf_counter() - started
            self.metrics.count(response.status, rows, seconds)
            if self._monitor is not None:
                self._monitor.count(name, version, is_success=response.status == 200, seconds=seconds)
            connection.respond(request, response)

        rows = 0
        try:
            self.queue.check_room()
            parsed = self._engine.parse(verb, request.body)
            rows = self._engine.count_rows(parsed)
            self._jobs[connection] = self.queue.submit(parsed, deliver)
        except TimlError as exc:
            deliver(exc)

    def _build_failure(self, error: TimlError) -> HttpResponse:
        headers = ((b"retry-after", b"1"),) if error.retryable else ()
        return HttpResponse(error.status, orjson.dumps({"error": build_sentence(error)}), headers=headers)

    def _answer(self, method: str, path: str) -> HttpResponse:
        match = _MODEL_PATH.fullmatch(path)
        if match is None and path not in self._pages:
            return self.build_error(404, f"there is nothing at {path}; predictions are at /v1/models/m:predict")
        expected = "POST" if match and match[3] else "GET"
        if method != expected:
            error = self.build_error(405, f"{path} takes {expected}, not {method}")
            return HttpResponse(405, error.body, headers=((b"allow", expected.encode()),))
        if match is None:
            return self._pages[path]()
        problem = self._config.find_problem(match[1], match[2])
        if problem is not None:
            return self.build_error(404, problem)
        return HttpResponse(200, orjson.dumps(self._build_metadata() if match[4] else self._build_status()))

    def _build_pages(self) -> dict[str, Callable[[], HttpResponse]]:
        pages = {"/healthz": self._answer_health, "/readyz": self._answer_ready, "/metrics": self._answer_metrics}
        monitor = self._monitor
        if monitor is not None:
            pages[monitor.path] = lambda: HttpResponse(200, monitor.render())
        return pages

    def _answer_health(self) -> HttpResponse:
        return _OK

    def _answer_ready(self) -> HttpResponse:
        return self.build_error(503, "draining: no new requests, please") if self.draining else _OK

    def _answer_metrics(self) -> HttpResponse:
        return HttpResponse(200, self.metrics.render(), b"text/plain; version=0.0.4; charset=utf-8")

    def _build_status(self) -> dict[str, Any]:
        """TensorFlow Serving's status, Angel Serving's ``typeMap``, and our own signature."""
        status = {"error_code": "OK", "error_message": ""}
        version = {"version": str(self._config.model_version), "state": "AVAILABLE", "status": status}
        return {
            "model_version_status": [version],
            **self._engine.describe(),
            "signature": self._engine.signature.model_dump(mode="json"),
        }

    def _build_metadata(self) -> dict[str, Any]:
        """TensorFlow Serving's form; it prints the signature's name, which is none here."""
        name, version = self._config.model_names[0], str(self._config.model_version)
        spec = {"name": name, "signature_name": "", "version": version}
        return {"model_spec": spec, "metadata": self._engine.describe_metadata()}
