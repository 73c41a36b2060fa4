"""What may be said of a model version, checked before anything is read or written. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from airflow_provider_timl.artifacts import check_relative_path
from airflow_provider_timl.database.tables import ModelRow
from airflow_provider_timl.entities import AliasName, FileDigest, ModelName
from airflow_provider_timl.exceptions import InvalidInputError, TooLargeError
from airflow_provider_timl.runtimes.contract import get_runtime_for

MOST_FILES = 10_000
_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)
_ALIAS_NAME: TypeAdapter[str] = TypeAdapter(AliasName)


def check_model_name(name: str) -> None:
    """:raises InvalidInputError: it becomes part of paths and host names, and has other characters than those take."""
    _check_pattern(_MODEL_NAME, name, "model_name", "lower-case letters, digits, '-' and '_'")


def check_aliases(aliases: Sequence[str]) -> None:
    for alias in aliases:
        _check_pattern(_ALIAS_NAME, alias, "alias", "a lower-case letter, then lower-case letters, digits, '-' and '_'")


def check_type_name(model_type: str) -> None:
    """:raises InvalidInputError: no runtime is for models of that type."""
    get_runtime_for(model_type)


def check_type_of(model: ModelRow | None, model_type: str) -> None:
    """:raises InvalidInputError: the model exists with another type."""
    if model is not None and model.model_type != model_type:
        raise InvalidInputError(
            f"model {model.name!r} is of type {model.model_type!r}; type {model_type!r} needs another model",
            field="model_type",
        )


def check_files(files: Sequence[FileDigest], max_bytes: int) -> None:
    """Plain paths, and within the limits of size and number."""
    for file in files:
        check_relative_path(file.path)
    total = sum(file.size_bytes for file in files)
    if total > max_bytes or len(files) > MOST_FILES:
        raise TooLargeError(
            f"the model has {total} bytes in {len(files)} files; at most {max_bytes} bytes in {MOST_FILES} are allowed",
            field="files",
        )


def check_metrics(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InvalidInputError(f"{value} is not a finite number", field=f"metrics.{name}")


def _check_pattern(adapter: TypeAdapter[Any], value: str, field: str, allowed: str) -> None:
    try:
        adapter.validate_python(value)
    except ValidationError as exc:
        raise InvalidInputError(f"{value[:80]!r} is no name here; use at most 63 of {allowed}", field=field) from exc
