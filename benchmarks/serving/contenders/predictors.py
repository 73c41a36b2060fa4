"""What a user of each serving framework writes first: load the model, predict rows.

Imported by the scripts beside it, in the contender's own environment; nothing of ours is installed there. The job comes
in an environment variable, because some frameworks import the script again in processes of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "TIML_BENCHMARK_JOB"


@dataclass(frozen=True)
class Job:
    """:param kind: ``pmml`` or ``tensorflow``.
    :param batching: whether the framework joins concurrent requests.
    :param folder: for files of the contender's own.
    """

    kind: str
    model: str
    port: int
    batching: bool
    folder: str


def read_job() -> Job:
    return Job(**json.loads(os.environ[VARIABLE]))


def load(job: Job) -> Callable[[Any], list[Any]]:
    """A function from rows to one answer a row, by what the environment has."""
    if job.kind == "tensorflow":
        return load_tensorflow(job.model)
    has_jpmml = importlib.util.find_spec("jpmml_evaluator") is not None
    return load_jpmml(job.model) if has_jpmml else load_pmml(job.model)


def load_pmml(folder: str) -> Callable[[list[dict[str, float]]], list[dict[str, Any]]]:
    """All rows in one call as a JSON text: of the forms that ``Model.predict`` takes, by far the quickest."""
    from pypmml import Model

    (path,) = Path(folder).glob("*.pmml")
    model = Model.fromFile(str(path))

    def predict(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = json.loads(model.predict(json.dumps(rows)))
        return answers

    return predict


def load_jpmml(folder: str) -> Callable[[list[dict[str, float]]], list[dict[str, Any]]]:
    """One row as a dictionary, several as a data frame: the two forms that JPMML-Evaluator takes, in its own process'
    JVM."""
    from jpmml_evaluator import make_evaluator
    from pandas import DataFrame

    (path,) = Path(folder).glob("*.pmml")
    evaluator = make_evaluator(str(path)).verify()

    def predict(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
        if len(rows) == 1:
            return [evaluator.evaluate(rows[0])]
        answers: list[dict[str, Any]] = evaluator.evaluateAll(DataFrame(rows)).to_dict("records")
        return answers

    return predict


def load_tensorflow(folder: str) -> Callable[[Any], list[list[float]]]:
    call = load_signature(folder)
    return lambda rows: call(rows).tolist()


def load_signature(folder: str) -> Callable[[Any], Any]:
    """From rows of numbers to an array, by the SavedModel's signature."""
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    signature = model.signatures["serving_default"]

    def call(rows: Any) -> Any:
        return signature(x=tf.constant(rows, tf.float32))["y"].numpy()

    call.model = model  # type: ignore[attr-defined]  # a signature does not keep its model's variables alive
    return call


def join(requests: list[list[Any]]) -> list[Any]:
    """The rows of all requests."""
    return [row for rows in requests for row in rows]


def split(answers: list[Any], requests: list[list[Any]]) -> list[list[Any]]:
    """Each request's part of the answers to ``join``."""
    parts, first = [], 0
    for rows in requests:
        parts.append(answers[first : first + len(rows)])
        first += len(rows)
    return parts
