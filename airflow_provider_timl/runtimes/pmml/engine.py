"""A PMML model that answers requests.

A row crosses into Java once, as an array of boxed values in the order of the model's inputs, and comes back the same
way; many rows cross together. PMML4S models are immutable but for association models (see ``_forget``), so one engine
thread and the caller of ``score`` may share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jpype
import orjson

from airflow_provider_timl.entities import Resources, Signature
from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError, TimlError
from airflow_provider_timl.runtimes.contract import Batching
from airflow_provider_timl.runtimes.jvm import get_java_class, start_jvm
from airflow_provider_timl.runtimes.pmml.batch import FEWEST_ROWS, BatchEvaluator
from airflow_provider_timl.runtimes.pmml.document import PmmlDocument
from airflow_provider_timl.runtimes.pmml.example import build_example
from airflow_provider_timl.runtimes.pmml.model import (
    answers_by_segment,
    build_inputs,
    build_outputs,
    describe_java_error,
    list_outputs,
    list_shares,
    load_model,
)
from airflow_provider_timl.runtimes.pmml.values import SeriesBuilder, build_reader
from airflow_provider_timl.runtimes.rows import MOMENTS, Row, RowReader, RowRequest

_WARM_UP_ROUNDS = 200
#: Angel Serving's names of types.
_TYPE_MAP = {
    "double": "DT_DOUBLE",
    "float": "DT_FLOAT",
    "integer": "DT_INT64",
    "string": "DT_STRING",
    "boolean": "DT_BOOL",
}
#: In an array, PMML4S takes a missing value of these for the smallest integer or for false (seen with 1.5.8).
_FRAGILE = frozenset({"integer", "boolean"})


class PmmlEngine:
    """A loaded PMML model. ``label``: the output that is the prediction itself.

    :source: PMML4S 1.5.8, ``org.pmml4s.model.Model``.
    """

    batching = Batching()

    def __init__(self, path: Path, document: PmmlDocument, resources: Resources) -> None:
        start_jvm(resources.memory_mb, resources.cpu)
        self._model = load_model(path, document)
        self._outputs = list_outputs(self._model, document)
        self.label = next((output.name for output in self._outputs if output.is_label), None)
        self._by_segment = answers_by_segment(self._model)
        self._collects = any(field.usage == "group" for field in document.mining_fields.values())
        self._readers = [(output.name, output.index, build_reader(output.kind)) for output in self._outputs]
        self._objects = jpype.JArray(jpype.JObject)
        self._map = get_java_class("java.util.HashMap")
        self._output_names = [str(field.name()) for field in self._model.outputFields()]
        inputs = build_inputs(self._model, document)
        self._names = [field.name for field in inputs]
        self._fragile = [index for index, field in enumerate(inputs) if field.dtype in _FRAGILE]
        has_moments = any(field.dtype in MOMENTS for field in inputs)
        self._series = SeriesBuilder(self._model, inputs) if has_moments else None
        self._is_plain = not self._by_segment and not has_moments
        self._shares = list_shares(self._model)
        is_alone = self._by_segment or self._collects or has_moments or bool(self._shares)
        self._batch = None if is_alone else BatchEvaluator(self._model, self._outputs)
        self._reader = RowReader(inputs)
        self.signature = Signature(
            inputs=inputs, outputs=build_outputs(self._outputs, document), example=build_example(inputs, document)
        )

    def describe(self) -> dict[str, Any]:
        return {"typeMap": {field.name: _TYPE_MAP.get(field.dtype, "DT_STRING") for field in self.signature.inputs}}

    def describe_metadata(self) -> dict[str, Any]:
        return {"signature": self.signature.model_dump(mode="json")}

    def parse(self, verb: str, body: bytes) -> RowRequest:
        if verb != "predict":
            raise NotFoundError("method", f":{verb}", known=":predict")
        return self._reader.read(body)

    def count_rows(self, request: RowRequest) -> int:
        return len(request.rows)

    def run(self, batch: Sequence[RowRequest]) -> list[bytes | TimlError]:
        rows = [row for request in batch for row in request.rows]
        together = self._predict_together(rows)
        if together is None:
            return [self._answer_one_by_one(request) for request in batch]
        predictions = iter(together)
        return [_write(request, [next(predictions) for _ in request.rows]) for request in batch]

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object] | TimlError]:
        self._reader.check_columns(columns)
        self._forget()
        return [self._score_row(columns, row) for row in rows]

    def predict_row(self, row: Row) -> dict[str, Any]:
        """Outputs by name. NaN and infinities, which JSON does not have, become ``None`` like a missing value.

        :raises InvalidInputError: the model cannot evaluate the row.
        """
        prediction = {}
        try:
            answer = self._evaluate(row)
            for name, index, read in self._readers:
                value = answer[index]
                prediction[name] = None if value is None else read(value)
            if self._shares:
                self._scale(prediction, answer)
        except jpype.JException as exc:
            raise InvalidInputError(f"the model cannot evaluate the row: {describe_java_error(exc)}") from exc
        return prediction

    def close(self) -> None:
        """Nothing: the JVM ends with the process."""

    def warm_up(self) -> None:
        """Let the JVM compile the paths of small and large requests, by running the example."""
        request = self.parse("predict", orjson.dumps(self.signature.example))
        for _ in range(_WARM_UP_ROUNDS):
            self.run([request])
        for _ in range(_WARM_UP_ROUNDS // 10):
            self.run([request] * FEWEST_ROWS)

    def _predict_together(self, rows: list[Row]) -> list[dict[str, Any]] | None:
        if len(rows) < FEWEST_ROWS or self._batch is None:
            return None
        if any(row[index] is None for index in self._fragile for row in rows):
            return None
        columns = self._batch.evaluate(rows)
        if columns is None:
            return None
        names = [output.name for output in self._outputs]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _answer_one_by_one(self, request: RowRequest) -> bytes | TimlError:
        self._forget()
        predictions = []
        for number, row in enumerate(request.rows):
            try:
                predictions.append(self.predict_row(row))
            except InvalidInputError as exc:
                return InvalidInputError(exc.message, field=f"instances[{number}]")
        return _write(request, predictions)

    def _score_row(self, columns: Sequence[str], values: Sequence[object]) -> dict[str, object] | TimlError:
        if len(values) != len(columns):
            return InvalidInputError(f"the row has {len(values)} values, not {len(columns)}")
        try:
            return self.predict_row(self._reader.read_row(columns, values))
        except InvalidInputError as exc:
            return exc

    def _evaluate(self, row: Row) -> Sequence[Any]:
        """All output fields of the model, as Java objects; a row goes as a map where PMML4S would misread an array."""
        if self._is_plain and (None not in row or all(row[index] is not None for index in self._fragile)):
            answer: Sequence[Any] = self._model.predict(self._objects(row))
            return answer
        if self._series is not None and not self._by_segment:
            moments: Sequence[Any] = self._model.predict(self._series.build(row)).asArray()
            return moments
        by_name = self._predict_map(row)
        if not self._by_segment:
            return [by_name.get(name) for name in self._output_names]
        answers = dict.fromkeys(range(len(self._output_names)))
        for output in self._outputs:
            answers[output.index] = next(
                (by_name.get(name) for name in output.sources if by_name.containsKey(name)), None
            )
        return list(answers.values())

    def _scale(self, prediction: dict[str, Any], answer: Sequence[Any]) -> None:
        """Let the probabilities of all classes have the sum of one."""
        total = sum(float(answer[index] or 0.0) for index in self._shares)
        for output in self._outputs:
            if output.is_probability and prediction[output.name] is not None and total > 0:
                prediction[output.name] /= total

    def _predict_map(self, row: Row) -> Any:
        named = {name: value for name, value in zip(self._names, row, strict=True) if value is not None}
        return self._model.predict(self._map(named))

    def _forget(self) -> None:
        """Make PMML4S forget the transaction whose items it collects over rows: that of another request."""
        if self._collects:
            self._predict_map([None] * len(self._names))


def _write(request: RowRequest, predictions: list[dict[str, Any]]) -> bytes:
    if request.keys is not None:
        for prediction, key in zip(predictions, request.keys, strict=True):
            prediction["key"] = key
    return orjson.dumps({"predictions": predictions})
