"""One row and one megabyte by gRPC beside REST, through the gateway, with a TensorFlow model.

Run: ``python -m benchmarks.rpc_beside_rest [rounds]``. Building the request and reading the answer are counted: there
they differ.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from airflow_provider_timl.backends.contract import InstanceState
from airflow_provider_timl.hooks.tensor_messages import build_request, read_response
from tests.servers.local import ALL, KEY, LocalMachine, build_host, build_route, run_machine
from tests.servers.rpc import PREDICT, open_channel

MODELS_PROGRAM = Path(__file__).parents[1] / "tests" / "tensorflow_models.py"
MODELS = ("perceptron", "dtypes")
ROW_CALLS, LARGE_CALLS = 300, 2


def time_calls(call: Callable[[], Any], count: int) -> list[float]:
    """Milliseconds of each, but for the first."""
    seen = []
    for _ in range(count + 1):
        started = time.perf_counter()
        call()
        seen.append((time.perf_counter() - started) * 1000)
    return seen[1:]


def build_rest(machine: LocalMachine, service: str, build_body: Callable[[], Any]) -> Callable[[], Any]:
    connection = HTTPConnection("127.0.0.1", machine.settings.gateway_port)
    headers = {"Host": build_host(service), "Authorization": KEY.secret}

    def call() -> Any:
        connection.request("POST", "/v1/models/m:predict", json.dumps(build_body()), headers)
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return json.loads(content)

    return call


def build_rpc(channel: grpc.Channel, signature: str, name: str, array: Any) -> Callable[[], Any]:
    predict = channel.unary_unary(PREDICT)
    metadata = (("authorization", KEY.secret),)
    return lambda: read_response(predict(build_request("m", signature, {name: array}), metadata=metadata))


def describe(what: str, rest: list[float], rpc: list[float]) -> None:
    for name, seen in (("REST", rest), ("gRPC", rpc)):
        print(f"{what} {name}: p50 {np.percentile(seen, 50):.2f} ms, p95 {np.percentile(seen, 95):.2f} ms")


def measure(machine: LocalMachine, rounds: int) -> None:
    target = f"127.0.0.1:{machine.settings.gateway_port}"
    row = np.random.default_rng(1).standard_normal((1, 8), np.float32)
    large = np.random.default_rng(1).standard_normal((131_072, 2), np.float32)
    rest_row = build_rest(machine, MODELS[0], lambda: {"instances": row.tolist()})
    rest_large = build_rest(machine, MODELS[1], lambda: {"signature_name": "float32", "inputs": {"x": large.tolist()}})
    with (
        open_channel(target, build_host(MODELS[0])) as small_channel,
        open_channel(target, build_host(MODELS[1])) as large_channel,
    ):
        rpc_row = build_rpc(small_channel, "serving_default", "features", row)
        rpc_large = build_rpc(large_channel, "float32", "x", large)
        calls = ((rest_row, ROW_CALLS), (rpc_row, ROW_CALLS), (rest_large, LARGE_CALLS), (rpc_large, LARGE_CALLS))
        seen: list[list[float]] = [[] for _ in calls]
        for _ in range(rounds):
            for times, (call, count) in zip(seen, calls, strict=True):
                times.extend(time_calls(call, count))
    describe("one row", seen[0], seen[1])
    describe("one megabyte", seen[2], seen[3])


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        root = Path(folder)
        subprocess.run([sys.executable, str(MODELS_PROGRAM), str(root / "models")], check=True, capture_output=True)
        with run_machine(root, monkeypatch, max_request_bytes=256 * 2**20) as machine:
            routes = []
            for model in MODELS:
                shutil.copytree(root / "models" / model, machine.artifacts / model)
                name = machine.ensure(model, runtime="tensorflow", memory_mb=4096)
                address = machine.wait_for(name, InstanceState.READY, 60).address
                routes.append(build_route(model, {1: (ALL, (address,))}))
            machine.publish(*routes)
            measure(machine, rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
