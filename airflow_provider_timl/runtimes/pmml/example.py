"""The example request of a model: what its first verification record says, or else values that its fields take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from airflow_provider_timl.entities import SignatureField
from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.pmml.document import DataField, PmmlDocument
from airflow_provider_timl.runtimes.pmml.model import is_categorical, to_value
from airflow_provider_timl.runtimes.rows import COUNTS

_EXAMPLES = {"double": 0.0, "float": 0.0, "integer": 0, "boolean": False, "string": "a"}
_MOMENTS = {"date": "2000-01-01", "dateTime": "2000-01-01T00:00:00", "time": "12:00:00"}


def build_example(inputs: Sequence[SignatureField], document: PmmlDocument) -> dict[str, Any]:
    """A request body of one instance."""
    record = read_inputs(inputs, document, document.records[0]) if document.records else {}
    values = {}
    for field in inputs:
        value = record.get(field.name)
        is_allowed = value is not None and (field.values is None or value in field.values)
        if is_allowed or field.name not in document.target_names:
            values[field.name] = value if is_allowed else _choose_value(document.data_fields[field.name])
    return {"instances": [values]}


def read_inputs(inputs: Sequence[SignatureField], document: PmmlDocument, record: dict[str, str]) -> dict[str, Any]:
    """The inputs of a verification record; without those that it leaves empty.

    :raises InvalidModelError: a value is not of its field's type.
    """
    columns = {field.name: field.column for field in document.verification_fields}
    texts = {field.name: record.get(columns.get(field.name, field.name), "").strip() for field in inputs}
    return {name: to_value(document.data_fields[name], text) for name, text in texts.items() if text}


def _choose_value(data: DataField) -> Any:
    """A value that the field takes: its first category, the middle of its interval, or a plain one of its type."""
    if data.values and is_categorical(data):
        return to_value(data, data.values[0])
    low, high = data.margins or (None, None)
    if low is not None or high is not None:
        return _choose_between(low, high, data.dtype)
    if data.values and data.optype == "continuous":
        return to_value(data, data.values[0])
    return _MOMENTS.get(data.dtype, _EXAMPLES.get(data.dtype, 0 if data.dtype in COUNTS else "a"))


def _choose_between(low: float | None, high: float | None, dtype: str) -> float | int:
    if low is None or high is None:
        margin = high if low is None else low
        middle = (margin or 0.0) + (1.0 if high is None else -1.0)
    else:
        middle = low / 2 + high / 2
    if not math.isfinite(middle):
        raise InvalidModelError("an Interval has a margin that is no finite number")
    return int(middle) if dtype == "integer" else middle
