"""Request bodies of Angel Serving, checked completely::

    {"instances": [[0.5, 1.0, ...], ...]}                                            dense: a value for each feature
    {"instances": [{"values": [0.5, 1.0, ...], "key": "a"}, ...]}                    the same with a name
    {"instances": [{"sparseIndices": [3, 7], "sparseValues": [0.5, 1.0], "key": 7}]} sparse

One form in a batch. Values are numbers or strings that hold one. An index given twice counts once, with its last value.
``key`` becomes the ``sid`` of the answer.

:source: Angel Serving 0.1.0, ``docs/restful-api.md``. What Angel drops or cuts without notice is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.angel.batch import Array, Batch
from airflow_provider_timl.runtimes.rows import parse_json

_FORMS = '{"instances": [[value, ...], ...]} or {"instances": [{"sparseIndices": [...], "sparseValues": [...]}, ...]}'
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_END_OF_INT = 2**31
_END_OF_LONG = 2**63
_NUMBERS = frozenset({int, float})
_DENSE_FIELDS, _SPARSE_FIELDS = frozenset({"values"}), frozenset({"sparseIndices", "sparseValues"})


@dataclass(frozen=True)
class AngelRequest:
    """``names``: the ``sid`` of each instance that has a key, else ``None``."""

    batch: Batch
    names: list[str | None]


class RequestReader:
    """:param dimension: the number of features, -1 where the model does not know.
    :param feature_count: what every instance must have, ``None`` for any number.
    """

    def __init__(
        self, dimension: int, value_type: str, has_long_keys: bool, feature_count: int | None, needs_features: bool
    ) -> None:
        self._dimension = dimension
        self._type = np.dtype(value_type)
        self._has_long_keys = has_long_keys
        self._feature_count = feature_count
        self._needs_features = needs_features

    def read(self, body: bytes) -> AngelRequest:
        """:raises InvalidInputError: naming the instance and the field."""
        content = parse_json(body)
        if not isinstance(content, dict) or "instances" not in content:
            raise InvalidInputError(f"the body needs 'instances'; send {_FORMS}")
        unknown = next((name for name in content if name not in {"instances", "signature_name"}), None)
        if unknown is not None:
            raise InvalidInputError(f"unknown name beside 'instances'; send {_FORMS}", field=unknown)
        instances = content["instances"]
        if not isinstance(instances, list):
            raise InvalidInputError("is not an array", field="instances")
        if not instances:
            raise InvalidInputError("the batch is empty; send at least one instance", field="instances")
        return self.read_instances(instances)

    def read_instances(self, instances: Sequence[Any]) -> AngelRequest:
        """:raises InvalidInputError: naming the instance and the field."""
        form = _get_form(instances[0], "instances[0]")
        for number, instance in enumerate(instances):
            where = f"instances[{number}]"
            if _get_form(instance, where) != form:
                raise InvalidInputError("is of another form than instances[0]; use one form in a batch", field=where)
        read = self._read_sparse if form is _SPARSE_FIELDS else self._read_dense
        batch = read(instances)
        self._check_counts(batch)
        return AngelRequest(batch, [_get_name(instance, number) for number, instance in enumerate(instances)])

    def _read_dense(self, instances: Sequence[Any]) -> Batch:
        if self._dimension < 0 or self._has_long_keys:
            raise InvalidInputError(
                "the model does not know its number of features; send sparseIndices and sparseValues", "instances[0]"
            )
        rows = []
        for number, instance in enumerate(instances):
            where = f"instances[{number}]" if isinstance(instance, list) else f"instances[{number}].values"
            values = instance if isinstance(instance, list) else instance["values"]
            if not isinstance(values, list):
                raise InvalidInputError("is not an array", field=where)
            if len(values) != self._dimension:
                message = f"has {len(values)} values; the model takes {self._dimension}"
                raise InvalidInputError(message, field=where)
            rows.append(_to_numbers(values, where))
        values = self._to_array(rows, "" if isinstance(instances[0], list) else ".values")
        starts = np.arange(len(rows) + 1, dtype=np.int64) * self._dimension
        return Batch(starts, np.tile(np.arange(self._dimension, dtype=np.int64), len(rows)), values)

    def _read_sparse(self, instances: Sequence[Any]) -> Batch:
        ids, rows = [], []
        for number, instance in enumerate(instances):
            where = f"instances[{number}]"
            indices, values = instance.get("sparseIndices"), instance.get("sparseValues")
            for name, given in (("sparseIndices", indices), ("sparseValues", values)):
                if not isinstance(given, list):
                    raise InvalidInputError("is missing or not an array", field=f"{where}.{name}")
            if len(indices) != len(values):
                message = f"{len(indices)} sparseIndices and {len(values)} sparseValues differ in number"
                raise InvalidInputError(message, field=where)
            ids.append(self._check_indices(indices, f"{where}.sparseIndices"))
            rows.append(_to_numbers(values, f"{where}.sparseValues"))
        counts = np.array([len(row) for row in ids], np.int64)
        batch = Batch(
            starts=np.concatenate([[0], np.cumsum(counts)]),
            ids=np.fromiter(chain.from_iterable(ids), np.int64, int(counts.sum())),
            values=self._to_array(rows, ".sparseValues"),
        )
        return _sort(batch)

    def _check_indices(self, indices: list[Any], where: str) -> list[int]:
        low = -_END_OF_LONG if self._has_long_keys and self._dimension < 0 else 0
        high = self._dimension if self._dimension >= 0 else _END_OF_LONG if self._has_long_keys else _END_OF_INT
        if not set(map(type, indices)) <= {int}:
            number = next(number for number, index in enumerate(indices) if type(index) is not int)
            raise InvalidInputError("is not a whole number", field=f"{where}[{number}]")
        if indices and not low <= min(indices) <= max(indices) < high:
            number = next(number for number, index in enumerate(indices) if not low <= index < high)
            message = f"{str(indices[number])[:40]} is no feature of the model; they are {low} to {high - 1}"
            raise InvalidInputError(message, field=f"{where}[{number}]")
        return indices

    def _to_array(self, rows: list[list[Any]], field: str) -> Array:
        """All numbers in the model's type.

        :raises InvalidInputError: one is beyond what the type holds.
        """
        try:
            with np.errstate(over="ignore"):
                values = np.fromiter(chain.from_iterable(rows), np.float64).astype(self._type)
            is_finite = bool(np.isfinite(values).all())
        except OverflowError:
            is_finite = False
        if is_finite:
            return values
        largest = float(np.finfo(self._type).max)
        for number, row in enumerate(rows):
            for position, value in enumerate(row):
                if not abs(value) <= largest:
                    message = f"the model's numbers go up to {largest:.4g} on both sides of zero"
                    raise InvalidInputError(message, field=f"instances[{number}]{field}[{position}]")
        raise InvalidInputError("a number is not finite", field="instances")

    def _check_counts(self, batch: Batch) -> None:
        counts = batch.counts
        if self._feature_count is not None and np.any(counts != self._feature_count):
            number = int(np.argmax(counts != self._feature_count))
            message = f"has {counts[number]} features; the model needs exactly {self._feature_count}"
            raise InvalidInputError(message, field=f"instances[{number}]")
        if self._needs_features and np.any(counts == 0):
            number = int(np.argmax(counts == 0))
            raise InvalidInputError("has no features; the model needs at least one", field=f"instances[{number}]")


def _get_form(instance: Any, where: str) -> frozenset[str] | type:
    """What tells the forms apart. Beside the form's own fields there may be a ``key``."""
    if isinstance(instance, list):
        return list
    if isinstance(instance, dict):
        fields = instance.keys() - {"key"}
        for known in (_DENSE_FIELDS, _SPARSE_FIELDS):
            if fields & known:
                if fields != known and fields - known:
                    raise InvalidInputError(f"unknown field; send {_FORMS}", field=f"{where}.{min(fields - known)}")
                return known
    raise InvalidInputError(f"an Angel model takes no named fields; send {_FORMS}", field=where)


def _get_name(instance: Any, number: int) -> str | None:
    key = instance.get("key") if isinstance(instance, dict) else None
    if key is None or key == "":
        return None
    if isinstance(key, (dict, list)):
        raise InvalidInputError("a key is a string or a number", field=f"instances[{number}].key")
    return key if isinstance(key, str) else str(key)


def _to_numbers(values: list[Any], where: str) -> list[Any]:
    if set(map(type, values)) <= _NUMBERS:
        return values
    return [_to_number(value, f"{where}[{position}]") for position, value in enumerate(values)]


def _to_number(value: Any, where: str) -> Any:
    if type(value) in _NUMBERS:
        return value
    if type(value) is str and _NUMBER.fullmatch(value.strip()):
        return float(value)
    raise InvalidInputError("is not a number", field=where)


def _sort(batch: Batch) -> Batch:
    """Features in ascending order; of an index that is given twice, the last value."""
    rows = batch.instance_numbers
    order = np.lexsort((batch.ids, rows))  # stable: what came later stays behind
    ids, values = batch.ids[order], batch.values[order]
    is_last = np.ones(len(ids), bool)
    is_last[:-1] = (ids[1:] != ids[:-1]) | (rows[1:] != rows[:-1])
    if is_last.all():
        return Batch(batch.starts, ids, values)
    counts = np.bincount(rows[is_last], minlength=len(batch))
    return Batch(np.concatenate([[0], np.cumsum(counts)]), ids[is_last], values[is_last])
