"""Tensors in JSON, and the head of gRPC messages, as fuzz targets."""

from __future__ import annotations

import json
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.hooks.tensor_messages import build_request
from airflow_provider_timl.runtimes.rpc_messages import read_model_specs
from airflow_provider_timl.runtimes.tensors.json_answer import write_predict
from airflow_provider_timl.runtimes.tensors.json_request import read_predict
from airflow_provider_timl.runtimes.tensors.spec import TensorSignature, TensorSpec

METHODS = ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
#: One input of every type that JSON carries, and all of them together.
DTYPES = ("f2", "f4", "f8", "i1", "u1", "i4", "u4", "i8", "u8", "?", "O", ml_dtypes.bfloat16)
SPECS = {f"x{number}": TensorSpec(f"x{number}", np.dtype(dtype), None) for number, dtype in enumerate(DTYPES)}
SIGNATURES = {
    "serving_default": TensorSignature("serving_default", {"x": TensorSpec("x", np.dtype("f4"), (None, 2))}, {}),
    "all": TensorSignature("all", SPECS, {}),
    **{name: TensorSignature(name, {name: spec}, {}) for name, spec in SPECS.items()},
}


def read_request(data: bytes) -> None:
    """What is accepted has the types of its signature, and can be written as an answer or says why not."""
    try:
        request = read_predict(data, SIGNATURES)
    except InvalidInputError:
        return
    inputs = SIGNATURES[request.signature].inputs
    assert {name: array.dtype for name, array in request.inputs.items()} == {
        name: spec.dtype for name, spec in inputs.items()
    }
    try:
        answer = write_predict(request.inputs, request.is_row_format)
    except InvalidInputError:
        return
    assert json.loads(answer).keys() == {"predictions" if request.is_row_format else "outputs"}


def list_requests() -> Iterator[bytes]:
    values = {
        name: ["a", {"b64": "AAE="}] if name == "x10" else [True, False] if name == "x9" else [1, 2] for name in SPECS
    }
    rows = [{name: value[row] for name, value in values.items()} for row in (0, 1)]
    for body in (
        {"instances": [[1.5, 2], [3, 4]]},
        {"inputs": {"x": [[1, 2]]}},
        {"signature_name": "all", "inputs": values},
        {"signature_name": "all", "instances": rows},
        *({"signature_name": name, "inputs": value} for name, value in values.items()),
    ):
        yield json.dumps(body).encode()
    yield b'{"instances": [[NaN, -Infinity], [1e400, Inf]]}'


def read_rpc_head(data: bytes) -> None:
    """The first byte says which method gets the rest."""
    try:
        specs = read_model_specs(METHODS[(data[0] if data else 0) % len(METHODS)], data[1:])
    except InvalidInputError:
        return
    assert all(spec.name for spec in specs)


def list_rpc_messages() -> Iterator[bytes]:
    message = build_request("m", "serving_default", {"x": np.ones((2, 2), "f4"), "s": [b"text"]}, ["y"])
    for number in range(len(METHODS)):
        yield bytes([number]) + message
