"""Values on their way into PMML4S and out of it.

Out: from what JPype hands back to what JSON takes, by the declared type of an output; NaN and infinities, which JSON
does not have, become ``None`` like a missing value. In: moments, which PMML4S takes for missing when they come as text
(seen with 1.5.8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

import jpype

from airflow_provider_timl.entities import SignatureField
from airflow_provider_timl.runtimes.jvm import get_java_class
from airflow_provider_timl.runtimes.rows import MOMENTS, Row

Reader = Callable[[Any], Any]


def build_reader(kind: str) -> Reader:
    """Of values that are not null; a value that is not of the declared type keeps its own."""
    converters: dict[Any, Reader] = {
        get_java_class("java.lang.Double"): _to_finite,
        get_java_class("java.lang.Float"): _to_finite,
        get_java_class("java.lang.Long"): int,
        get_java_class("java.lang.Integer"): int,
        get_java_class("java.lang.Boolean"): bool,
    }
    if kind == "text":
        return str
    if kind == "identity":
        return lambda value: str(value) or None
    if kind == "number":
        converters.update(dict.fromkeys((get_java_class("java.lang.Long"), get_java_class("java.lang.Integer")), float))
    if kind == "integer":
        converters[get_java_class("java.lang.Double")] = _to_whole
    find = converters.get
    return lambda value: find(type(value), str)(value)


def _to_finite(value: Any) -> float | None:
    number = float(value)
    return number if number - number == 0.0 else None  # NaN and infinities differ from themselves


def _to_whole(value: Any) -> float | int | None:
    number = _to_finite(value)
    return int(number) if number is not None and number.is_integer() else number


class SeriesBuilder:
    """Makes PMML4S's own series of rows of a model that has fields of type date, dateTime or time."""

    def __init__(self, model: Any, fields: Sequence[SignatureField]) -> None:
        self._schema = model.usedSchema()
        self._is_moment = [field.dtype in MOMENTS for field in fields]
        self._types = [field.dataType() for field in self._schema.fields()]
        self._values = jpype.JArray(jpype.JClass("org.pmml4s.data.DataVal"))
        self._utils = get_java_class("org.pmml4s.util.Utils")
        self._series = get_java_class("org.pmml4s.data.GenericSeriesWithSchema")
        self._null = getattr(get_java_class("org.pmml4s.data.NullVal$"), "MODULE$")
        self._moment = get_java_class("org.pmml4s.data.DateVal")
        self._date = get_java_class("java.util.Date")
        self._object = jpype.JObject

    def build(self, row: Row) -> Any:
        return self._series(
            self._values([self._convert(index, value) for index, value in enumerate(row)]), self._schema
        )

    def _convert(self, index: int, value: Any) -> Any:
        if value is None:
            return self._null
        if self._is_moment[index]:
            return self._moment(self._date(jpype.JLong(_count_milliseconds(value))))
        return self._utils.toDataVal(self._object(value), self._types[index])


def _count_milliseconds(moment: date | time | datetime) -> int:
    """Since 1970 in UTC, which is the JVM's time zone; a time is one of the day 1970-01-01."""
    if isinstance(moment, time):
        moment = datetime.combine(date(1970, 1, 1), moment)
    elif not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    return (aware - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)
