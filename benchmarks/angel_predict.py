"""Where the time of an Angel prediction goes: reading the body, computing, writing the answer.

Run: ``python -m benchmarks.angel_predict``. Prints microseconds of each for one row and for a thousand, of the
published linear model and of a DeepFM with 39 fields.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.runtimes.angel.engine import AngelEngine, AngelOptions, load_angel
from tests.angel_writer import FLOAT_DENSE, Layout, to_row, write_model
from tests.models import ANGEL_LR

FIELDS, FACTORS, FEATURES = 39, 16, 20_000
ROWS = (1, 1000)
SECONDS = 0.5


def write_deep_fm(folder: Path) -> Path:
    """Wide, pairs and two hidden layers over one embedding."""
    width = FIELDS * FACTORS
    layers: dict[str, dict[str, Any]] = {
        "wide": {"type": "SimpleInputLayer", "outputdim": 1, "transfunc": "identity"},
        "embedding": {"type": "Embedding", "outputdim": width, "numfactors": FACTORS},
        "pairs": {"type": "BiInnerSumCross", "outputdim": 1, "inputlayer": "embedding"},
        "hidden": {"type": "FCLayer", "outputdim": 128, "transfunc": "relu", "inputlayer": "embedding"},
        "deep": {"type": "FCLayer", "outputdim": 1, "transfunc": "identity", "inputlayer": "hidden"},
        "sum": {"type": "SumPooling", "outputdim": 1, "inputlayers": ["wide", "pairs", "deep"]},
        "loss": {"type": "LossLayer", "lossfunc": "LogLoss", "inputlayer": "sum"},
    }
    generator = np.random.default_rng(1)
    sizes = {"wide_weight": FEATURES, "wide_bias": 1, "hidden_weight": 128 * width, "hidden_bias": 128}
    matrices: dict[str, Any] = {}
    for name, size in {**sizes, "deep_weight": 128, "deep_bias": 1}.items():
        row = to_row(generator.normal(scale=0.05, size=size))
        matrices[name] = ([row], size, Layout("ValueBinaryRowFormat", FLOAT_DENSE, (0, size)))
    rows = [to_row(row) for row in generator.normal(scale=0.05, size=(FACTORS, FEATURES))]
    matrices["embedding_embedding"] = (rows, FEATURES, Layout("BinaryColumnFormat", FLOAT_DENSE, (0, FEATURES)))
    graph = {"data": {"indexrange": FEATURES}, "model": {"modeltype": "T_FLOAT_DENSE"}, "layers": layers}
    write_model(folder, graph, matrices)
    return folder


def build_dense(rows: int) -> bytes:
    values = np.random.default_rng(2).normal(size=(rows, 123)).round(6)
    return orjson.dumps({"instances": values.tolist()})


def build_sparse(rows: int, dimension: int, count: int) -> bytes:
    generator = np.random.default_rng(3)
    ids = [sorted(generator.choice(dimension, count, replace=False).tolist()) for _ in range(rows)]
    values = generator.normal(size=(rows, count)).round(6).tolist()
    instances = [{"sparseIndices": a, "sparseValues": b} for a, b in zip(ids, values, strict=True)]
    return orjson.dumps({"instances": instances})


def measure(function: Callable[[], object]) -> float:
    """Microseconds of the quickest of many calls."""
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - started)
    return best * 1e6


def report(title: str, engine: AngelEngine, body: bytes) -> None:
    request = engine.parse("predict", body)
    parse = measure(lambda: engine.parse("predict", body))
    decode = measure(lambda: orjson.loads(body))
    compute = measure(lambda: engine.compute(request.batch))
    run = measure(lambda: engine.run([request]))
    print(
        f"{title:28} parse {parse:8.1f} (of it JSON {decode:8.1f})  compute {compute:8.1f}  write {run - compute:8.1f}"
        f"  all {parse + run:8.1f} us"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        linear = load_angel(ANGEL_LR, Resources(), AngelOptions())
        deep = load_angel(write_deep_fm(Path(base) / "deepfm"), Resources(), AngelOptions())
        for rows in ROWS:
            report(f"LR, {rows} dense", linear, build_dense(rows))
            report(f"LR, {rows} sparse of 14", linear, build_sparse(rows, 123, 14))
            report(f"DeepFM, {rows} sparse of {FIELDS}", deep, build_sparse(rows, FEATURES, FIELDS))


if __name__ == "__main__":
    main()
