"""Requests of named fields: the JSON forms, and the check of every value.

Forms (one kind in a batch)::

    {"instances": [{"x1": 6.2, "x2": 2.2}, ...]}                  named values
    {"instances": [{"values": {...} or [...], "key": 7}, ...]}    the same with a key that the answer repeats
    {"instances": [[6.2, 2.2], ...]}                              values in the order of the model's fields
    {"inputs": {"x1": [6.2, ...], "x2": [2.2, ...]}}              columns
    {"inputs": [...]}                                             the same as "instances"

``null`` is a missing value. A field that is absent is an error unless the model says what then takes its place.

:source: TensorFlow Serving REST API (row and column form); Angel Serving ``docs/restful-api.md`` (``values``, ``key``);
KServe, ``get_predict_input`` (rows under ``inputs``).
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

import orjson

from airflow_provider_timl.entities import SignatureField
from airflow_provider_timl.exceptions import InvalidInputError

_MOST_BYTES_TO_EXPLAIN = 1024 * 1024
_LONGEST_INTEGER = 2**63
#: Types whose values are ISO 8601 text in a request, and Python's own in a ``Row``.
MOMENTS = frozenset({"date", "dateTime", "time"})
#: PMML's types for moments that are whole numbers.
COUNTS: tuple[str, ...] = (
    "timeSeconds",
    *(f"{unit}[{year}]" for unit in ("dateDaysSince", "dateTimeSecondsSince") for year in (0, 1960, 1970, 1980)),
)
_NOT_FINITE = "NaN, infinities and numbers beyond double precision are not accepted; send null for a missing value"
_FORMS = '{"instances": [{"field": value, ...}, ...]} or {"inputs": {"field": [value, ...], ...}}'
Row = list[Any]


@dataclass(frozen=True)
class RowRequest:
    """``rows``: values in the order of the fields. ``keys``: one for each row when the caller sent any."""

    rows: list[Row]
    keys: list[Any] | None = None


class _WrongValueError(ValueError):
    """What is wrong with one value; the caller knows where it stands."""


class RowReader:
    """Reads request bodies for a model with these input fields."""

    def __init__(self, fields: Sequence[SignatureField]) -> None:
        self._names = [field.name for field in fields]
        self._known = frozenset(self._names)
        self._required = [field.required for field in fields]
        self._checks = [_build_check(field) for field in fields]
        self._named = list(zip(self._names, self._required, self._checks, strict=True))

    def read(self, body: bytes) -> RowRequest:
        """:raises InvalidInputError: naming the instance and the field."""
        content = parse_json(body)
        if not isinstance(content, dict):
            raise InvalidInputError(f"the body is {describe(content)}; send {_FORMS}")
        forms = [form for form in ("instances", "inputs") if form in content]
        if len(forms) != 1:
            raise InvalidInputError(f"the body needs either 'instances' or 'inputs'; send {_FORMS}")
        unknown = next((name for name in content if name not in (*forms, "signature_name")), None)
        if unknown is not None:
            raise InvalidInputError(f"unknown name beside {forms[0]!r}; send {_FORMS}", field=unknown)
        if "instances" in content:
            return self._read_instances(content["instances"])
        if isinstance(content["inputs"], list):
            return self._read_instances(content["inputs"], "inputs")
        return self._read_columns(content["inputs"])

    def read_row(self, columns: Sequence[str], values: Sequence[Any]) -> Row:
        """One row of a table; columns that are no field of the model are ignored."""
        given = dict(zip(columns, values, strict=True))
        return self._read_named({name: given[name] for name in self._names if name in given}, "")

    def check_columns(self, columns: Sequence[str]) -> None:
        """:raises InvalidInputError: a required field is not among them."""
        for name, required, _ in self._named:
            if required and name not in columns:
                raise InvalidInputError(f"the input has no such column; it has {', '.join(columns)}", field=name)

    def _read_instances(self, instances: Any, form: str = "instances") -> RowRequest:
        if not isinstance(instances, list):
            raise InvalidInputError(f"expected an array, got {describe(instances)}", field=form)
        if not instances:
            raise InvalidInputError("the batch is empty; send at least one instance", field=form)
        first = type(instances[0])
        keyed = first is dict and self._is_keyed(instances[0])
        rows, keys = [], []
        for number, instance in enumerate(instances):
            where = f"{form}[{number}]"
            if type(instance) is not first or (keyed and not self._is_keyed(instance)):
                raise InvalidInputError(f"is of another form than {form}[0]; use one form in a batch", field=where)
            if keyed:
                keys.append(self._read_key(instance, where))
                rows.append(self._read_values(instance["values"], f"{where}.values"))
            else:
                rows.append(self._read_values(instance, where))
        return RowRequest(rows, keys if keyed and any(key is not None for key in keys) else None)

    def _is_keyed(self, instance: dict[str, Any]) -> bool:
        values = instance.get("values")
        return isinstance(values, (dict, list)) and instance.keys() <= {"values", "key"}

    def _read_key(self, instance: dict[str, Any], where: str) -> Any:
        key = instance.get("key")
        if isinstance(key, (dict, list)):
            raise InvalidInputError("a key is a string or a number", field=f"{where}.key")
        return key

    def _read_values(self, values: Any, where: str) -> Row:
        if type(values) is dict:
            return self._read_named(values, where)
        if type(values) is list:
            return self._read_ordered(values, where)
        raise InvalidInputError(f"expected an object or an array, got {describe(values)}", field=where)

    def _read_named(self, values: dict[str, Any], where: str) -> Row:
        row: Row = []
        found = 0
        for name, required, check in self._named:
            if name in values:
                found += 1
                row.append(self._check(check, values[name], where, name))
            elif required:
                raise InvalidInputError("the field is missing; send null for a missing value", _join(where, name))
            else:
                row.append(None)
        if found != len(values):
            self._refuse_unknown(next(name for name in values if name not in self._known), where)
        return row

    def _read_ordered(self, values: list[Any], where: str) -> Row:
        if len(values) != len(self._checks):
            names = ", ".join(self._names)
            message = f"has {len(values)} values; the model takes {len(self._checks)}: {names}"
            raise InvalidInputError(message, field=where)
        return [
            self._check(check, value, where, name) for (name, _, check), value in zip(self._named, values, strict=True)
        ]

    def _read_columns(self, columns: Any) -> RowRequest:
        if not isinstance(columns, dict):
            raise InvalidInputError(f"expected an object of columns, got {describe(columns)}", field="inputs")
        for name in columns:
            if name not in self._known:
                self._refuse_unknown(name, "inputs")
        lists = {name: values if isinstance(values, list) else [values] for name, values in columns.items()}
        lengths = {name: len(values) for name, values in lists.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidInputError(f"the columns differ in length: {lengths}", field="inputs")
        if not any(lengths.values()):
            raise InvalidInputError("the batch is empty; send at least one value a column", field="inputs")
        cells = [self._read_column(lists, *column, next(iter(lengths.values()))) for column in self._named]
        return RowRequest([list(row) for row in zip(*cells, strict=True)])

    def _read_column(
        self, columns: dict[str, list[Any]], name: str, required: bool, check: Callable[[Any], Any], count: int
    ) -> list[Any]:
        if name not in columns and required:
            raise InvalidInputError("the field is missing", field=f"inputs.{name}")
        values = columns.get(name, [None] * count)
        return [self._check(check, value, "inputs", f"{name}[{number}]") for number, value in enumerate(values)]

    @staticmethod
    def _check(check: Callable[[Any], Any], value: Any, where: str, name: str) -> Any:
        try:
            return check(value)
        except _WrongValueError as exc:
            raise InvalidInputError(str(exc), field=_join(where, name)) from None

    def _refuse_unknown(self, name: str, where: str) -> None:
        alike = {known.lower(): known for known in self._names}
        close = difflib.get_close_matches(name.lower(), alike, n=1)
        advice = f"did you mean {alike[close[0]]!r}?" if close else f"its fields are {', '.join(self._names)}"
        raise InvalidInputError(f"the model has no such field; {advice}", field=_join(where, name))


def parse_json(body: bytes) -> Any:
    """:raises InvalidInputError: not JSON; where, and for NaN or Infinity which field."""
    if not body.strip():
        raise InvalidInputError(f"the body is empty; send {_FORMS}")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        where = _find_not_finite(body)
        if where:
            raise InvalidInputError(_NOT_FINITE, where) from None
        raise InvalidInputError(
            f"the body is not valid JSON: {exc.msg} at line {exc.lineno} column {exc.colno}"
        ) from None


def _find_not_finite(body: bytes) -> str | None:
    """The path of the first NaN, infinity or too large number in a body that is JSON but for them."""
    if len(body) > _MOST_BYTES_TO_EXPLAIN:
        return None
    try:
        return _find_nan(json.loads(body), "")
    except (ValueError, RecursionError):
        return None


def _find_nan(value: Any, where: str) -> str | None:
    if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        return where or "the body"
    children: Any = ()
    if isinstance(value, dict):
        children = ((f"{where}.{name}".lstrip("."), child) for name, child in value.items())
    elif isinstance(value, list):
        children = ((f"{where}[{number}]", child) for number, child in enumerate(value))
    return next((found for path, child in children if (found := _find_nan(child, path))), None)


def _build_check(field: SignatureField) -> Callable[[Any], Any]:
    """A function that returns the value in the field's type, or raises ``_WrongValueError``."""
    check: Callable[[Any], Any] = _CHECKS.get(field.dtype, _check_string)
    if not field.values:
        return check
    allowed: frozenset[Any] = frozenset(field.values)

    def check_category(value: Any) -> Any:
        checked = check(value)
        if checked is not None and checked not in allowed:
            raise _WrongValueError(f"{value!r} is not one of {', '.join(map(repr, field.values or ()))}")
        return checked

    return check_category


def _check_double(value: Any) -> float | None:
    if type(value) is float:
        if math.isfinite(value):
            return value
        raise _WrongValueError(_NOT_FINITE)
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _WrongValueError(_NOT_FINITE) from None
    if value is None:
        return None
    raise _WrongValueError(f"expected a number, got {describe(value)}")


def _check_integer(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int:
        if -_LONGEST_INTEGER <= value < _LONGEST_INTEGER:
            return value
        raise _WrongValueError("the number does not fit 64 bits")
    if value is None:
        return None
    raise _WrongValueError(f"expected a whole number, got {describe(value)}")


def _check_boolean(value: Any) -> bool | None:
    if value is None or type(value) is bool:
        return value
    raise _WrongValueError(f"expected true or false, got {describe(value)}")


def _build_moment_check(moment: type[date | time], example: str) -> Callable[[Any], Any]:
    def check_moment(value: Any) -> date | time | None:
        if value is None or isinstance(value, moment):  # a column of a table holds moments
            return value
        try:
            if type(value) is str:
                return moment.fromisoformat(f"{value[:-1]}+00:00" if value.endswith("Z") else value)
        except ValueError:
            pass
        raise _WrongValueError(f"expected text like {example!r}, got {describe(value)}")

    return check_moment


def _check_string(value: Any) -> str | None:
    if value is None or type(value) is str:
        return value
    raise _WrongValueError(f"expected a string, got {describe(value)}")


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "double": _check_double,
    "float": _check_double,
    "integer": _check_integer,
    "boolean": _check_boolean,
    **dict.fromkeys(COUNTS, _check_integer),
    "date": _build_moment_check(date, "2000-12-31"),
    "dateTime": _build_moment_check(datetime, "2000-12-31T23:59:59"),
    "time": _build_moment_check(time, "23:59:59"),
}


def describe(value: Any) -> str:
    """A JSON value in a person's words, short."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    kind = kinds.get(type(value), "a number")
    return f"{kind} ({str(value)[:40]})" if isinstance(value, (str, int, float)) else kind


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
