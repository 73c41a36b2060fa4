"""``classify`` and ``regress``: requests as serialized ``tf.train.Example`` messages, and their results.

The JSON form is ``{"signature_name": …, "context": {feature: value}, "examples": [{feature: value or list}, …]}``: a
whole number or a boolean is an int64, a number with a point a float, a string or ``{"b64": …}`` bytes, and one feature
has values of one kind.

:source: tensorflow/serving ``util/json_tensor.cc``, ``servables/tensorflow/classifier.cc`` and ``regressor.cc`` (2.x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.rows import describe
from airflow_provider_timl.runtimes.tensorflow.library import example_pb2
from airflow_provider_timl.runtimes.tensorflow.signatures import CLASSIFY, REGRESS, GraphSignature
from airflow_provider_timl.runtimes.tensors.json_request import decode_bytes, is_bytes_object
from airflow_provider_timl.runtimes.tensors.spec import Array

INPUT = "inputs"
_CLASSES, _SCORES, _VALUES = "classes", "scores", "outputs"
_METHODS = {"classify": CLASSIFY, "regress": REGRESS}
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Task:
    """What to fetch for a ``classify`` or ``regress`` of one signature: tensors, and what each is."""

    signature: GraphSignature
    verb: str
    feed: str
    outputs: dict[str, str]

    @property
    def fetches(self) -> tuple[str, ...]:
        return tuple(self.outputs.values())


def build_task(signature: GraphSignature, verb: str, where: str = "signature_name") -> Task:
    """:raises InvalidInputError: the signature was not made for that verb."""
    wanted = _METHODS[verb]
    name = signature.specs.name
    if signature.method != wanted:
        message = f"signature {name!r} cannot {verb}: expected its method_name to be {wanted}. Was: {signature.method}"
        raise InvalidInputError(message, where)
    inputs, outputs = signature.specs.inputs, signature.specs.outputs
    if list(inputs) != [INPUT]:
        raise InvalidInputError(f"signature {name!r} needs one input Tensor, {INPUT!r}; it has {list(inputs)}", where)
    known = (_CLASSES, _SCORES) if verb == "classify" else (_VALUES,)
    found = {alias: signature.get_fetch(alias) for alias in known if alias in outputs}
    if not found or len(found) != len(outputs):
        raise InvalidInputError(f"signature {name!r} needs the outputs {known}; it has {list(outputs)}", where)
    return Task(signature, verb, signature.feeds[0], found)


def read_examples(content: Mapping[str, Any]) -> Array:
    """The serialized examples of a JSON body, each with the context's features before its own.

    :raises InvalidInputError: naming the example and the feature.
    """
    context = _serialize(content["context"], "context") if "context" in content else b""
    examples = content.get("examples")
    if type(examples) is not list:
        raise InvalidInputError(f"expected an array of examples, got {describe(examples)}", "examples")
    if not examples:
        raise InvalidInputError("the batch is empty; send at least one example", "examples")
    return to_strings([context + _serialize(example, f"examples[{number}]") for number, example in enumerate(examples)])


def to_strings(values: Sequence[bytes]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def read_classes(task: Task, outputs: Sequence[Array], count: int) -> list[list[tuple[bytes, np.float32]]]:
    """Label and score of each class of each example; what the model does not give is empty or 0.

    :raises InvalidInputError: the outputs have not the form of a classification.
    """
    found = dict(zip(task.outputs, outputs, strict=True))
    for name, array in found.items():
        dtype = np.dtype(object if name == _CLASSES else np.float32)
        if array.ndim != 2 or array.dtype != dtype or len(array) != count:
            expected = "strings" if name == _CLASSES else "float32"
            raise InvalidInputError(
                f"expected {name} of {expected} with shape [{count}, num_classes]; the model gave "
                f"{array.dtype.name} of shape {list(array.shape)}"
            )
    if len({array.shape for array in found.values()}) != 1:
        raise InvalidInputError("classes and scores differ in their number of classes")
    (shape,) = {array.shape for array in found.values()}
    labels = found.get(_CLASSES, np.full(shape, b"", object))
    scores = found.get(_SCORES, np.zeros(shape, np.float32))
    return [list(zip(row, values, strict=True)) for row, values in zip(labels, scores, strict=True)]


def read_values(outputs: Sequence[Array], count: int) -> Array:
    """One number for each example.

    :raises InvalidInputError: the output has not the form of a regression.
    """
    (values,) = outputs
    if values.dtype != np.float32 or values.shape not in {(count,), (count, 1)}:
        raise InvalidInputError(
            f"expected outputs of float32 with shape [{count}] or [{count}, 1]; the model gave "
            f"{values.dtype.name} of shape {list(values.shape)}"
        )
    return values.reshape(-1)


def _serialize(value: Any, where: str) -> bytes:
    if type(value) is not dict:
        raise InvalidInputError(f"an example is an object of features, not {describe(value)}", where)
    example = example_pb2.Example()
    features = example.features.feature
    for name, content in value.items():
        try:
            _fill_feature(features[name], content if type(content) is list else [content])
        except ValueError as exc:
            raise InvalidInputError(str(exc), f"{where}.{name}"[:120]) from None
    serialized: bytes = example.SerializeToString()
    return serialized


def _fill_feature(feature: Any, values: list[Any]) -> None:
    kinds = {_find_kind(value) for value in values}
    if len(kinds) > 1:
        raise ValueError(f"a feature has values of one kind; here are {' and '.join(sorted(kinds))}")
    if kinds == {"int64"}:
        feature.int64_list.value.extend(map(int, values))
    elif kinds == {"float"}:
        feature.float_list.value.extend(values)
    elif kinds:
        feature.bytes_list.value.extend(map(_to_bytes, values))


def _find_kind(value: Any) -> str:
    kind = type(value)
    if kind is bool or (kind is int and value in _INT64):
        return "int64"
    if kind is float:
        if _LARGEST_FLOAT < abs(value) < float("inf"):
            raise ValueError(f"{value} is too large for float32")
        return "float"
    if kind is str or is_bytes_object(value):
        return "bytes"
    raise ValueError(f'expected numbers, booleans, strings or {{"b64": "..."}}, got {describe(value)}')


def _to_bytes(value: Any) -> bytes:
    if type(value) is str:
        return value.encode()
    try:
        return decode_bytes(value)
    except ValueError:
        raise ValueError('the value of "b64" is not base64') from None


def write_results(task: Task, outputs: Sequence[Array], *, count: int) -> bytes:
    """The JSON answer: ``{"results": [[["label", score], …], …]}``, or ``{"results": [value, …]}``."""
    from airflow_provider_timl.runtimes.tensors.json_answer import write_predict

    if task.verb == "regress":
        column = write_predict({_VALUES: read_values(outputs, count)}, is_row_format=False)
        return b'{"results":' + column.removeprefix(b'{"outputs":')
    return b'{"results":[' + b",".join(map(_write_row, read_classes(task, outputs, count))) + b"]}"


def _write_row(classes: Sequence[tuple[bytes, np.float32]]) -> bytes:
    return b"[" + b",".join(b"[%b,%b]" % (_write_label(label), _write_score(score)) for label, score in classes) + b"]"


def _write_label(label: bytes) -> bytes:
    return orjson.dumps(label.decode(errors="replace"))


def _write_score(score: np.float32) -> bytes:
    if np.isfinite(score):
        return orjson.dumps(score, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"NaN" if np.isnan(score) else b"Infinity" if score > 0 else b"-Infinity"
