"""Rows of tables: columns named as the inputs, a scalar or a list in each cell.

A list is one of Parquet, or its JSON text in CSV. Cells are checked by the rules of requests. All rows that are right
are one run, where the model was seen to give rows the same results together as alone.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from airflow_provider_timl.exceptions import InvalidInputError, TimlError
from airflow_provider_timl.runtimes.tensorflow.session import ModelSession
from airflow_provider_timl.runtimes.tensorflow.signatures import GraphSignature
from airflow_provider_timl.runtimes.tensors.json_answer import shorten_floats
from airflow_provider_timl.runtimes.tensors.json_request import read_instances
from airflow_provider_timl.runtimes.tensors.spec import Array

Result = dict[str, object] | TimlError


class TableScorer:
    """Scores rows with one signature, whose inputs and outputs all have the batch as their first dimension."""

    def __init__(self, session: ModelSession, signature: GraphSignature) -> None:
        self._session = session
        self._signature = signature

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, is_joinable: bool) -> list[Result]:
        """:raises InvalidInputError: an input is not among the columns."""
        missing = next((name for name in self._signature.specs.inputs if name not in columns), None)
        if missing is not None:
            raise InvalidInputError(f"the input has no such column; it has {', '.join(columns)}", missing)
        places = [(name, columns.index(name)) for name in self._signature.specs.inputs]
        instances: list[dict[str, Any] | TimlError] = [self._build_instance(places, row, len(columns)) for row in rows]
        step = len(instances) if is_joinable else 1
        parts = (instances[first : first + step] for first in range(0, len(instances), max(1, step)))
        return [result for part in parts for result in self._score(part)]

    def _build_instance(
        self, places: Sequence[tuple[str, int]], row: Sequence[object], width: int
    ) -> dict[str, Any] | TimlError:
        if len(row) != width:
            return InvalidInputError(f"the row has {len(row)} values, not {width}")
        try:
            return {name: self._read_cell(name, row[place]) for name, place in places}
        except InvalidInputError as exc:
            return exc

    def _read_cell(self, name: str, value: Any) -> Any:
        spec = self._signature.specs.inputs[name]
        if isinstance(value, str) and (spec.dtype != object or len(spec.shape or ()) > 1):
            return _parse_list(name, value)
        if isinstance(value, bytes):
            return {"b64": b64encode(value).decode()}
        if spec.dtype.kind in "fV" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        return value

    def _score(self, instances: list[dict[str, Any] | TimlError]) -> list[Result]:
        """All at once; when that fails, halves, down to the rows that are to blame."""
        right = [number for number, instance in enumerate(instances) if not isinstance(instance, TimlError)]
        results: list[Result] = [each if isinstance(each, TimlError) else {} for each in instances]
        stack = [right] if right else []
        while stack:
            numbers = stack.pop()
            try:
                found: list[Result] = self._run([instances[number] for number in numbers])
            except TimlError as exc:
                if len(numbers) > 1:
                    middle = len(numbers) // 2
                    stack += [numbers[middle:], numbers[:middle]]
                    continue
                found = [_relocate(exc)]
            for number, result in zip(numbers, found, strict=True):
                results[number] = result
        return results

    def _run(self, instances: Sequence[Any]) -> list[Result]:
        signature = self._signature
        inputs = read_instances(list(instances), signature.specs.inputs)
        arrays = [inputs[name] for name in signature.specs.inputs]
        outputs = self._session.run(signature.feeds, signature.fetches, arrays)
        for name, output in zip(signature.specs.outputs, outputs, strict=True):
            if output.ndim == 0 or len(output) != len(instances):
                raise InvalidInputError(f"the output {name!r} has no value for each row; its shape is {output.shape}")
        columns = [_to_values(output) for output in outputs]
        names = list(signature.specs.outputs)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _parse_list(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise InvalidInputError("the cell is neither a value of the input's type nor the JSON of a list", name) from exc


def _to_values(output: Array) -> list[Any]:
    """Python's own values, one for each row."""
    if output.dtype == object:
        return [_decode(value) for value in output.tolist()]
    if output.dtype.kind == "V" or output.dtype in (np.float16, np.float32):
        values: list[Any] = shorten_floats(output)
        return values
    plain: list[Any] = output.tolist()
    return plain


def _decode(value: Any) -> Any:
    return [_decode(each) for each in value] if isinstance(value, list) else value.decode(errors="replace")


def _relocate(error: TimlError) -> TimlError:
    """A row's own error, without the place that it had in a request."""
    field = error.details.get("field")
    if not isinstance(error, InvalidInputError) or not field:
        return error
    return InvalidInputError(error.message, field.removeprefix("instances[0]").lstrip(".") or None)
