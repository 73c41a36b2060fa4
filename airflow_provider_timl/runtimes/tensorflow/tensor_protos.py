"""``TensorProto`` messages as arrays, and back.

Numbers in ``tensor_content`` are taken as they lie there; nothing is done for each element but for strings.

:source: TensorFlow 2.21, ``tensorflow/core/framework/tensor.proto`` and ``tensor.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.tensorflow.library import dtypes, tensor_pb2, types_pb2
from airflow_provider_timl.runtimes.tensors.spec import Array

#: Where values stand that are not in ``tensor_content``: the field, and the type of its numbers.
_FIELDS: dict[str, tuple[str, Any]] = {
    "float32": ("float_val", np.float32),
    "float64": ("double_val", np.float64),
    "int64": ("int64_val", np.int64),
    "uint32": ("uint32_val", np.uint32),
    "uint64": ("uint64_val", np.uint64),
    "bool": ("bool_val", np.bool_),
    **dict.fromkeys(("int32", "int16", "uint16", "int8", "uint8"), ("int_val", np.int32)),
    **dict.fromkeys(("float16", "bfloat16"), ("half_val", np.int32)),
    "complex64": ("scomplex_val", np.float32),
    "complex128": ("dcomplex_val", np.float64),
}
_MOST_DIMENSIONS = 32
#: Elements that may come of fewer values: a message of a few bytes must not take all memory.
_MOST_FILLED = 2**24


def read_tensor(name: str, proto: Any) -> Array:
    """The array that a message holds; strings as ``bytes`` in an array of objects.

    Fewer values than elements are filled up with the last one, none at all with zeros, as TensorFlow does.

    :param name: for the error.
    :raises InvalidInputError: type, shape and values do not fit together.
    """
    shape = _read_shape(name, proto.tensor_shape)
    count = math.prod(shape)
    if proto.dtype == types_pb2.DT_STRING:
        return _fill(name, _to_objects(proto.string_val), count, b"").reshape(shape)
    dtype = _find_dtype(name, proto.dtype)
    if proto.tensor_content:
        return _read_content(name, proto.tensor_content, dtype, shape)
    field, kind = _FIELDS[dtype.name]
    given = np.array(getattr(proto, field), kind)
    return _fill(name, _convert(given, dtype), count, 0).reshape(shape)


def write_tensor(proto: Any, array: Array) -> None:
    """Fill a message; numbers go to ``tensor_content``."""
    array = np.asarray(array)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.dtype == object:
        proto.dtype = types_pb2.DT_STRING
        proto.string_val.extend(array.reshape(-1).tolist())
        return
    proto.dtype = dtypes.as_dtype(array.dtype).as_datatype_enum
    proto.tensor_content = array.tobytes()


def build_tensor(array: Array) -> Any:
    proto = tensor_pb2.TensorProto()
    write_tensor(proto, array)
    return proto


def _read_shape(name: str, shape: Any) -> tuple[int, ...]:
    sizes = tuple(dimension.size for dimension in shape.dim)
    if shape.unknown_rank or len(sizes) > _MOST_DIMENSIONS or any(size < 0 for size in sizes):
        raise InvalidInputError("the tensor's shape is not fully known", name)
    return sizes


def _find_dtype(name: str, number: int) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(dtypes.as_dtype(number).as_numpy_dtype)
    except (TypeError, KeyError) as exc:
        raise InvalidInputError(f"type {number} is no tensor's type", name) from exc
    if dtype.name not in _FIELDS:
        raise InvalidInputError(f"tensors of type {dtype.name} are not supported", name)
    return dtype


def _read_content(name: str, content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if len(content) != dtype.itemsize * math.prod(shape):
        raise InvalidInputError(
            f"tensor_content has {len(content)} bytes; {dtype.name} of shape {list(shape)} takes "
            f"{dtype.itemsize * math.prod(shape)}",
            name,
        )
    return np.frombuffer(content, dtype).reshape(shape)


def _convert(given: Array, dtype: np.dtype[Any]) -> Array:
    convert = _CONVERSIONS.get(dtype.name)
    return convert(given, dtype) if convert else given.astype(dtype, copy=False)


def _from_bits(given: Array, dtype: np.dtype[Any]) -> Array:
    return given.astype(np.uint16).view(dtype)


def _from_pairs(given: Array, dtype: np.dtype[Any]) -> Array:
    return given[: len(given) // 2 * 2].view(dtype)


_CONVERSIONS: dict[str, Callable[[Array, np.dtype[Any]], Array]] = {
    **dict.fromkeys(("float16", "bfloat16"), _from_bits),
    **dict.fromkeys(("complex64", "complex128"), _from_pairs),
}


def _to_objects(strings: Any) -> Array:
    array = np.empty(len(strings), object)
    array[:] = list(strings)
    return array


def _fill(name: str, values: Array, count: int, nothing: Any) -> Array:
    if len(values) > count:
        raise InvalidInputError(f"the tensor has {len(values)} values; its shape takes {count}", name)
    if len(values) == count:
        return values
    if count > _MOST_FILLED:
        raise InvalidInputError(f"the tensor has {len(values)} values; its shape takes {count}", name)
    filled = np.empty(count, values.dtype)
    filled[: len(values)] = values
    filled[len(values) :] = values[-1] if len(values) else nothing
    return filled
