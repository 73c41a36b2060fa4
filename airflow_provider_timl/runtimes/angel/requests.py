"""Request bodies of Angel Serving, checked completely::

    {"instances": [[0.5, 1.0, ...], ...]}                                            dense: a value for each feature
    {"instances": [{"values": [0.5, 1.0, ...], "key": "a"}, ...]}                    the same with a name
    {"instances": [{"sparseIndices": [3, 7], "sparseValues": [0.5, 1.0], "key": 7}]} sparse

One form in a batch. Values are numbers or strings that hold one. An index given twice counts once, with its last value.
``key`` becomes the ``sid`` of the answer.

:source: Angel Serving 0.1.0, ``docs/restful-api.md``. What Angel drops or cuts without notice is refused here.
"""

from __future__ import annotations

import math
import re
from array import array
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.angel.batch import Array, Batch
from airflow_provider_timl.runtimes.rows import parse_json

_FORMS = '{"instances": [[value, ...], ...]} or {"instances": [{"sparseIndices": [...], "sparseValues": [...]}, ...]}'
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_END_OF_INT = 2**31
_END_OF_LONG = 2**63
_NUMBERS = frozenset({int, float})
_MOST_KEPT_ROW = 2**16
_NAME = frozenset({"key"})
_DENSE_FIELDS, _SPARSE_FIELDS = frozenset({"values"}), frozenset({"sparseIndices", "sparseValues"})
Form = frozenset[str] | type
#: What instances are that have these fields, or are of this type; and whether they have a ``key``.
_KNOWN_FORMS: dict[Form, tuple[Form, bool]] = {
    list: (list, False),
    _DENSE_FIELDS: (_DENSE_FIELDS, False),
    _DENSE_FIELDS | _NAME: (_DENSE_FIELDS, True),
    _SPARSE_FIELDS: (_SPARSE_FIELDS, False),
    _SPARSE_FIELDS | _NAME: (_SPARSE_FIELDS, True),
}


class AngelRequest(NamedTuple):
    """``names``: the ``sid`` of each instance that has a key, else ``None``; ``None`` when none has one."""

    batch: Batch
    names: list[str | None] | None


class RequestReader:
    """:param dimension: the number of features, -1 where the model does not know.
    :param feature_count: what every instance must have, ``None`` for any number up to ``most_features``.
    """

    def __init__(
        self,
        dimension: int,
        value_type: str,
        has_long_keys: bool,
        *,
        feature_count: int | None,
        needs_features: bool,
        most_features: int,
    ) -> None:
        self._dimension = dimension
        self._type = np.dtype(value_type)
        self._has_long_keys = has_long_keys
        self._takes_all_keys = has_long_keys and dimension < 0
        self._end_of_keys = dimension if dimension >= 0 else _END_OF_LONG if has_long_keys else _END_OF_INT
        self._feature_count = feature_count
        self._least_features = feature_count if feature_count is not None else int(needs_features)
        self._most_features = most_features if feature_count is None else min(feature_count, most_features)
        self._row = np.arange(dimension if 0 < dimension <= _MOST_KEPT_ROW else 0)

    def read(self, body: bytes) -> AngelRequest:
        """:raises InvalidInputError: naming the instance and the field."""
        content = parse_json(body)
        if not isinstance(content, dict) or "instances" not in content:
            raise InvalidInputError(f"the body needs 'instances'; send {_FORMS}")
        if len(content) > 1:
            unknown = next((name for name in content if name not in {"instances", "signature_name"}), None)
            if unknown is not None:
                raise InvalidInputError(f"unknown name beside 'instances'; send {_FORMS}", field=unknown)
        instances = content["instances"]
        if not isinstance(instances, list):
            raise InvalidInputError("is not an array", field="instances")
        if not instances:
            raise InvalidInputError("the batch is empty; send at least one instance", field="instances")
        return self.read_instances(instances, may_have_booleans=_may_have_booleans(body))

    def read_instances(self, instances: list[Any], *, may_have_booleans: bool = True) -> AngelRequest:
        """:param may_have_booleans: they pass for numbers in Python, and each number has to be looked at.

        :raises InvalidInputError: naming the instance and the field.
        """
        form, has_names = _find_form(instances)
        names = [_get_name(instance, number) for number, instance in enumerate(instances)] if has_names else None
        read = self._read_sparse if form is _SPARSE_FIELDS else self._read_dense
        batch = read(instances, may_have_booleans)
        self._check_counts(batch)
        return AngelRequest(batch, names)

    def _read_dense(self, instances: list[Any], may_have_booleans: bool) -> Batch:
        if self._dimension < 0 or self._has_long_keys:
            raise InvalidInputError(
                "the model does not know its number of features; send sparseIndices and sparseValues", "instances[0]"
            )
        field = "" if isinstance(instances[0], list) else ".values"
        rows = instances if not field else [instance["values"] for instance in instances]
        for number, values in enumerate(rows):
            if not isinstance(values, list):
                raise InvalidInputError("is not an array", field=f"instances[{number}]{field}")
            if len(values) != self._dimension:
                message = f"has {len(values)} values; the model takes {self._dimension}"
                raise InvalidInputError(message, field=f"instances[{number}]{field}")
        values = self._to_values(rows, field, may_have_booleans)
        row = self._row if len(self._row) else np.arange(self._dimension)
        return Batch([self._dimension] * len(rows), row if len(rows) == 1 else np.tile(row, len(rows)), values)

    def _read_sparse(self, instances: list[Any], may_have_booleans: bool) -> Batch:
        ids, rows, counts = [], [], []
        for number, instance in enumerate(instances):
            indices, values = instance.get("sparseIndices"), instance.get("sparseValues")
            if not isinstance(indices, list) or not isinstance(values, list):
                name = "sparseValues" if isinstance(indices, list) else "sparseIndices"
                raise InvalidInputError("is missing or not an array", field=f"instances[{number}].{name}")
            if len(indices) != len(values):
                message = f"{len(indices)} sparseIndices and {len(values)} sparseValues differ in number"
                raise InvalidInputError(message, field=f"instances[{number}]")
            ids.append(indices)
            rows.append(values)
            counts.append(len(indices))
        keys, is_behind = self._to_keys(ids, may_have_booleans)
        batch = Batch(counts, keys, self._to_values(rows, ".sparseValues", may_have_booleans))
        return batch if is_behind is None else _sort(batch, is_behind)

    def _to_keys(
        self, rows: list[list[Any]], may_have_booleans: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.bool] | None]:
        """All indices, and of all but the first whether it is not above the one before; ``None`` when none is.

        :raises InvalidInputError: one is no feature of the model.
        """
        keys = None if may_have_booleans and _has_boolean(rows) else _pack("q", rows)
        if keys is None:
            raise self._find_bad_index(rows)
        is_behind = keys[1:] <= keys[:-1]
        is_ascending = not np.count_nonzero(is_behind)
        if not self._takes_all_keys and len(keys):
            low, high = (keys[0], keys[-1]) if is_ascending else (keys.min(), keys.max())
            if low < 0 or high >= self._end_of_keys:
                raise self._find_bad_index(rows)
        return keys, None if is_ascending else is_behind

    def _find_bad_index(self, rows: list[list[Any]]) -> InvalidInputError:
        low, high = -_END_OF_LONG if self._takes_all_keys else 0, self._end_of_keys
        for number, indices in enumerate(rows):
            for position, index in enumerate(indices):
                field = f"instances[{number}].sparseIndices[{position}]"
                if type(index) is not int:
                    return InvalidInputError("is not a whole number", field=field)
                if not low <= index < high:
                    message = f"{str(index)[:40]} is no feature of the model; they are {low} to {high - 1}"
                    return InvalidInputError(message, field=field)
        return InvalidInputError("an index is not a whole number", field="instances")

    def _to_values(self, rows: list[list[Any]], field: str, may_have_booleans: bool) -> Array:
        """All numbers in the model's type.

        :raises InvalidInputError: one is no number, or beyond what the type holds.
        """
        values = _pack(self._type.char, rows)
        if values is None or (may_have_booleans and _has_boolean(rows)):
            numbers = [_to_numbers(row, f"instances[{number}]{field}") for number, row in enumerate(rows)]
            values = _pack(self._type.char, numbers)
        if values is not None and _are_finite(values):
            return values
        raise self._find_too_large(rows, field)

    def _find_too_large(self, rows: list[list[Any]], field: str) -> InvalidInputError:
        largest = float(np.finfo(self._type).max)
        message = f"the model's numbers go up to {largest:.4g} on both sides of zero"
        for number, row in enumerate(rows):
            for position, value in enumerate(row):
                if not abs(float(value) if isinstance(value, str) else value) <= largest:
                    return InvalidInputError(message, field=f"instances[{number}]{field}[{position}]")
        return InvalidInputError(message, field="instances")

    def _check_counts(self, batch: Batch) -> None:
        if self._least_features <= min(batch.counts) <= max(batch.counts) <= self._most_features:
            return
        for number, count in enumerate(batch.counts):
            if self._feature_count not in {None, count}:
                message = f"has {count} features; the model needs exactly {self._feature_count}"
            elif count < self._least_features:
                message = "has no features; the model needs at least one"
            elif count > self._most_features:
                message = f"has {count} features; up to {self._most_features} are taken"
            else:
                continue
            raise InvalidInputError(message, field=f"instances[{number}]")


def _may_have_booleans(body: bytes) -> bool:
    """Looks for one letter first, which is many times as fast, and is in no body of plain arrays."""
    return (b"r" in body and b"true" in body) or (b"f" in body and b"false" in body)


def _has_boolean(rows: list[list[Any]]) -> bool:
    return bool in set(map(type, chain.from_iterable(rows)))


def _are_finite(values: Array) -> bool:
    """The sum of squares is finite only where all are, and takes a third of the time to ask for. It may overflow."""
    return math.isfinite(values.dot(values)) or bool(np.isfinite(values).all())


def _find_form(instances: list[Any]) -> tuple[Form, bool]:
    """What all instances are, and whether any of them has a ``key``."""
    kinds = {frozenset(instance) if type(instance) is dict else type(instance) for instance in instances}
    known = _KNOWN_FORMS.get(kinds.pop()) if len(kinds) == 1 else None
    if known is not None:
        return known
    form = _get_form(instances[0], "instances[0]")
    for number, instance in enumerate(instances):
        where = f"instances[{number}]"
        if _get_form(instance, where) != form:
            raise InvalidInputError("is of another form than instances[0]; use one form in a batch", field=where)
    return form, True


def _get_form(instance: Any, where: str) -> Form:
    """What tells the forms apart. Beside the form's own fields there may be a ``key``."""
    if isinstance(instance, list):
        return list
    if isinstance(instance, dict):
        fields = instance.keys() - _NAME
        for known in (_DENSE_FIELDS, _SPARSE_FIELDS):
            if fields & known:
                if fields != known and fields - known:
                    raise InvalidInputError(f"unknown field; send {_FORMS}", field=f"{where}.{min(fields - known)}")
                return known
    raise InvalidInputError(f"an Angel model takes no named fields; send {_FORMS}", field=where)


def _get_name(instance: Any, number: int) -> str | None:
    key = instance.get("key")
    if key is None or key == "":
        return None
    if isinstance(key, (dict, list)):
        raise InvalidInputError("a key is a string or a number", field=f"instances[{number}].key")
    return str(key).lower() if isinstance(key, bool) else str(key)


def _pack(code: str, rows: list[list[Any]]) -> NDArray[Any] | None:
    """All numbers in one array; ``None`` when one is not of that type. Booleans pass, as they do in Python."""
    buffer = array(code)
    try:
        for row in rows:
            buffer.fromlist(row)
    except (TypeError, OverflowError):
        return None
    return np.frombuffer(buffer, np.dtype(code)) if buffer else np.empty(0, np.dtype(code))


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


def _sort(batch: Batch, is_behind: NDArray[np.bool]) -> Batch:
    """Features in ascending order; of an index that is given twice, the last value.

    :param is_behind: of all features but the first, whether its index is not above the one before.
    """
    first_ones = batch.starts[1:-1]
    is_behind[first_ones[(first_ones > 0) & (first_ones < len(batch.ids))] - 1] = False
    if not np.count_nonzero(is_behind):
        return batch
    rows = batch.instance_numbers
    order = np.lexsort((batch.ids, rows))  # stable: what came later stays behind
    ids, values = batch.ids[order], batch.values[order]
    is_last = np.ones(len(ids), bool)
    is_last[:-1] = (ids[1:] != ids[:-1]) | (rows[1:] != rows[:-1])
    counts = np.bincount(rows[is_last], minlength=len(batch)).tolist()
    return Batch(counts, ids[is_last], values[is_last])
