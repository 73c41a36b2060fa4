"""TensorFlow Serving's ``Predict`` messages to and from arrays, with NumPy and protobuf alone.

A worker that only asks for predictions needs no TensorFlow, whose packages have the message classes: the few fields
that are used stand here, in a pool of their own, so that they never meet TensorFlow's in one process. Imported when the
first gRPC call is made.

:source: tensorflow_serving/apis ``predict.proto``, ``model.proto`` and tensorflow/core/framework ``tensor.proto``,
    ``tensor_shape.proto``, ``types.proto`` 2.21. A map is a repeated message of key and value; an enum is an ``int32``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError

Array = np.ndarray[Any, np.dtype[Any]]

_PACKAGE = "timl.predict"
_STRING, _BFLOAT16 = 7, 14
#: By the number in ``types.proto``: NumPy's name, the field for values outside of ``tensor_content``, and its type.
_DTYPES: dict[int, tuple[str, str, Any]] = {
    1: ("float32", "float_val", np.float32),
    2: ("float64", "double_val", np.float64),
    3: ("int32", "int_val", np.int32),
    4: ("uint8", "int_val", np.int32),
    5: ("int16", "int_val", np.int32),
    6: ("int8", "int_val", np.int32),
    8: ("complex64", "scomplex_val", np.float32),
    9: ("int64", "int64_val", np.int64),
    10: ("bool", "bool_val", np.bool_),
    _BFLOAT16: ("bfloat16", "half_val", np.int32),
    17: ("uint16", "int_val", np.int32),
    18: ("complex128", "dcomplex_val", np.float64),
    19: ("float16", "half_val", np.int32),
    22: ("uint32", "uint32_val", np.uint32),
    23: ("uint64", "uint64_val", np.uint64),
}
_NUMBERS = {name: number for number, (name, _, _) in _DTYPES.items()}
#: Fields of each message by name: the number, and the type, repeated where it ends in ``*``.
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {"name": (1, "string"), "version": (2, "Int64Value"), "signature_name": (3, "string")},
    "Dim": {"size": (1, "int64")},
    "TensorShape": {"dim": (2, "Dim*")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "float*"),
        "double_val": (6, "double*"),
        "int_val": (7, "int32*"),
        "string_val": (8, "bytes*"),
        "scomplex_val": (9, "float*"),
        "int64_val": (10, "int64*"),
        "bool_val": (11, "bool*"),
        "dcomplex_val": (12, "double*"),
        "half_val": (13, "int32*"),
        "uint32_val": (16, "uint32*"),
        "uint64_val": (17, "uint64*"),
    },
    "NamedTensor": {"key": (1, "string"), "value": (2, "Tensor")},
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "NamedTensor*"),
        "output_filter": (3, "string*"),
    },
    "PredictResponse": {"outputs": (1, "NamedTensor*"), "model_spec": (2, "ModelSpec")},
}


def build_request(
    model: str, signature_name: str, inputs: Mapping[str, Any], output_filter: Sequence[str] = ()
) -> bytes:
    """A serialized ``PredictRequest``.

    :param inputs: arrays, or what NumPy makes one of; text as ``str`` or ``bytes``.
    :raises InvalidInputError: an input is of a type that no tensor has.
    """
    request = MESSAGES["PredictRequest"]()
    request.model_spec.name = model
    request.model_spec.signature_name = signature_name
    request.output_filter.extend(output_filter)
    for name, value in inputs.items():
        entry = request.inputs.add()
        entry.key = name
        write_tensor(name, entry.value, np.asarray(value))
    content: bytes = request.SerializeToString()
    return content


def read_response(content: bytes) -> dict[str, Array]:
    """The outputs of a serialized ``PredictResponse``: strings as ``bytes`` in an array of objects, ``bfloat16``, which
    NumPy does not have, as ``float32``.

    :raises ExternalSystemError: it is no such message.
    """
    try:
        response = MESSAGES["PredictResponse"].FromString(content)
        return {entry.key: read_tensor(entry.value) for entry in response.outputs}
    except (DecodeError, KeyError, ValueError) as exc:
        raise ExternalSystemError(f"the model server's answer is no PredictResponse: {exc}") from exc


def _build_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="timl/predict.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            if kind.rstrip("*") in _FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind.rstrip('*')}"
            else:
                field.type = field.Type.Value(f"TYPE_{kind.rstrip('*').upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _FIELDS}


#: Message classes by name.
MESSAGES = _build_classes()


def write_tensor(name: str, proto: Any, array: Array) -> None:
    """Numbers go to ``tensor_content``, as they lie in memory."""
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.dtype.kind in "OSU":
        proto.dtype = _STRING
        proto.string_val.extend(_to_bytes(name, value) for value in array.reshape(-1).tolist())
        return
    if array.dtype.name not in _NUMBERS:
        raise InvalidInputError(f"an array of {array.dtype.name} cannot be sent as a tensor", name)
    proto.dtype = _NUMBERS[array.dtype.name]
    proto.tensor_content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _to_bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise InvalidInputError(f"an array of objects holds {type(value).__name__}, which is no text", name)
    return value


def read_tensor(proto: Any) -> Array:
    """:raises KeyError: no such type is known.
    :raises ValueError: values do not fit the shape."""
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.dtype == _STRING:
        strings = np.empty(len(proto.string_val), object)
        strings[:] = list(proto.string_val)
        return _fill(strings, shape)
    name, field, kind = _DTYPES[proto.dtype]
    stored = np.dtype("uint16" if name == "bfloat16" else name)
    if proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, stored.newbyteorder("<")).astype(stored)
    else:
        values = _convert(np.array(getattr(proto, field), kind), stored, field)
    return _fill(_widen(values) if name == "bfloat16" else values, shape)


def _convert(values: Array, dtype: np.dtype[Any], field: str) -> Array:
    if field == "half_val":
        return values.astype(np.uint16).view(dtype)
    return values.view(dtype) if dtype.kind == "c" else values.astype(dtype)


def _widen(bits: Array) -> Array:
    """``bfloat16`` is the upper half of a ``float32``."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _fill(values: Array, shape: tuple[int, ...]) -> Array:
    """TensorFlow leaves out values at the end that are the same."""
    missing = math.prod(shape) - len(values)
    if missing > 0:
        filling = np.repeat(values[-1:], missing) if len(values) else np.zeros(missing, values.dtype)
        values = np.concatenate([values, filling])
    return values.reshape(shape)
