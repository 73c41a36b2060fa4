"""Predict answers in JSON, by the rules of TensorFlow Serving's REST API: from arrays by name to a body.

``{"predictions": [...]}`` for a request in row form, ``{"outputs": ...}`` for one in column form. A single output
stands without its name. Strings of an output whose name ends in ``_bytes`` are ``{"b64": "..."}``. NaN and infinities
are the tokens ``NaN``, ``Infinity`` and ``-Infinity``. A number of float32 and shorter types has the fewest digits
that read back as the same number of its type.

Here and not in TensorFlow Serving: float16 and bfloat16; a string that is not valid UTF-8 is ``{"b64": "..."}`` under
any name (there: its raw bytes, which make a body that no JSON parser takes); a ``dict`` in an output, which ONNX models
give, is a JSON object.

:source: tensorflow/serving ``util/json_tensor.cc`` (2.x) and https://www.tensorflow.org/tfx/serving/api_rest.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.tensors.spec import Array

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
#: Type codes that orjson writes itself: booleans, integers, float32 and float64.
_DIRECT = frozenset("?bhilqBHILQfd")
_SHORT_FLOATS = frozenset({"float16", "bfloat16"})
_BYTES_SUFFIX = "_bytes"


def write_predict(outputs: Mapping[str, Array], is_row_format: bool) -> bytes:
    """:raises InvalidInputError: the outputs cannot be told in this form, or not in JSON at all."""
    if not outputs:
        raise InvalidInputError("the model gave no output")
    if is_row_format:
        _check_batch(outputs)
    values = {name: _prepare(name, array) for name, array in outputs.items()}
    body = orjson.dumps(_arrange(values, is_row_format), option=_NUMPY)
    if b"null" not in body:
        return body
    # orjson writes null for NaN and infinities; nothing else here is null.
    plain = {name: _to_plain(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}
    arranged = _arrange(plain, is_row_format)
    return json.dumps(arranged, ensure_ascii=False, separators=(",", ":"), default=_to_plain_scalar).encode()


def shorten_floats(array: Array) -> Any:
    """Floats of a shorter type as nested lists of Python's, each with the fewest digits that read back the same."""
    if array.dtype.name in _SHORT_FLOATS:
        # as bits: zeros of both signs are equal, and no NaN is
        bits, places = np.unique(np.ascontiguousarray(array).ravel().view(np.uint16), return_inverse=True)
        with np.errstate(over="ignore"):
            shortest = np.array([_shorten(value) for value in bits.view(array.dtype)], dtype=np.float64)
        return shortest[places].reshape(array.shape).tolist()
    text = orjson.dumps(np.ascontiguousarray(array) if array.ndim else array[()], option=_NUMPY)
    if b"null" not in text:
        return orjson.loads(text)
    flat = np.ascontiguousarray(array).ravel()
    wide = np.array(orjson.loads(orjson.dumps(flat, option=_NUMPY)), dtype=np.float64)
    strange = ~np.isfinite(flat)
    wide[strange] = flat[strange]
    return wide.reshape(array.shape).tolist()


def _check_batch(outputs: Mapping[str, Array]) -> None:
    """:raises InvalidInputError: the outputs have no common batch, so that they cannot be told row by row."""
    expected = 0
    for name, array in outputs.items():
        if array.ndim == 0:
            raise InvalidInputError(_refuse_rows(name, "is a scalar without a batch"))
        size = array.shape[0]
        if size < 1:
            raise InvalidInputError(_refuse_rows(name, f"has invalid batch size: {size}"))
        if expected not in (0, size):
            raise InvalidInputError(_refuse_rows(name, f"has inconsistent batch size: {size} expecting: {expected}"))
        expected = size


def _refuse_rows(name: str, problem: str) -> str:
    return f'Tensor name: {name} {problem}; send the request in column form: {{"inputs": ...}}'


def _arrange(values: Mapping[str, Any], is_row_format: bool) -> dict[str, Any]:
    if len(values) == 1:
        (value,) = values.values()
        return {"predictions" if is_row_format else "outputs": value}
    if not is_row_format:
        return {"outputs": values}
    names = list(values)
    columns = [_list_rows(value) for value in values.values()]
    return {"predictions": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]}


def _list_rows(value: Any) -> list[Any]:
    """Rows of an output as Python's own values: much quicker to write one by one than NumPy's."""
    if not isinstance(value, np.ndarray):
        return list(value)
    # Python has no float32: its own text has the digits, with nothing in place of NaN and infinities
    return list(orjson.loads(orjson.dumps(value, option=_NUMPY)) if value.dtype.char == "f" else value.tolist())


def _prepare(name: str, array: Array) -> Any:
    """An output as orjson takes it: an array, a scalar of NumPy, or nested lists."""
    dtype = array.dtype
    if dtype.char in _DIRECT:
        if array.ndim == 0:
            return array[()]
        if array.flags.c_contiguous and dtype.isnative:
            return array
        return np.ascontiguousarray(array, dtype=dtype.newbyteorder("="))
    if dtype.name in _SHORT_FLOATS:
        return shorten_floats(array)
    if dtype.kind in "OSU":
        return _build_strings(array, name.endswith(_BYTES_SUFFIX))
    raise InvalidInputError(f"the output {name!r} is of type {dtype.name}, which JSON cannot carry; use gRPC")


def _build_strings(array: Array, are_bytes: bool) -> Any:
    values = np.empty(array.size, dtype=object)
    for number, value in enumerate(array.ravel().tolist()):
        values[number] = value if isinstance(value, dict) else _build_string(value, are_bytes)
    return values.reshape(array.shape).tolist()


def _build_string(value: bytes | str, is_bytes: bool) -> str | dict[str, str]:
    content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    if not is_bytes:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": b64encode(content).decode()}


def _to_plain(array: Array) -> Any:
    return shorten_floats(array) if array.dtype.char == "f" else array.tolist()


def _to_plain_scalar(value: Any) -> Any:
    return _to_plain(np.asarray(value))


def _shorten(value: Any) -> float:
    """A number of 16 bits as the float with the fewest digits that is the same in its type."""
    exact = float(value)
    for digits in range(1, 6):
        short = float(f"{exact:.{digits}g}")
        if type(value)(short) == value:
            return short
    return exact
