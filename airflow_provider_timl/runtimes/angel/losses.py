"""What a loss makes of the last layer's output: the fields of Angel Serving's answers, as its strings.

:source: mlcore 0.1.1 of Angel Serving, ``com.tencent.angel.mlcore.network.loss``; ``java.lang.Double.toString``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import orjson

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.angel.batch import Array
from airflow_provider_timl.runtimes.angel.layers import softmax

_LEAST_ODDS, _MOST_ODDS = 1e-6, 3.4028234663852886e38
#: So few numbers are written one by one before array functions have begun.
_FEW = 16
_LEAST_PLAIN, _MOST_PLAIN = 1e-3, 1e7
#: Of what is not on the side of yes, and of what is.
_LABELS = np.array([-1.0, 1.0])
#: As arrays, which functions take twice as quickly as numbers.
_ZERO, _ONE = np.zeros(()), np.ones(())


class Answers(NamedTuple):
    """Numbers of a batch, each of shape (instances,), in double; ``None`` where the loss has none, which is NaN to
    Angel."""

    pred: Array
    proba: Array | None
    label: Array
    attached: Array | None


def join_answers(parts: Sequence[Answers]) -> Answers:
    if len(parts) == 1:
        return parts[0]
    return Answers._make(None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True))


def get_loss(name: str, width: int) -> Callable[[Array], Answers]:
    """:raises InvalidModelError: the loss cannot take an output of that width."""
    if (name in _OF_ONE_NUMBER and width != 1) or width < 1:
        raise InvalidModelError(f"graph.json: {name} takes one number an instance; the layer before gives {width}")
    return _LOSSES[name]


def to_java(number: float) -> str:
    """As Java writes a double: with the fewest digits that tell it from all others, as ``repr`` does."""
    size = abs(number)
    if _LEAST_PLAIN <= size < _MOST_PLAIN or number == 0:
        return repr(number)
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    mantissa, _, exponent = repr(size).partition("e")
    whole, _, fraction = mantissa.partition(".")
    power = int(exponent or 0) + len(whole) - 1
    if whole == "0":
        fraction, whole = fraction.lstrip("0"), ""
        power = int(exponent or 0) - (len(mantissa) - 2 - len(fraction)) - 1
    digits = (whole + fraction).rstrip("0")
    return f"{'-' if number < 0 else ''}{digits[0]}.{digits[1:] or '0'}E{power}"


def to_java_strings(numbers: Array) -> list[str]:
    """Each as ``to_java`` writes it. Only what Java writes with an exponent, or in words, is written one by one.

    :param numbers: shape (n,), in double.
    """
    if len(numbers) <= _FEW:
        return [to_java(number) for number in numbers.tolist()]
    sizes = np.abs(numbers)
    unusual = np.flatnonzero(~((sizes >= _LEAST_PLAIN) & (sizes < _MOST_PLAIN))).tolist()
    texts = orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")
    for place in unusual:
        texts[place] = to_java(float(numbers[place]))
    return texts


def _answer_logit(values: Array) -> Answers:
    z = values[:, 0].astype(np.float64)
    return Answers(z, _ONE / (_ONE + np.exp(-z)), _LABELS.take(z > _ZERO), None)


def _answer_value(values: Array) -> Answers:
    z = values[:, 0].astype(np.float64)
    return Answers(z, None, z, None)


def _answer_probability(values: Array) -> Answers:
    q = values[:, 0].astype(np.float64)
    pred = np.log(np.clip(np.where(q >= 1, np.inf, q / (1 - q)), _LEAST_ODDS, _MOST_ODDS))
    return Answers(pred, q, _LABELS.take(q >= 0.5), None)


def _answer_classes(values: Array) -> Answers:
    logits = values.astype(np.float64)
    shares = softmax(logits)
    winner = np.argmax(logits, axis=1)
    rows = np.arange(len(values))
    return Answers(logits[rows, winner], shares[rows, winner], winner.astype(np.float64), shares[:, 0])


def _answer_cluster(values: Array) -> Answers:
    """The number of the centre takes part in ``pred``, as it does in Angel."""
    wide = values.astype(np.float64)
    pred = (wide * wide).sum(axis=1)
    return Answers(pred, None, wide[:, 0], None)


_OF_ONE_NUMBER = frozenset({"logloss", "hingeloss", "l2loss", "huberloss", "crossentropyloss"})
_LOSSES: dict[str, Callable[[Array], Answers]] = {
    "logloss": _answer_logit,
    "hingeloss": _answer_logit,
    "l2loss": _answer_value,
    "huberloss": _answer_value,
    "crossentropyloss": _answer_probability,
    "softmaxloss": _answer_classes,
    "kmeansloss": _answer_cluster,
}
