"""Predict requests in JSON, by the rules of TensorFlow Serving's REST API: from a body to arrays by name.

Forms::

    {"instances": [{"x": [1, 2], "tag": "a"}, ...]}    row form: one object for each instance, one name for each input
    {"instances": [[1, 2], ...]}                       row form of a signature with one input
    {"inputs": {"x": [[1, 2], ...], "tag": ["a"]}}     column form: sizes of dimension 0 may differ
    {"inputs": [[1, 2], ...]}                          column form of a signature with one input; a scalar will do

with ``"signature_name"`` beside it; other names beside these are ignored, as are those in ``inputs`` that are no input.
``{"b64": "..."}`` is a string of bytes. ``NaN``, ``Infinity``, ``Inf`` and their negatives are numbers. A name that
stands twice in one object has its last value.

Here and not in TensorFlow Serving: float16 and bfloat16; a float that rounds to the largest of its type is that (what
an answer holds may be sent again); integers are checked against their own type's range (there: int32's for the shorter
ones); shapes are checked against the signature (there: by the model).

A tensor is taken apart level by level with functions that loop in C, without recursion; where something does not fit,
its position in the level says where it stands.

:source: tensorflow/serving ``util/json_tensor.cc`` (2.x) and https://www.tensorflow.org/tfx/serving/api_rest.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import orjson

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.rows import describe
from airflow_provider_timl.runtimes.tensors.spec import Array, TensorSignature, TensorSpec

DEFAULT_SIGNATURE = "serving_default"
_FORMS = '{"instances": [...]} with one entry for each row, or {"inputs": {"name": [...], ...}} with whole tensors'
_MOST_RANK = 32
_BOM = b"\xef\xbb\xbf"
#: A string, or a number that JSON does not have. A string without an end matches too: else each of its quotes is tried.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|-?(?:NaN|Inf(?:inity)?)', re.DOTALL)
#: By type code, the largest number that rounds to a finite one (of bfloat16: that float32 rounds below the middle), and
#: the largest integer up to which all are exact, ``2**digits - 1``.
_FLOAT_LIMITS = {
    "e": (math.nextafter(65520.0, 0), 2**11 - 1),
    "bfloat16": (2.0**128 - 2.0**119 - 2.0**104, 2**8 - 1),
    "f": (math.nextafter(2.0**128 - 2.0**103, 0), 2**24 - 1),
    "d": (math.inf, 2**53 - 1),
}
_NUMBERS = frozenset({int, float})
_INTEGERS = frozenset({int})
_BOOLEANS = frozenset({bool})
_STRINGS = frozenset({str, dict})


@dataclass(frozen=True)
class PredictRequest:
    """``is_row_format``: the answer is ``predictions``, one for each instance; else ``outputs``."""

    signature: str
    inputs: dict[str, Array]
    is_row_format: bool

    @property
    def row_count(self) -> int:
        """Size of dimension 0, the largest where inputs differ; 1 when all are scalars."""
        return max((array.shape[0] for array in self.inputs.values() if array.ndim), default=1)


class _MismatchError(ValueError):
    """What is wrong at an index of a tensor; the caller knows where the tensor stands."""

    def __init__(self, index: tuple[int, ...], message: str) -> None:
        super().__init__(index, message)
        self.index = index
        self.message = message


def read_predict(body: bytes, signatures: Mapping[str, TensorSignature]) -> PredictRequest:
    """Inputs are checked completely; nothing but the error below is raised, whatever the body.

    :raises InvalidInputError: naming instance and input, as in ``instances[2].x``.
    """
    content = parse_body(body)
    signature = find_signature(content, signatures)
    if not signature.inputs:
        raise InvalidInputError(f"the signature {signature.name!r} has no inputs", field="signature_name")
    if "instances" in content:
        if "inputs" in content:
            raise InvalidInputError(f"the body has both 'instances' and 'inputs'; send {_FORMS}")
        return PredictRequest(signature.name, read_instances(content["instances"], signature.inputs), True)
    if "inputs" not in content:
        raise InvalidInputError(f"the body needs 'instances' or 'inputs'; send {_FORMS}")
    return PredictRequest(signature.name, _read_columns(content["inputs"], signature.inputs), False)


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, NaN and infinities allowed.

    :raises InvalidInputError: it is none. Strings are valid UTF-8; integers beyond 64 bits are floats.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        content = _parse_extended(body, exc)
    if type(content) is not dict:
        raise InvalidInputError(f"the body is {describe(content)}; send {_FORMS}")
    return content


def find_signature(content: Mapping[str, Any], signatures: Mapping[str, TensorSignature]) -> TensorSignature:
    """The signature that a body asks for; an empty name is the default one, as no name is.

    :raises InvalidInputError: there is none of that name.
    """
    name = content.get("signature_name", DEFAULT_SIGNATURE)
    if type(name) is not str:
        raise InvalidInputError(f"expected a string, got {describe(name)}", field="signature_name")
    found = signatures.get(name or DEFAULT_SIGNATURE)
    if found is None:
        known = ", ".join(map(repr, signatures)) or "none"
        asked = repr((name or DEFAULT_SIGNATURE)[:80])
        raise InvalidInputError(f"the model has no signature {asked}; it has {known}", field="signature_name")
    return found


def is_bytes_object(value: Any) -> bool:
    """Whether a JSON value is ``{"b64": "..."}``."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def decode_bytes(value: Mapping[str, str]) -> bytes:
    """The bytes of ``{"b64": "..."}``; white space is ignored and padding may be left out.

    :raises ValueError: it is not base64.
    """
    text = "".join(value["b64"].split())
    padding = "" if text.endswith("=") else "=" * (-len(text) % 4)
    return b64decode(text + padding, validate=True)


def _parse_extended(body: bytes, refused: orjson.JSONDecodeError) -> Any:
    """A body that strict JSON is not: with a byte order mark, NaN or infinities.

    Two parsers have to agree: the strict one with zeros in place of the tokens, which also bounds the nesting, and then
    the one that knows them.
    """
    text = body[len(_BOM) :] if body.startswith(_BOM) else body
    if not text.strip():
        raise InvalidInputError(f"the body is empty; send {_FORMS}")
    try:
        strict = orjson.loads(_TOKEN.sub(_blank_token, text))
        has_tokens = b"NaN" in text or b"Inf" in text
        return json.loads(_TOKEN.sub(_unify_token, text), parse_int=_parse_int) if has_tokens else strict
    except orjson.JSONDecodeError as exc:
        refused = exc
    except (ValueError, RecursionError):
        pass
    where = f"at line {refused.lineno} column {refused.colno}"
    raise InvalidInputError(f"the body is not valid JSON: {refused.msg} {where}") from None


def _blank_token(match: re.Match[bytes]) -> bytes:
    """Zero for a number that JSON does not have, of the same length: positions in messages stay."""
    token = match[0]
    return token if token.startswith(b'"') else b"0".ljust(len(token))


def _unify_token(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token.startswith(b'"'):
        return token
    if token.endswith(b"NaN"):
        return b"NaN"
    return b"-Infinity" if token.startswith(b"-") else b"Infinity"


def _parse_int(text: str) -> int | float:
    """As the strict parser does. Its length is bounded: Python refuses, and takes long for, very long integers."""
    if len(text) <= 20:
        value = int(text)
        if -(2**63) <= value < 2**64:
            return value
    return float(text)


def read_instances(instances: Any, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """The row form by itself.

    :raises InvalidInputError: naming instance and input.
    """
    if type(instances) is not list:
        raise InvalidInputError(f"expected an array, got {describe(instances)}", field="instances")
    if not instances:
        raise InvalidInputError("the batch is empty; send at least one instance", field="instances")
    first = instances[0]
    if type(first) is not dict or is_bytes_object(first):
        return _read_unnamed_instances(instances, specs)
    _check_objects(instances, specs)
    return {
        name: _read_tensor(list(map(itemgetter(name), instances)), spec, ("instances", name))
        for name, spec in specs.items()
    }


def _read_unnamed_instances(instances: list[Any], specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if len(specs) > 1:
        message = f"expected an object with {_list_names(specs)}, got {describe(instances[0])}"
        raise InvalidInputError(message, field="instances[0]")
    ((name, spec),) = specs.items()
    return {name: _read_tensor(instances, spec, ("instances", None))}


def _check_objects(instances: list[Any], specs: Mapping[str, TensorSpec]) -> None:
    """:raises InvalidInputError: an instance is no object, or its names are not the inputs'."""
    names = specs.keys()
    for number, instance in enumerate(instances):
        if type(instance) is not dict:
            message = f"is {describe(instance)}, but instances[0] is an object; use one form in a batch"
            raise InvalidInputError(message, field=f"instances[{number}]")
        if instance.keys() != names:
            _refuse_names(instance, specs, f"instances[{number}]")


def _refuse_names(given: Mapping[str, Any], specs: Mapping[str, TensorSpec], where: str) -> None:
    missing = next((name for name in specs if name not in given), None)
    unknown = next((name for name in given if name not in specs), None)
    if missing is None:
        message = f"the model has no input of that name; it takes {_list_names(specs)}"
        raise InvalidInputError(message, field=f"{where}.{str(unknown)[:80]}")
    hint = "" if unknown is None else f"; there is {unknown[:80]!r}, which is no input"
    raise InvalidInputError(f"the input is missing{hint}", field=f"{where}.{missing}")


def _read_columns(inputs: Any, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if type(inputs) is not dict or is_bytes_object(inputs):
        if len(specs) > 1:
            message = f"expected an object with {_list_names(specs)}, got {describe(inputs)}"
            raise InvalidInputError(message, field="inputs")
        ((name, spec),) = specs.items()
        return {name: _read_tensor(inputs, spec, ("inputs", None))}
    if not specs.keys() <= inputs.keys():
        _refuse_names(inputs, specs, "inputs")
    return {name: _read_tensor(inputs[name], spec, ("inputs", name)) for name, spec in specs.items()}


def _list_names(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(map(repr, specs))


def _read_tensor(value: Any, spec: TensorSpec, place: tuple[str, str | None]) -> Array:
    """:param place: the key of the form, and the input's name where the caller wrote it."""
    try:
        array = _convert(value, spec.dtype)
    except _MismatchError as exc:
        raise InvalidInputError(exc.message, field=_build_path(place, exc.index)) from None
    expected = spec.shape
    if expected is not None and not fits_shape(array.shape, expected):
        shape = render_shape(array.shape)
        message = f"shape {shape} does not fit {render_shape(expected)}, what the model takes (? is any size)"
        raise InvalidInputError(message, field=spec.name)
    return array


def fits_shape(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is one of those that a signature allows."""
    if len(shape) != len(expected):
        return False
    return all(wanted is None or size == wanted for size, wanted in zip(shape, expected, strict=True))


def render_shape(shape: Sequence[int | None]) -> str:
    """As Python writes a tuple, with ``?`` for any size."""
    sizes = ", ".join("?" if size is None else str(size) for size in shape)
    return f"({sizes},)" if len(shape) == 1 else f"({sizes})"


def _build_path(place: tuple[str, str | None], index: tuple[int, ...]) -> str:
    form, name = place
    steps = [f"[{number}]" for number in index]
    if name is not None:
        steps.insert(1 if form == "instances" else 0, f".{name}")
    return form + "".join(steps)


def _convert(value: Any, dtype: np.dtype[Any]) -> Array:
    """A nested list as an array.

    :raises _MismatchError: it is ragged, too deep, or holds a value of another type.
    """
    flat, shape = _flatten(value) if type(value) is list else ([value], ())
    kinds = set(map(type, flat))
    kind = dtype.kind
    if dtype.char in _FLOAT_LIMITS or (kind == "V" and dtype.name in _FLOAT_LIMITS):
        array = _convert_floats(flat, kinds, dtype, shape)
    elif kind in "iu":
        array = _convert_integers(flat, kinds, dtype, shape)
    elif kind == "b":
        _check_kinds(flat, kinds, _BOOLEANS, "true or false", shape)
        array = np.array(flat, dtype=dtype)
    elif kind == "O":
        array = _convert_strings(flat, kinds, shape)
    else:
        message = f"the model takes {dtype.name} here, which JSON cannot carry; use gRPC"
        raise _MismatchError((), message)
    return array.reshape(shape)


def _flatten(value: list[Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The values of a nested list in order, and its shape.

    :raises _MismatchError: it is ragged or too deep.
    """
    flat = value
    shape: tuple[int, ...] = (len(flat),)
    while flat and type(flat[0]) is list:
        if set(map(type, flat)) != {list} or len(set(map(len, flat))) != 1:
            _refuse_ragged(flat, shape)
        if len(shape) == _MOST_RANK:
            raise _MismatchError((), f"is nested deeper than {_MOST_RANK} levels")
        shape = (*shape, len(flat[0]))
        flat = flat[0] if len(flat) == 1 else list(chain.from_iterable(flat))
    return flat, shape


def _refuse_ragged(flat: list[Any], shape: tuple[int, ...]) -> None:
    size = len(flat[0])
    for position, item in enumerate(flat):
        if type(item) is not list:
            message = f"is {describe(item)}, but its neighbours are arrays; all instances must have one shape"
            raise _MismatchError(_unravel(position, shape), message)
        if len(item) != size:
            message = f"has {len(item)} values, but the arrays before it have {size}; all must have one shape"
            raise _MismatchError(_unravel(position, shape), message)


def _unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(number) for number in np.unravel_index(position, shape)) if shape else ()


def _check_kinds(
    flat: list[Any], kinds: set[type], allowed: frozenset[type], wanted: str, shape: tuple[int, ...]
) -> None:
    """:raises _MismatchError: at the first value of another type."""
    if kinds <= allowed:
        return
    position, value = next((number, item) for number, item in enumerate(flat) if type(item) not in allowed)
    hint = "; all instances must have one shape" if type(value) is list else ""
    raise _MismatchError(_unravel(position, shape), f"expected {wanted}, got {describe(value)}{hint}")


def _convert_floats(flat: list[Any], kinds: set[type], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    _check_kinds(flat, kinds, _NUMBERS, "a number", shape)
    wide = np.array(flat, dtype=np.float64)
    if flat:
        most, most_exact = _get_limits(dtype)
        if not _is_within(flat, wide, most_exact if int in kinds else most):
            _check_limits(flat, wide, dtype, shape)
    return wide if dtype.char == "d" else wide.astype(dtype)


def _get_limits(dtype: np.dtype[Any]) -> tuple[float, int]:
    return _FLOAT_LIMITS[dtype.char if dtype.kind == "f" else dtype.name]


def _is_within(flat: list[Any], wide: Array, limit: float) -> bool:
    """Whether all magnitudes are certainly up to a limit: false when one is NaN."""
    if len(flat) <= 32:  # NumPy's constant cost is more
        return bool(-limit <= min(flat) and max(flat) <= limit)
    return bool(-limit <= wide.min() and wide.max() <= limit)


def _check_limits(flat: list[Any], wide: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """:raises _MismatchError: at the first number that the type cannot hold."""
    most, most_exact = _get_limits(dtype)
    for position in np.flatnonzero(~(np.abs(wide) <= most_exact)).tolist():
        value = flat[position]
        if type(value) is int:
            if abs(value) > most_exact:
                message = f"{value} may lose digits in {dtype.name}; send it with a decimal point: {value}.0"
                raise _MismatchError(_unravel(position, shape), message)
        elif most < abs(value) < math.inf:
            raise _MismatchError(_unravel(position, shape), f"{value} is too large for {dtype.name}")


def _convert_integers(flat: list[Any], kinds: set[type], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    _check_kinds(flat, kinds, _INTEGERS, "a whole number", shape)
    try:
        return np.array(flat, dtype=dtype)
    except OverflowError:
        info = np.iinfo(dtype)
        position = next(number for number, value in enumerate(flat) if not info.min <= value <= info.max)
        message = f"{flat[position]} does not fit {dtype.name}, which holds {info.min} to {info.max}"
        raise _MismatchError(_unravel(position, shape), message) from None


def _convert_strings(flat: list[Any], kinds: set[type], shape: tuple[int, ...]) -> Array:
    _check_kinds(flat, kinds, _STRINGS, 'a string or {"b64": "..."}', shape)
    if dict not in kinds:
        return np.array([text.encode() for text in flat], dtype=object)
    values = []
    for position, value in enumerate(flat):
        try:
            values.append(value.encode() if type(value) is str else _decode_object(value))
        except ValueError as exc:
            raise _MismatchError(_unravel(position, shape), str(exc)) from None
    return np.array(values, dtype=object)


def _decode_object(value: dict[str, Any]) -> bytes:
    if not is_bytes_object(value):
        raise ValueError('expected a string or {"b64": "..."}, got an object of another form')
    try:
        return decode_bytes(value)
    except ValueError:
        raise ValueError('the value of "b64" is not base64') from None
