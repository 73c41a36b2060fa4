"""Evaluates many rows with one call into Java: the loop over the rows, and the way of the outputs back, run there.

Java's own parts do it, so that no class of ours has to be compiled: a stream over the rows, with the model's
``predict`` as a method handle, and then one stream for each output, into an array of doubles or one long string.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import jpype

from airflow_provider_timl.runtimes.jvm import get_java_class
from airflow_provider_timl.runtimes.pmml.model import Output

#: Below that, calling the model for each row is as fast.
FEWEST_ROWS = 8
_SEPARATOR = "\x00"


class BatchEvaluator:
    """``predict`` of one model over rows."""

    def __init__(self, model: Any, outputs: Sequence[Output]) -> None:
        self._kinds = [output.kind for output in outputs]
        self._missing = f"\x01{uuid.uuid4()}"
        self._rows = jpype.JArray(jpype.JObject, 2)
        self._arrays = get_java_class("java.util.Arrays")
        self._joining = get_java_class("java.util.stream.Collectors").joining(_SEPARATOR)
        handles = _Handles()
        self._predict = handles.as_function(handles.bind_predict(model))
        self._columns = [
            handles.as_number(output.index) if output.kind == "number" else handles.as_text(output.index, self._missing)
            for output in outputs
        ]

    def evaluate(self, rows: Sequence[Sequence[Any]]) -> list[list[Any]] | None:
        """The outputs' columns; ``None`` when rows have to be evaluated one by one to tell what is what."""
        if "other" in self._kinds:
            return None
        try:
            answers = self._arrays.stream(self._rows(rows)).map(self._predict).toArray()
            columns = [self._read(answers, *column) for column in zip(self._kinds, self._columns, strict=True)]
        except (jpype.JException, ValueError):  # a row cannot be evaluated, or a value is not of its declared type
            return None
        return columns if all(len(column) == len(rows) for column in columns) else None

    def _read(self, answers: Any, kind: str, column: Any) -> list[Any]:
        stream = self._arrays.stream(answers)
        if kind == "number":
            numbers = memoryview(stream.mapToDouble(column).toArray()).tolist()
            return [number if number - number == 0.0 else None for number in numbers]  # no NaN, no infinity
        texts = str(stream.map(column).collect(self._joining)).split(_SEPARATOR)
        missing = self._missing
        if kind == "integer":
            return [None if text == missing else int(text) for text in texts]
        if kind == "identity":
            return [None if text == missing else text or None for text in texts]
        return [None if text == missing else text for text in texts]


class _Handles:
    """Method handles that stand for ``predict`` and for what takes one output out of an answer."""

    def __init__(self) -> None:
        self._handles = get_java_class("java.lang.invoke.MethodHandles")
        self._types = get_java_class("java.lang.invoke.MethodType")
        self._proxies = get_java_class("java.lang.invoke.MethodHandleProxies")
        self._object = get_java_class("java.lang.Object")
        self._array = get_java_class("java.lang.Object[]")
        self._lookup = self._handles.publicLookup()

    def bind_predict(self, model: Any) -> Any:
        return self._lookup.bind(model, "predict", self._types.methodType(self._array, self._object))

    def as_function(self, handle: Any) -> Any:
        return self._proxies.asInterfaceInstance(get_java_class("java.util.function.Function").class_, handle)

    def as_number(self, index: int) -> Any:
        present = self._take(index, get_java_class("java.lang.Double")(float("nan")))
        handle = present.asType(self._types.methodType(jpype.JDouble.class_, self._array))
        handle = handle.asType(self._types.methodType(jpype.JDouble.class_, self._object))
        return self._proxies.asInterfaceInstance(get_java_class("java.util.function.ToDoubleFunction").class_, handle)

    def as_text(self, index: int, missing: str) -> Any:
        string = get_java_class("java.lang.String")
        to_text = self._lookup.findStatic(string, "valueOf", self._types.methodType(string, self._object))
        handle = self._handles.filterReturnValue(self._take(index, string(missing)), to_text)
        return self.as_function(handle.asType(self._types.methodType(self._object, self._object)))

    def _take(self, index: int, default: Any) -> Any:
        """The element at ``index``, or ``default`` for null."""
        get_element = self._handles.arrayElementGetter(self._array.class_)
        element = self._handles.insertArguments(get_element, 1, get_java_class("java.lang.Integer")(index))
        pair = self._types.methodType(self._object, self._object, self._object)
        or_else = self._lookup.findStatic(get_java_class("java.util.Objects"), "requireNonNullElse", pair)
        return self._handles.filterReturnValue(element, self._handles.insertArguments(or_else, 1, default))
