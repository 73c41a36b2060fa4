"""A graph that TensorFlow Serving's program runs: the same calls by names of tensors, sent as ``PredictRequest``.

A request names a signature and aliases, not tensors; any signature with these feeds gives the same value of a tensor.
``Predict`` takes signatures of all methods, so results of classify and regress come as tensors, too, and are told by
the same code whoever ran the graph. The session owns the process, and closes it.

:source: tensorflow/serving ``apis/predict.proto``, ``servables/tensorflow/predict_util.cc`` (2.x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grpc

from airflow_provider_timl.exceptions import InvalidInputError, NotReadyError, TimeoutExpiredError, TimlError
from airflow_provider_timl.runtimes.tensorflow.library import predict_pb2
from airflow_provider_timl.runtimes.tensorflow.model_server_process import MODEL_NAME, ModelServerProcess
from airflow_provider_timl.runtimes.tensorflow.session import shorten_text
from airflow_provider_timl.runtimes.tensorflow.signatures import GraphSignature
from airflow_provider_timl.runtimes.tensorflow.tensor_protos import read_tensor, write_tensor
from airflow_provider_timl.runtimes.tensors.spec import Array

_PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"
#: Callers were told long before that it takes too long; a run without an end must not hold the engine for ever.
_RUN_SECONDS = 600.0
#: Callers choose outputs as they like.
_MOST_PLANS = 64
_REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}
_FAILED: dict[grpc.StatusCode, type[TimlError]] = {
    grpc.StatusCode.UNAVAILABLE: NotReadyError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimeoutExpiredError,
}


@dataclass(frozen=True)
class Part:
    """What one signature gives of a run: the alias of each tensor."""

    signature: GraphSignature
    aliases: dict[str, str]


class ModelServerSession:
    """A ``ModelSession``. Runs that are started go to the program at once, which works at as many as it has threads."""

    def __init__(self, process: ModelServerProcess, signatures: Mapping[str, GraphSignature]) -> None:
        self._process = process
        known = tuple(signatures.values())
        self._plan = lru_cache(_MOST_PLANS)(lambda feeds, fetches: plan_parts(known, feeds, fetches))
        self._predict = process.channel.unary_unary(_PREDICT_METHOD)

    def run(self, feeds: tuple[str, ...], fetches: tuple[str, ...], arrays: Sequence[Array]) -> list[Array]:
        """As ``ModelSession`` says."""
        return self.start(feeds, fetches, arrays)()

    def start(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], arrays: Sequence[Array]
    ) -> Callable[[], list[Array]]:
        """Send it."""
        sent = [(part, self._send(part, arrays)) for part in self._plan(feeds, fetches)]

        def wait() -> list[Array]:
            values: dict[str, Array] = {}
            for part, answer in sent:
                response = predict_pb2.PredictResponse.FromString(_wait(answer))
                for fetch, alias in part.aliases.items():
                    values[fetch] = read_tensor(alias, response.outputs[alias])
            return [values[fetch] for fetch in fetches]

        return wait

    def close(self) -> None:
        """Stop the program."""
        self._process.close()

    def _send(self, part: Part, arrays: Sequence[Array]) -> Any:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL_NAME
        request.model_spec.signature_name = part.signature.specs.name
        for alias, array in zip(part.signature.specs.inputs, arrays, strict=True):
            write_tensor(request.inputs[alias], array)
        request.output_filter.extend(dict.fromkeys(part.aliases.values()))
        return self._predict.future(request.SerializeToString(), timeout=_RUN_SECONDS)


def plan_parts(
    signatures: Sequence[GraphSignature], feeds: tuple[str, ...], fetches: tuple[str, ...]
) -> tuple[Part, ...]:
    """Which signatures to ask for which tensors: one for all where there is one, else as few as come first."""
    fitting = [each for each in signatures if each.feeds == feeds]
    fitting.sort(key=lambda each: len(set(fetches) - set(each.fetches)))
    wanted = dict.fromkeys(fetches)
    parts = []
    for signature in fitting:
        names = dict(zip(signature.fetches, signature.specs.outputs, strict=True))
        aliases = {fetch: names[fetch] for fetch in wanted if fetch in names}
        if aliases:
            parts.append(Part(signature, aliases))
            wanted = dict.fromkeys(fetch for fetch in wanted if fetch not in aliases)
    return tuple(parts)


def _wait(answer: Any) -> bytes:
    try:
        content: bytes = answer.result()
    except grpc.RpcError as exc:
        raise build_error(exc.code(), exc.details() or "") from exc
    return content


def build_error(code: grpc.StatusCode, details: str) -> TimlError:
    """The error that our own session would raise for the same failure of a graph."""
    message = shorten_text(details)
    if code in _REFUSED:
        return InvalidInputError(message)
    return _FAILED.get(code, TimlError)(f"the model failed: {message}")
