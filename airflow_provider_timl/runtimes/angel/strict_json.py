"""JSON files of a model, and typed fields of them: what is missing, of another type or out of bounds is refused."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from airflow_provider_timl.exceptions import InvalidModelError

#: A matrix, a layer or a partition file is a plain name below the model's folder.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.@=+-]{1,200}")
_RESERVED_NAMES = frozenset({".", "..", "meta"})
_MOST_JSON_BYTES = 64 * 1024 * 1024
_LONG = 2**63
_INT = 2**31


def read_bytes(path: Path, where: str) -> bytes:
    """A regular file's content, up to 64 MiB. A link is never followed.

    :raises InvalidModelError: it is not there, is something else, or is larger.
    """
    with open_regular(path, where) as file:
        if os.fstat(file.fileno()).st_size > _MOST_JSON_BYTES:
            raise InvalidModelError(f"{where} is larger than {_MOST_JSON_BYTES >> 20} MiB")
        return file.read()


def open_regular(path: Path, where: str) -> BinaryIO:
    """:raises InvalidModelError: there is no regular file of that name."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError) as exc:
        raise InvalidModelError(f"{where} is not a file that can be read") from exc
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise InvalidModelError(f"{where} is not a regular file")
    return os.fdopen(number, "rb")


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """:raises InvalidModelError: not a JSON object, or one that names something twice."""

    def refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise InvalidModelError(f"{where} holds the same name twice in one object")
        return result

    try:
        value = json.loads(content, object_pairs_hook=refuse_twins)
    except (ValueError, RecursionError) as exc:
        raise InvalidModelError(f"{where} is not valid JSON: {str(exc)[:200]}") from exc
    if not isinstance(value, dict):
        raise InvalidModelError(f"{where} is not a JSON object")
    return value


def quote(value: Any) -> str:
    """A value for a message. Of what nests nothing but its kind: how deep it goes is the file's choice."""
    if isinstance(value, str):
        return repr(value[:80])
    return "an array" if isinstance(value, list) else "an object" if isinstance(value, dict) else str(value)[:40]


def get_plain_name(value: Any, where: str) -> str:
    """:raises InvalidModelError: it could lead out of its folder, or to another kind of file."""
    if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value) or value in _RESERVED_NAMES:
        raise InvalidModelError(f"{where} is {quote(value)}, which is no plain name")
    return value


def get_object(content: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise InvalidModelError(f"{where} has no object {key!r}")
    return value


def get_text(content: dict[str, Any], key: str, where: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise InvalidModelError(f"{where}: {key!r} is not a string")
    return value


def get_int(content: dict[str, Any], key: str, where: str, *, least: int = 0, below: int = _INT) -> int:
    """A whole number in ``[least, below)``."""
    value = content.get(key)
    if type(value) is not int or not least <= value < below:
        raise InvalidModelError(f"{where}: {key!r} is {quote(value)}, not a whole number from {least} to {below - 1}")
    return value


def get_long(content: dict[str, Any], key: str, where: str, *, least: int = -_LONG) -> int:
    """A whole number of 64 bits."""
    return get_int(content, key, where, least=least, below=_LONG)
