"""What a loss makes of the last layer's output: the fields of Angel Serving's answers, as its strings.

:source: mlcore 0.1.1 of Angel Serving, ``com.tencent.angel.mlcore.network.loss``; ``java.lang.Double.toString``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.angel.batch import Array
from airflow_provider_timl.runtimes.angel.layers import softmax

_LEAST_ODDS, _MOST_ODDS = 1e-6, 3.4028234663852886e38
_LEAST_PLAIN, _MOST_PLAIN = 1e-3, 1e7


@dataclass(frozen=True)
class Answers:
    """Numbers of a batch, each of shape (instances,), in double."""

    pred: Array
    proba: Array
    label: Array
    attached: Array


def get_loss(name: str, width: int) -> Callable[[Array], Answers]:
    """:raises InvalidModelError: the loss cannot take an output of that width."""
    if (name in _OF_ONE_NUMBER and width != 1) or width < 1:
        raise InvalidModelError(f"graph.json: {name} takes one number an instance; the layer before gives {width}")
    return _LOSSES[name]


def to_java(number: float) -> str:
    """As Java writes a double."""
    if _LEAST_PLAIN <= number < _MOST_PLAIN or -_MOST_PLAIN < number <= -_LEAST_PLAIN:
        return repr(number)
    if math.isnan(number):
        return "NaN"
    if number == 0:
        return repr(number)
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    written = Decimal(repr(number))  # the fewest digits that tell this number from all others, as Java's
    sign, digits, _ = written.as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    return f"{'-' if sign else ''}{text[0]}.{text[1:] or '0'}E{written.adjusted()}"


def _answer_logit(values: Array) -> Answers:
    z = values[:, 0].astype(np.float64)
    with np.errstate(over="ignore"):
        proba = 1 / (1 + np.exp(-z))
    return Answers(z, proba, np.where(z > 0, 1.0, -1.0), _make_nan(z))


def _answer_value(values: Array) -> Answers:
    z = values[:, 0].astype(np.float64)
    return Answers(z, _make_nan(z), z, _make_nan(z))


def _answer_probability(values: Array) -> Answers:
    q = values[:, 0].astype(np.float64)
    with np.errstate(all="ignore"):
        pred = np.log(np.clip(np.where(q >= 1, np.inf, q / (1 - q)), _LEAST_ODDS, _MOST_ODDS))
    return Answers(pred, q, np.where(q >= 0.5, 1.0, -1.0), _make_nan(q))


def _answer_classes(values: Array) -> Answers:
    logits = values.astype(np.float64)
    with np.errstate(all="ignore"):
        shares = softmax(logits)
    winner = np.argmax(logits, axis=1)
    rows = np.arange(len(values))
    return Answers(logits[rows, winner], shares[rows, winner], winner.astype(np.float64), shares[:, 0])


def _answer_cluster(values: Array) -> Answers:
    """The number of the centre takes part in ``pred``, as it does in Angel."""
    wide = values.astype(np.float64)
    pred = (wide * wide).sum(axis=1)
    return Answers(pred, _make_nan(pred), wide[:, 0], _make_nan(pred))


def _make_nan(like: Array) -> Array:
    return np.full(len(like), np.nan)


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
