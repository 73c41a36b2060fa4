"""Warm-up requests that a SavedModel brings along, in ``assets.extra/tf_serving_warmup_requests``.

:source: tensorflow/serving ``servables/tensorflow/saved_model_warmup_util.cc``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from airflow_provider_timl.exceptions import InvalidModelError, TimlError
from airflow_provider_timl.runtimes.tensorflow.calls import Call, run_call
from airflow_provider_timl.runtimes.tensorflow.library import OpError, RecordIterator, prediction_log_pb2
from airflow_provider_timl.runtimes.tensorflow.messages import MessageReader
from airflow_provider_timl.runtimes.tensorflow.session import GraphSession, shorten

PATH = "assets.extra/tf_serving_warmup_requests"
_MOST_RECORDS = 1000


def replay_warmup(folder: Path, session: GraphSession, reader: MessageReader) -> int:
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
        problem = _replay(record, session, reader)
        if problem is not None:
            raise InvalidModelError(f"warm-up request {count} of {PATH} fails: {problem}")
    return count


def _replay(record: bytes, session: GraphSession, reader: MessageReader) -> TimlError | None:
    try:
        call = _read_call(record, reader)
    except TimlError as exc:
        return exc
    result = run_call(session, call) if call else None
    return result if isinstance(result, TimlError) else None


def _read_call(record: bytes, reader: MessageReader) -> Call | None:
    """``None`` for a record without a request."""
    log = prediction_log_pb2.PredictionLog()
    try:
        log.ParseFromString(record)
    except DecodeError as exc:
        raise InvalidModelError("it is no PredictionLog") from exc
    kind = log.WhichOneof("log_type")
    read: dict[str | None, Any] = {
        "predict_log": reader.read_predict,
        "classify_log": lambda request: reader.read_examples(request, verb="classify"),
        "regress_log": lambda request: reader.read_examples(request, verb="regress"),
        "multi_inference_log": reader.read_multi_inference,
    }
    if kind is None:
        return None
    if kind not in read:
        raise InvalidModelError(f"a {kind} cannot be replayed")
    call: Call = read[kind](getattr(log, kind).request)
    return call


def _read_records(path: Path) -> Iterator[bytes]:
    try:
        yield from RecordIterator(str(path), "")
    except OpError as exc:
        raise InvalidModelError(f"{PATH} is damaged, or no TFRecord file: {shorten(exc)}") from exc
