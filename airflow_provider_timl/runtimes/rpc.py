"""TensorFlow Serving's gRPC services, in the model server's own process and event loop, on a socket of their own.

Bytes in, bytes out: which model a request names is read here (``rpc_messages``), all else is the engine's. Requests go
through the same bounded queue as those of HTTP and are counted with them. ``server`` starts and stops it, and imports
this module only for a runtime that has gRPC: nobody else needs ``grpcio``.

:source: tensorflow_serving/apis ``prediction_service.proto``, ``model_service.proto`` 2.21; ``grpc.health.v1``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from airflow_provider_timl.exceptions import REASON_METADATA, ExternalSystemError, TimlError, TooLargeError
from airflow_provider_timl.runtimes import rpc_messages
from airflow_provider_timl.runtimes.application import ModelApplication, build_sentence
from airflow_provider_timl.runtimes.contract import RpcEngine
from airflow_provider_timl.runtimes.server_config import ServerConfig

Handle = Callable[[bytes, Any], Awaitable[bytes]]

_PREDICTION_METHODS = ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
_UNLIMITED_BYTES = -1
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class RpcServer:
    """Answers with one engine, through the queue of the application."""

    def __init__(self, config: ServerConfig, engine: RpcEngine[Any], application: ModelApplication) -> None:
        self._config = config
        self._engine = engine
        self._application = application
        # gRPC would refuse by a message's announced length, before the gateway can with its sentence; so we do, after
        limits = [(f"grpc.max_{way}_message_length", _UNLIMITED_BYTES) for way in ("receive", "send")]
        self._server = grpc.aio.server(options=limits)
        predictions: dict[str, Handle] = {method: partial(self._predict, method) for method in _PREDICTION_METHODS}
        models: dict[str, Handle] = {"GetModelStatus": self._get_status, "HandleReloadConfigRequest": _refuse_reload}
        services: dict[str, dict[str, Handle]] = {
            "tensorflow.serving.PredictionService": predictions,
            "tensorflow.serving.ModelService": models,
            "grpc.health.v1.Health": {"Check": self._check_health},
        }
        for service, methods in services.items():
            handlers = {name: grpc.unary_unary_rpc_method_handler(handle) for name, handle in methods.items()}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    async def start(self, listen: str) -> None:
        """:param listen: ``unix:/path``.
        :raises ExternalSystemError: the socket cannot be bound.
        """
        try:
            self._server.add_insecure_port(listen)
        except RuntimeError as exc:
            raise ExternalSystemError(f"cannot listen on {listen}: {exc}") from exc
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Tell clients to go elsewhere, and finish what has begun."""
        await self._server.stop(grace_seconds)

    async def _predict(self, method: str, message: bytes, context: Any) -> bytes:
        started = time.perf_counter()
        rows = 0
        try:
            self._check_size(message)
            problem = self._find_problem(method, message)
            if problem is not None:
                self._application.metrics.count(404, 0, time.perf_counter() - started)
                await context.abort(grpc.StatusCode.NOT_FOUND, problem)
            self._application.queue.check_room()
            request = self._engine.parse_rpc(method, message)
            rows = self._engine.count_rows(request)
            answer = await self._run(request)
        except TimlError as exc:
            self._application.metrics.count(exc.status, rows, time.perf_counter() - started)
            await _abort(context, exc)
        self._application.metrics.count(200, rows, time.perf_counter() - started)
        return answer

    async def _run(self, request: Any) -> bytes:
        """Wait for the engine. gRPC cancels this when the client goes away or its deadline is over."""
        answered: asyncio.Future[bytes | TimlError] = asyncio.get_running_loop().create_future()

        def deliver(result: bytes | TimlError) -> None:
            if not answered.done():  # cancelled, though the task did not get to say so
                answered.set_result(result)

        job = self._application.queue.submit(request, deliver)
        try:
            result = await answered
        except asyncio.CancelledError:
            self._application.queue.cancel(job)
            raise
        if isinstance(result, TimlError):
            raise result
        return result

    async def _get_status(self, message: bytes, context: Any) -> bytes:
        try:
            problem = self._find_problem("GetModelStatus", message)
        except TimlError as exc:
            await _abort(context, exc)
        if problem is not None:
            await context.abort(grpc.StatusCode.NOT_FOUND, problem)
        return rpc_messages.build_status(self._config.model_version)

    async def _check_health(self, _message: bytes, _context: Any) -> bytes:
        return rpc_messages.NOT_SERVING if self._application.draining else rpc_messages.SERVING

    def _check_size(self, message: bytes) -> None:
        limit = self._config.max_request_bytes
        if len(message) > limit:
            raise TooLargeError(f"the request body is larger than {limit} bytes; send fewer instances at a time")

    def _find_problem(self, method: str, message: bytes) -> str | None:
        """Why this server does not have the model that is named.

        :raises InvalidInputError: none is named, or by a label, of which there are none.
        """
        for spec in rpc_messages.read_model_specs(method, message):
            problem = self._config.find_problem(spec.name, None if spec.version is None else str(spec.version))
            if problem is not None:
                return problem
            if spec.label is not None:
                raise rpc_messages.build_label_error(spec.label)
        return None


async def _refuse_reload(_message: bytes, context: Any) -> bytes:
    sentence = "which models are served is said to the control plane: deploy a version there"
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, sentence)
    raise AssertionError(sentence)  # abort always raises


async def _abort(context: Any, error: TimlError) -> NoReturn:
    code = _CODES.get(error.status, grpc.StatusCode.INTERNAL)
    await context.abort(code, build_sentence(error), ((REASON_METADATA, error.reason),))
    raise error  # abort always raises
