"""What reading and writing tensors in JSON costs, beside the JSON parser alone and the ONNX model alone.

Run: ``python -m benchmarks.tensor_json``. Prints the best of several rounds, in microseconds. Targets: 15 to read
and 10 to write one row of four numbers.
"""

from __future__ import annotations

import json
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
from onnx import TensorProto, helper

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.runtimes.contract import RuntimeOptions
from airflow_provider_timl.runtimes.onnx import OnnxEngine, load_onnx
from airflow_provider_timl.runtimes.tensors.json_answer import write_predict
from airflow_provider_timl.runtimes.tensors.json_request import read_predict
from airflow_provider_timl.runtimes.tensors.spec import TensorSignature, TensorSpec

ROUNDS = 7


def measure(name: str, run: Callable[[], object], count: int) -> None:
    seconds = min(timeit.repeat(run, number=count, repeat=ROUNDS)) / count
    print(f"{name:<48}{seconds * 1e6:12.1f} us")


def build_signatures(**shapes: tuple[int | None, ...]) -> dict[str, TensorSignature]:
    inputs = {name: TensorSpec(name, np.dtype("float32"), shape) for name, shape in shapes.items()}
    return {"serving_default": TensorSignature("serving_default", inputs, {})}


def load_identity(folder: Path) -> OnnxEngine:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return load_onnx(folder, Resources(), RuntimeOptions())


def main() -> None:
    row = b'{"instances": [[6.2, 2.2, 1.1, 1.1]]}'
    rows = json.dumps({"instances": np.random.default_rng(0).random((1000, 100)).tolist()}).encode()
    four = build_signatures(x=(None, 4))
    names = build_signatures(a=(None,), b=(None,), c=(None,), d=(None,))
    measure("read 1 x 4", lambda: read_predict(row, four), 2000)
    named = b'{"instances": [{"a": 6.2, "b": 2.2, "c": 1.1, "d": 1.1}]}'
    measure("read 1 row of 4 inputs", lambda: read_predict(named, names), 2000)
    wide = build_signatures(x=(None, 100))
    measure("read 1000 x 100", lambda: read_predict(rows, wide), 10)
    measure("  of it, orjson", lambda: orjson.loads(rows), 10)
    for shape, count in (((1, 4), 2000), ((1000, 100), 10)):
        outputs = {"y": np.random.default_rng(0).random(shape, np.float32)}
        measure(f"write {shape[0]} x {shape[1]}", lambda outputs=outputs: write_predict(outputs, True), count)
    with tempfile.TemporaryDirectory() as folder:
        engine = load_identity(Path(folder))
        request = engine.parse("predict", row)
        measure("onnx 1 x 4: read, run, write", lambda: engine.run([engine.parse("predict", row)]), 2000)
        measure("onnx 64 requests of 1 x 4, joined", lambda: engine.run([request] * 64), 200)
        table = np.random.default_rng(0).random((8192, 4)).tolist()
        measure("onnx 8192 rows of a table", lambda: engine.score(["a", "b", "c", "d"], table), 3)


if __name__ == "__main__":
    main()
