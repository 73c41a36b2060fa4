"""What the gRPC transport itself reads and writes of TensorFlow Serving's messages: the model's name, and its status.

Pure functions on the wire format, so that a transport needs neither TensorFlow nor its message classes, and no tensor
is copied to find out which model it is for. Everything else in a message is the engine's.

:source: tensorflow_serving/apis ``model.proto``, ``inference.proto``, ``get_model_status.proto`` 2.21;
    ``grpc.health.v1``. A submessage that comes in pieces is their concatenation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.wire_format import Field, build_varint, read_fields

#: ``HealthCheckResponse``: the status is field 1.
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
_STATE_AVAILABLE = 30


@dataclass(frozen=True)
class ModelSpec:
    """Which model a request is for. At most one of ``version`` and ``label`` is set."""

    name: str = ""
    version: int | None = None
    label: str | None = None


def read_model_specs(method: str, message: bytes) -> list[ModelSpec]:
    """The models that a request names; several are possible in ``MultiInference`` alone.

    :raises InvalidInputError: it is no such message, or names none.
    """
    parts = _read_first(memoryview(message))
    if not all(isinstance(part, memoryview) for part in parts):
        raise _build_error()
    if method != "MultiInference":
        return [_read_spec(parts, "model_spec")]
    return [
        _read_spec(_read_first(part), f"tasks[{index}].model_spec")
        for index, part in enumerate(part for part in parts if isinstance(part, memoryview))
    ]


def build_status(version: int) -> bytes:
    """``GetModelStatusResponse``: the one version is available, without an error."""
    state = b"\x08" + build_varint(version) + b"\x10" + build_varint(_STATE_AVAILABLE) + b"\x1a\x00"
    return b"\x0a" + build_varint(len(state)) + state


def build_label_error(label: str) -> InvalidInputError:
    """TensorFlow Serving, too, calls an unknown label a wrong argument, not a missing model."""
    return InvalidInputError(f"there is no label {label!r}; name a version, or none", "model_spec.version_label")


def _read_spec(parts: list[memoryview | int], field: str) -> ModelSpec:
    if not parts:
        raise InvalidInputError("is missing; its name says which model is meant", field)
    name, version, label = "", None, None
    for number, value in _read_fields(_join(parts)):
        if number == 1:
            name = _read_text(value)
        elif number == 2:
            version, label = _read_wrapped(value), None
        elif number == 4:
            version, label = None, _read_text(value)
    if not name:
        raise InvalidInputError("has no name; it says which model is meant", field)
    return ModelSpec(name, version, label)


def _join(parts: list[memoryview | int]) -> memoryview:
    pieces = [part for part in parts if isinstance(part, memoryview)]
    if len(pieces) != len(parts):
        raise _build_error()
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def _read_text(value: memoryview | int) -> str:
    try:
        return str(_join([value]), "utf-8")
    except UnicodeDecodeError as exc:
        raise _build_error() from exc


def _read_wrapped(value: memoryview | int) -> int:
    """The number in an ``Int64Value``."""
    number = 0
    for field, content in _read_fields(_join([value])):
        if field == 1 and isinstance(content, int):
            number = content
    return number - 2**64 if number >= 2**63 else number


def _read_first(message: memoryview) -> list[memoryview | int]:
    """The values of field 1."""
    return [value for number, value in _read_fields(message) if number == 1]


def _read_fields(message: memoryview) -> Iterator[Field]:
    try:
        yield from read_fields(message)
    except ValueError as exc:
        raise _build_error() from exc


def _build_error() -> InvalidInputError:
    return InvalidInputError("the request is not the message that this method takes")
