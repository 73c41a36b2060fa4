"""Which files make a model of each type, and the folder they stand in. What is in them is the runtime's to judge."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError

_SAVED_MODEL = "saved_model.pb"
_WIRE_VARINT, _WIRE_64, _WIRE_BYTES, _WIRE_32 = 0, 1, 2, 5
_SCHEMA_VERSION_FIELD, _META_GRAPHS_FIELD = 1, 2
_VARIABLES_SHARD = re.compile(r"variables\.data-[0-9]{5}-of-(?P<count>[0-9]{5})")


def find_model_root(folder: Path) -> Path:
    """The folder that holds the model: ``folder``, or the one numbered folder in it (``<base>/<version>/…``)."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and re.fullmatch("[0-9]+", entries[0].name):
        return entries[0]
    return folder


def check_structure(folder: Path, model_type: str) -> dict[str, str]:
    """Recognise a model of this type; what was found out about its framework.

    :raises InvalidModelError: it is not one, with the reason.
    :raises InvalidInputError: there is no such model type.
    """
    check = _CHECKS.get(model_type)
    if check is None:
        raise InvalidInputError(f"unknown model type {model_type!r}; there are {', '.join(_CHECKS)}", "model_type")
    return check(folder)


def _check_pmml(folder: Path) -> dict[str, str]:
    found = sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in {".pmml", ".xml"})
    if len(found) != 1:
        raise InvalidModelError(f"a PMML model is exactly one .pmml or .xml file; found {', '.join(found) or 'none'}")
    return {}


def _check_tensorflow(folder: Path) -> dict[str, str]:
    path = folder / _SAVED_MODEL
    if not path.is_file():
        raise InvalidModelError(f"a SavedModel has the file {_SAVED_MODEL!r}; it is not there")
    if path.stat().st_size == 0:
        raise InvalidModelError(f"{_SAVED_MODEL} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as message:
        fields = set(_iterate_fields(message))
    if not fields <= {(_SCHEMA_VERSION_FIELD, _WIRE_VARINT), (_META_GRAPHS_FIELD, _WIRE_BYTES)}:
        raise InvalidModelError(f"{_SAVED_MODEL} is another protocol buffer than a SavedModel")
    if (_META_GRAPHS_FIELD, _WIRE_BYTES) not in fields:
        raise InvalidModelError(f"{_SAVED_MODEL} holds no graph")
    _check_variables(folder / "variables")
    return {"tensorflow": "SavedModel"}


def _check_variables(folder: Path) -> None:
    """A model without variables has no such folder, or an empty one; else index and every shard of it are there."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return
    if "variables.index" not in names:
        raise InvalidModelError("the folder 'variables' lacks its file 'variables.index'")
    counts = {int(match["count"]) for match in map(_VARIABLES_SHARD.fullmatch, names) if match}
    if len(counts) != 1:
        raise InvalidModelError("the folder 'variables' needs one set of files 'variables.data-NNNNN-of-NNNNN'")
    (count,) = counts
    if count != sum(_VARIABLES_SHARD.fullmatch(name) is not None for name in names):
        raise InvalidModelError(f"the folder 'variables' lacks some of its {count} files 'variables.data-...'")


def _iterate_fields(message: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Number and wire type of the top-level fields of a protocol buffer: enough to know that the bytes are one."""
    position, size = 0, len(message)
    while position < size:
        tag, position = _read_varint(message, position)
        wire_type = tag & 7
        if wire_type == _WIRE_BYTES:
            length, position = _read_varint(message, position)
            position += length
        elif wire_type == _WIRE_VARINT:
            _, position = _read_varint(message, position)
        elif wire_type in {_WIRE_64, _WIRE_32}:
            position += 8 if wire_type == _WIRE_64 else 4
        else:
            raise InvalidModelError(f"{_SAVED_MODEL} is not a protocol buffer")
        if position > size:
            raise InvalidModelError(f"{_SAVED_MODEL} is cut off")
        yield tag >> 3, wire_type


def _read_varint(message: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise InvalidModelError(f"{_SAVED_MODEL} is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise InvalidModelError(f"{_SAVED_MODEL} is not a protocol buffer")


def _check_angel(folder: Path) -> dict[str, str]:
    if not (folder / "graph.json").is_file():
        raise InvalidModelError("an Angel model has the file 'graph.json'; it is not there")
    return {}


_CHECKS: dict[str, Callable[[Path], dict[str, str]]] = {
    "pmml": _check_pmml,
    "tensorflow": _check_tensorflow,
    "angel": _check_angel,
}
MODEL_TYPES = tuple(_CHECKS)
