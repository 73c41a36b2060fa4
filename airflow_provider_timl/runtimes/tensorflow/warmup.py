"""Warm-up requests that a SavedModel brings along, in ``assets.extra/tf_serving_warmup_requests``.

:source: tensorflow/serving ``servables/tensorflow/saved_model_warmup_util.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from airflow_provider_timl.exceptions import InvalidModelError, TimlError
from airflow_provider_timl.runtimes.tensorflow.library import OpError, RecordIterator, prediction_log_pb2
from airflow_provider_timl.runtimes.tensorflow.session import shorten

PATH = "assets.extra/tf_serving_warmup_requests"
_MOST_RECORDS = 1000
_METHODS = {
    "predict_log": "Predict",
    "classify_log": "Classify",
    "regress_log": "Regress",
    "multi_inference_log": "MultiInference",
}
#: Answers a serialized request of a method.
Answer = Callable[[str, bytes], bytes | TimlError]


def replay_warmup(folder: Path, answer: Answer) -> int:
    """Run the requests of the model's file, in order, each by itself.

    :return: how many there were; 0 without a file.
    :raises InvalidModelError: the file is damaged or too long, or a request fails.
    """
    path = folder / PATH
    if not path.is_file():
        return 0
    count = 0
    for count, record in enumerate(_read_records(path), 1):
        if count > _MOST_RECORDS:
            raise InvalidModelError(f"{PATH} has more than {_MOST_RECORDS} records")
        problem = _replay(record, answer)
        if problem is not None:
            raise InvalidModelError(f"warm-up request {count} of {PATH} fails: {problem}")
    return count


def _replay(record: bytes, answer: Answer) -> TimlError | None:
    """A record without a request is well."""
    log = prediction_log_pb2.PredictionLog()
    try:
        log.ParseFromString(record)
    except DecodeError:
        return InvalidModelError("it is no PredictionLog")
    kind = log.WhichOneof("log_type")
    if kind is None:
        return None
    if kind not in _METHODS:
        return InvalidModelError(f"a {kind} cannot be replayed")
    result = answer(_METHODS[kind], getattr(log, kind).request.SerializeToString())
    return result if isinstance(result, TimlError) else None


def _read_records(path: Path) -> Iterator[bytes]:
    try:
        yield from RecordIterator(str(path), "")
    except OpError as exc:
        raise InvalidModelError(f"{PATH} is damaged, or no TFRecord file: {shorten(exc)}") from exc
