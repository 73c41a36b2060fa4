"""The ``onnx`` runtime: one ``.onnx`` file, with files of external data beside it, run by ONNX Runtime.

Requests and answers are those of TensorFlow Serving's REST API (``runtimes/tensors``), with one signature. Requests
that wait are joined along dimension 0 where the model allows that: tried when it is loaded, not assumed.

In tables, each input is the column of its name; a cell is a value, or a list (Parquet) or the JSON of one (CSV). A
model with one input of ``k`` numbers in a row takes any table of exactly ``k`` columns, too, in their order.

ONNX Runtime is imported when a model is opened, not where runtimes are listed. What is hostile in a file is looked for
before ONNX Runtime sees it (``read_facts``): paths of external data, and its mark for data at an address of memory,
which is no plain name either.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from airflow_provider_timl.entities import InspectionReport, Resources, Signature, SignatureField
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, NotFoundError, TimlError
from airflow_provider_timl.runtimes.contract import Batching, RuntimeOptions, RuntimeProgram
from airflow_provider_timl.runtimes.tensors.json_answer import shorten_floats, write_predict
from airflow_provider_timl.runtimes.tensors.json_request import (
    DEFAULT_SIGNATURE,
    PredictRequest,
    read_instances,
    read_predict,
)
from airflow_provider_timl.runtimes.tensors.spec import Array, TensorSignature, TensorSpec
from airflow_provider_timl.runtimes.wire_format import read_fields

_DTYPES = {
    **{f"tensor({name})": np.dtype(name) for name in ("bool", "int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64", "float16")},
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    "tensor(string)": np.dtype(object),
}
#: What scikit-learn's classifiers give: a row's probabilities by class.
_MAPS = re.compile(r"seq\(map\((string|int64),tensor\((float|double|int64|string)\)\)\)")
#: Words that the signatures of all runtimes share; other types have NumPy's.
_WORDS = {"float32": "float", "float64": "double", "int64": "integer", "bool": "boolean", "object": "string"}
_FATAL = 4
_MOST_REASON = 300
#: Sizes and numbers that an example is tried with: models may need so many of something, or take numbers for places.
_EXAMPLE_SIZES = (1, 32, 224)
_EXAMPLE_NUMBERS = (1, 0)
_MOST_EXAMPLE_VALUES = 2**20
_MOST_SHOWN_VALUES = 1024
Tensors = dict[str, Array]


class OnnxEngine:
    """A loaded ONNX model. :source: onnxruntime 1.2x, ``InferenceSession``."""

    batching = Batching()

    def __init__(self, session: Any) -> None:
        self._session = session
        self._specs = {arg.name: _build_input(arg) for arg in session.get_inputs()}
        if not self._specs:
            raise InvalidModelError("the model has no input")
        self._outputs = {arg.name: _build_output(arg) for arg in session.get_outputs()}
        found = {arg.name: _MAPS.fullmatch(arg.type) for arg in session.get_outputs()}
        self._maps = {name: match[2] == "float" for name, match in found.items() if match}  # whether of float32
        self._strings = [name for name, spec in self._specs.items() if spec.dtype.kind == "O"]
        self._signatures = {
            DEFAULT_SIGNATURE: TensorSignature(DEFAULT_SIGNATURE, self._specs, self._outputs),
        }
        self.has_free_sizes = any(None in (spec.shape or (None, None))[1:] for spec in self._specs.values())
        self.trouble = ""  # why the last example tried was refused
        example, answer = self._find_example()
        self.has_example = bool(answer)
        self._can_join = self._try_joining(example)
        self.signature = Signature(
            inputs=[_build_field(spec) for spec in self._specs.values()],
            outputs=[self._build_output_field(spec, answer.get(name)) for name, spec in self._outputs.items()],
            example=_build_example(example, answer),
        )

    def describe(self) -> dict[str, Any]:
        return {}

    def describe_metadata(self) -> dict[str, Any]:
        return {"signature": self.signature.model_dump(mode="json")}

    def parse(self, verb: str, body: bytes) -> PredictRequest:
        if verb != "predict":
            raise NotFoundError("method", f":{verb}", known=":predict")
        request = read_predict(body, self._signatures)
        self._decode_strings(request.inputs)
        return request

    def count_rows(self, request: PredictRequest) -> int:
        return request.row_count

    def run(self, batch: Sequence[PredictRequest]) -> list[bytes | TimlError]:
        groups: dict[object, list[int]] = {}
        for number, request in enumerate(batch):
            groups.setdefault(self._find_group(request) or number, []).append(number)
        answers: dict[int, bytes | TimlError] = {}
        for numbers in groups.values():
            answers.update(zip(numbers, self._answer([batch[number] for number in numbers]), strict=True))
        return [answers[number] for number in range(len(batch))]

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object] | TimlError]:
        places = self._choose_columns(columns)
        results: list[dict[str, object] | TimlError] = []
        step = self.batching.most_rows if self._can_join else 1
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            results += self._score([self._build_instance(places, len(columns), row) for row in part])
        return results

    def close(self) -> None:
        """Nothing: the session goes with the process."""

    def _evaluate(self, inputs: Mapping[str, Array]) -> Tensors:
        """:raises InvalidInputError: the model does not take these values."""
        try:
            values = self._session.run(None, inputs)
        except _list_errors() as exc:
            raise InvalidInputError(f"the model cannot evaluate the request: {_explain(exc)}") from exc
        return {
            name: _build_maps(value, self._maps[name]) if name in self._maps else np.asarray(value)
            for name, value in zip(self._outputs, values, strict=True)
        }

    def _answer(self, requests: Sequence[PredictRequest]) -> list[bytes | TimlError]:
        """Together, or each alone: a request that the model does not take must hurt no other."""
        if len(requests) > 1:
            try:
                parts = self._evaluate_together([request.inputs for request in requests])
            except InvalidInputError:
                return [self._answer([request])[0] for request in requests]
            return [_write(outputs, request) for outputs, request in zip(parts, requests, strict=True)]
        try:
            return [_write(self._evaluate(requests[0].inputs), requests[0])]
        except InvalidInputError as exc:
            return [exc]

    def _evaluate_together(self, parts: Sequence[Mapping[str, Array]]) -> list[Tensors]:
        """:raises InvalidInputError: the model does not take them together."""
        outputs = self._evaluate({name: np.concatenate([part[name] for part in parts]) for name in self._specs})
        sizes = [len(part[next(iter(self._specs))]) for part in parts]
        if any(array.ndim == 0 or len(array) != sum(sizes) for array in outputs.values()):
            raise InvalidInputError("the model's outputs have no row for each row of its inputs")
        ends = np.cumsum(sizes).tolist()
        return [
            {name: array[end - size : end] for name, array in outputs.items()}
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _find_group(self, request: PredictRequest) -> object:
        """What requests have in common that can be joined; ``None`` for those that cannot."""
        if not self._can_join:
            return None
        shapes = [array.shape for array in request.inputs.values()]
        if any(shape[0] != shapes[0][0] for shape in shapes):
            return None
        return tuple(shape[1:] for shape in shapes)

    def _try_joining(self, example: Tensors) -> bool:
        """Whether two rows have the same answers together as alone; models may mix the rows of a batch."""
        shapes = [spec.shape for spec in chain(self._specs.values(), self._outputs.values())]
        if not example or any(shape is not None and shape[0] is not None for shape in shapes):
            return False
        if any(spec.shape is None for spec in self._specs.values()):
            return False
        other = {name: _vary(array) for name, array in example.items()}
        try:
            alone = [self._evaluate(part) for part in (example, other)]
            together = self._evaluate_together([example, other])
        except InvalidInputError:
            return False
        return all(_is_same(one[name], two[name]) for one, two in zip(alone, together, strict=True) for name in one)

    def _find_example(self) -> tuple[Tensors, Tensors]:
        """Inputs that the model takes, and its answer; both empty when none of those tried is taken."""
        for size in _EXAMPLE_SIZES if self.has_free_sizes else _EXAMPLE_SIZES[:1]:
            for number in _EXAMPLE_NUMBERS:
                shapes = {name: _choose_shape(spec, size) for name, spec in self._specs.items()}
                if sum(map(prod, shapes.values())) > _MOST_EXAMPLE_VALUES:
                    continue
                inputs = {name: _fill(shape, self._specs[name].dtype, number) for name, shape in shapes.items()}
                try:
                    return inputs, self._evaluate(inputs)
                except InvalidInputError as exc:
                    self.trouble = exc.message
        return {}, {}

    def _build_output_field(self, spec: TensorSpec, answer: Array | None) -> SignatureField:
        """ONNX Runtime does not tell a scalar from an output of unknown rank; the example's answer does."""
        shape = [None] * answer.ndim if spec.shape is None and answer is not None else spec.shape
        is_map = spec.name in self._maps
        return _build_field(TensorSpec(spec.name, spec.dtype, None if shape is None else tuple(shape)), is_map)

    def _decode_strings(self, inputs: Tensors) -> None:
        """ONNX Runtime takes texts.

        :raises InvalidInputError: bytes are none.
        """
        for name in self._strings:
            try:
                texts = [value.decode() for value in inputs[name].ravel()]
            except UnicodeDecodeError:
                raise InvalidInputError("strings of ONNX models are UTF-8; this one is not", field=name) from None
            inputs[name] = np.array(texts, dtype=object).reshape(inputs[name].shape)

    def _choose_columns(self, columns: Sequence[str]) -> dict[str, int | None]:
        """The column of each input; ``None``: all of them in a list.

        :raises InvalidInputError: an input has none.
        """
        missing = next((name for name in self._specs if name not in columns), None)
        if missing is None:
            return {name: list(columns).index(name) for name in self._specs}
        shape = self._specs[missing].shape
        if len(self._specs) > 1 or shape is None or len(shape) != 2 or shape[1] is None:
            raise InvalidInputError(f"the input has no such column; it has {', '.join(columns)}", field=missing)
        if shape[1] != len(columns):
            message = (
                f"the input has no such column, and {len(columns)} columns where the model takes {shape[1]} values"
            )
            raise InvalidInputError(message, field=missing)
        return {missing: None}

    def _build_instance(self, places: Mapping[str, int | None], width: int, row: Sequence[object]) -> Any:
        if len(row) != width:
            return InvalidInputError(f"the row has {len(row)} values, not {width}")
        return {
            name: [_to_value(cell, self._specs[name].dtype) for cell in row]
            if place is None
            else _to_value(row[place], self._specs[name].dtype, len(self._specs[name].shape or ()) < 2)
            for name, place in places.items()
        }

    def _score(self, instances: Sequence[Any]) -> list[dict[str, object] | TimlError]:
        """Halves what fails until the rows that are wrong stand alone."""
        try:
            refused = next((instance for instance in instances if isinstance(instance, InvalidInputError)), None)
            if refused is not None:
                raise refused
            inputs = read_instances(list(instances), self._specs)
            self._decode_strings(inputs)
            (outputs,) = self._evaluate_together([inputs])
        except InvalidInputError as exc:
            if len(instances) > 1:
                middle = len(instances) // 2
                return self._score(instances[:middle]) + self._score(instances[middle:])
            where = str(exc.details.get("field", "")).removeprefix("instances[0]").lstrip(".")
            return [InvalidInputError(exc.message, where or None)]
        cells = [_list_cells(array) for array in outputs.values()]
        return [dict(zip(outputs, row, strict=True)) for row in zip(*cells, strict=True)]


def inspect_onnx(folder: Path, resources: Resources) -> InspectionReport:
    """Read, load and try the model. For a limited process: the files are hostile until this returned.

    :raises InvalidModelError: with the reason.
    """
    path = find_onnx_file(folder)
    facts = read_facts(path)
    _check_external_files(path.parent, facts.external_files)
    try:
        session = open_session(path, resources)
    except InvalidModelError as exc:
        foreign = sorted(f"{domain}.{name}"[:80] for domain, name in facts.operators if _is_foreign(domain, facts))
        if not foreign:
            raise
        message = (
            f"the model may need operators that ONNX Runtime does not have ({', '.join(foreign[:5])}): {exc.message}"
        )
        raise InvalidModelError(message) from exc
    engine = OnnxEngine(session)
    if not engine.has_example and not engine.has_free_sizes:
        raise InvalidModelError(f"the model answers no request, neither of ones nor of zeros: {engine.trouble}")
    example = engine.signature.example
    if example is not None:
        (answer,) = engine.run([engine.parse("predict", orjson.dumps(example))])
        if isinstance(answer, TimlError):
            raise InvalidModelError(f"the model does not answer its own example: {answer.message}")
    return InspectionReport(
        model_type="onnx",
        checks=["structure", "loaded", *(["example"] if engine.has_example else [])],
        signature=engine.signature,
        framework={
            "producer": facts.producer or "unknown",
            "operators": ", ".join(
                f"{domain or 'ai.onnx'} {number}" for domain, number in sorted(facts.opsets.items())
            ),
        },
    )


def load_onnx(folder: Path, resources: Resources, _: RuntimeOptions) -> OnnxEngine:
    """Load the model of an artifact, and run its example.

    :raises InvalidModelError: it cannot be loaded.
    """
    return OnnxEngine(open_session(find_onnx_file(folder), resources))


def find_onnx_file(folder: Path) -> Path:
    """The one ONNX file of an artifact.

    :raises InvalidModelError: there is none, or more than one.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".onnx")
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise InvalidModelError(f"an ONNX model is exactly one .onnx file; found {names}")
    if found[0].is_symlink() or not found[0].is_file():
        raise InvalidModelError(f"{found[0].name} is not a regular file")
    return found[0]


def open_session(path: Path, resources: Resources) -> Any:
    """:raises InvalidModelError: ONNX Runtime refuses the model."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, int(resources.cpu))
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL  # what it would log of a bad request, the caller reads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _list_errors() as exc:
        reason = _explain(exc).replace(f"{path.parent}/", "")
        raise InvalidModelError(f"ONNX Runtime refuses the model: {reason}") from exc


@cache
def _list_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its classes have no root of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    own = [getattr(states, name) for name in (*names, "RuntimeException")]
    return (*own, RuntimeError, ValueError)  # the latter two are of the binding to Python


def _explain(error: Exception) -> str:
    """ONNX Runtime's sentence without its prefix of name, number and class."""
    return " ".join(str(error).split(" : ", 3)[-1].split())[:_MOST_REASON]


def _build_input(arg: Any) -> TensorSpec:
    dtype = _DTYPES.get(arg.type)
    if dtype is None:
        raise InvalidModelError(f"the input {arg.name!r} is of type {arg.type}; inputs are tensors of plain types")
    return TensorSpec(arg.name, dtype, _read_shape(arg))


def _build_output(arg: Any) -> TensorSpec:
    if _MAPS.fullmatch(arg.type):
        return TensorSpec(arg.name, np.dtype(object), (None,))
    dtype = _DTYPES.get(arg.type)
    if dtype is None:
        hint = "give the model outputs that are tensors of plain types, or maps of probabilities (ZipMap)"
        raise InvalidModelError(f"the output {arg.name!r} is of type {arg.type}; {hint}")
    return TensorSpec(arg.name, dtype, _read_shape(arg))


def _read_shape(arg: Any) -> tuple[int | None, ...] | None:
    """Names of sizes are any size. No sizes are a scalar or an unknown rank, which ONNX Runtime tells alike."""
    return tuple(size if isinstance(size, int) else None for size in arg.shape) or None


def _build_field(spec: TensorSpec, is_map: bool = False) -> SignatureField:
    dtype = "map" if is_map else _WORDS.get(spec.dtype.name, spec.dtype.name)
    return SignatureField(name=spec.name, dtype=dtype, shape=list(spec.shape[1:]) if spec.shape else [])


def _build_maps(rows: Sequence[Mapping[object, Any]], are_float32: bool) -> Array:
    """A batch of maps as JSON objects; what came as Python's float from float32 has its own digits again."""
    values: Any = list(chain.from_iterable(row.values() for row in rows))
    if are_float32:
        values = shorten_floats(np.array(values, dtype=np.float32))
    remaining = iter(values)
    result = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        result[number] = dict(zip(map(str, row), islice(remaining, len(row)), strict=True))
    return result


def _write(outputs: Tensors, request: PredictRequest) -> bytes | TimlError:
    try:
        return write_predict(outputs, request.is_row_format)
    except InvalidInputError as exc:
        return exc


def _is_same(one: Array, two: Array) -> bool:
    if one.shape != two.shape:
        return False
    if one.dtype.kind == "O":
        return all(_is_close(left, right) for left, right in zip(one.ravel(), two.ravel(), strict=True))
    return bool(np.allclose(one, two, rtol=1e-3, atol=1e-5, equal_nan=True))


def _is_close(one: object, two: object) -> bool:
    """Of elements of ``object`` arrays: strings, or maps."""
    if not isinstance(one, dict) or not isinstance(two, dict):
        return one == two
    if one.keys() != two.keys():
        return False
    pairs = [(one[key], two[key]) for key in one]
    return all(left == right or np.allclose(left, right, rtol=1e-3, atol=1e-5) for left, right in pairs)


def _choose_shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
    """One row; ``size`` in all other places that are free."""
    shape = spec.shape or ()
    return tuple((size if place else 1) if wanted is None else wanted for place, wanted in enumerate(shape))


def _vary(array: Array) -> Array:
    """Other values that a model takes as likely: places stay 0 or 1."""
    if array.dtype.kind == "O":
        return np.full(array.shape, "b", object)
    return array + 1 if array.dtype.kind == "f" else (1 - array.astype(np.int8)).astype(array.dtype)


def _fill(shape: tuple[int, ...], dtype: np.dtype[Any], number: int) -> Array:
    return np.full(shape, "a" if dtype.kind == "O" else number, dtype)


def _build_example(inputs: Tensors, outputs: Tensors) -> dict[str, Any] | None:
    """A request with these inputs: in row form where that has an answer; ``None`` when it were too long to show."""
    if not inputs or sum(array.size for array in inputs.values()) > _MOST_SHOWN_VALUES:
        return None
    sizes = {array.shape[:1] for array in inputs.values()}
    answered = {array.shape[:1] for array in outputs.values()}
    columns = {name: array.tolist() for name, array in inputs.items()}
    if len(sizes) != 1 or len(answered) != 1 or not {(), (0,)}.isdisjoint(sizes | answered):
        return {"inputs": columns}
    if len(columns) == 1:
        return {"instances": next(iter(columns.values()))}
    return {"instances": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _to_value(cell: object, dtype: np.dtype[Any], is_scalar: bool = True) -> object:
    """A cell of a table as a request would carry it; what cannot be converted stays, and is refused by name."""
    if isinstance(cell, str) and (dtype.kind != "O" or not is_scalar):
        try:
            return orjson.loads(cell)
        except orjson.JSONDecodeError:
            return {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}.get(cell.lower(), cell)
    if isinstance(cell, Decimal):
        cell = float(cell)
    if dtype.kind in "iu" and isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell


def _list_cells(array: Array) -> list[object]:
    """Outputs as values of a table, one for each row: maps are JSON."""
    values: list[object] = shorten_floats(array) if array.dtype.kind == "f" else array.tolist()
    return [orjson.dumps(value).decode() if isinstance(value, dict) else value for value in values]


# What is in the file: the few messages of ONNX's protobuf that say what is loaded from where.


@dataclass
class OnnxFacts:
    """``operators``: domain and name; ``functions``: domains that the model itself defines operators of."""

    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    external_files: set[str] = field(default_factory=set)


#: Fields that hold messages, by message. :source: onnx 1.2x, ``onnx.proto``.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {13: "entry"},
    "opset": {},
    "entry": {},
}
_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_EXTERNAL_NAME = re.compile(r"[A-Za-z0-9_.@=+-][A-Za-z0-9_.@=+ -]{0,199}")


def read_facts(path: Path) -> OnnxFacts:
    """Without recursion, in time that grows with the number of fields.

    :raises InvalidModelError: not ONNX, or truncated.
    """
    if not path.stat().st_size:
        raise InvalidModelError(f"{path.name} is empty")
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    facts = OnnxFacts()
    waiting = [("model", content)]
    has_graph = False
    try:
        while waiting:
            kind, message = waiting.pop()
            has_graph = has_graph or kind == "graph"
            children = _MESSAGES[kind]
            plain: dict[int, Any] = {}
            for number, value in read_fields(message):
                if number in children and isinstance(value, memoryview):
                    waiting.append((children[number], value))
                else:
                    plain[number] = value
            _note(facts, kind, plain)
    except ValueError as exc:
        raise InvalidModelError(f"{path.name} is not an ONNX model, or it is truncated: {exc}") from exc
    if not has_graph:
        raise InvalidModelError(f"{path.name} is not an ONNX model: it has no graph")
    return facts


def _note(facts: OnnxFacts, kind: str, plain: Mapping[int, Any]) -> None:
    if kind == "model":
        facts.producer = " ".join(filter(None, (_get_text(plain, 2), _get_text(plain, 3))))
    elif kind == "opset":
        version = plain.get(2, 0)
        facts.opsets[_get_text(plain, 1)] = version if isinstance(version, int) else 0
    elif kind == "node":
        facts.operators.add((_get_text(plain, 7), _get_text(plain, 4)))
    elif kind == "function":
        facts.functions.add(_get_text(plain, 10))
    elif kind == "entry" and _get_text(plain, 1) == "location":
        facts.external_files.add(_get_text(plain, 2))


def _get_text(plain: Mapping[int, Any], number: int) -> str:
    value = plain.get(number, b"")
    return "" if isinstance(value, int) else bytes(value).decode(errors="replace")


def _is_foreign(domain: str, facts: OnnxFacts) -> bool:
    return domain not in _STANDARD_DOMAINS and domain not in facts.functions


def _check_external_files(folder: Path, names: set[str]) -> None:
    """:raises InvalidModelError: weights are not in a regular file of the artifact, named by a plain relative path."""
    for name in sorted(names):
        parts = name.split("/")
        if any(not _EXTERNAL_NAME.fullmatch(part) or part in {".", ".."} for part in parts):
            raise InvalidModelError(f"external data at {name[:80]!r}: not a plain relative path in the artifact")
        path = folder
        for part in parts:
            path /= part
            if path.is_symlink():
                raise InvalidModelError(
                    f"external data at {name[:80]!r} is a link; put the file itself into the artifact"
                )
        if not path.is_file():
            raise InvalidModelError(f"external data at {name[:80]!r} is not in the artifact; upload it with the model")


RUNTIME = RuntimeProgram(
    name="onnx",
    model_type="onnx",
    requires=("httptools", "numpy", "onnxruntime", "orjson", "prometheus_client", "uvloop"),
    extra="onnx",
    inspect=inspect_onnx,
    load=load_onnx,
)
