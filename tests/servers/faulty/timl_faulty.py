"""A runtime whose model does what it is told, faults included; it runs in the real model server.

Found as any other runtime, by its entry point: a test puts this folder on ``PYTHONPATH``. The artifact's
``faults.json`` says how to load, the request's body how to answer:

- ``{"load_seconds": 2}`` loads slowly, ``{"load_exit": 5}`` dies while it loads;
- ``{"seconds": 0.5}`` answers late, ``{"block_seconds": 60}`` hangs the whole server, ``{"exit": 7}`` ends it,
  ``{"grow_mb": 600}`` takes memory and keeps it, ``{"print": "..."}`` writes to the log.

As ``faulty-rpc`` it takes gRPC as well, where the string tensor ``faults`` holds what is the body of a request else,
and all tensors come back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_provider_timl.entities import InspectionReport, Resources, Signature
from airflow_provider_timl.exceptions import InvalidInputError, TimlError
from airflow_provider_timl.runtimes.contract import Batching, RuntimeOptions, RuntimeProgram


class FaultyEngine:
    signature = Signature(inputs=[], outputs=[])
    batching = Batching()

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    def describe(self) -> dict[str, Any]:
        return {}

    def describe_metadata(self) -> dict[str, Any]:
        return {}

    def parse(self, verb: str, body: bytes) -> dict[str, Any]:
        try:
            request: dict[str, Any] = json.loads(body)
        except ValueError as exc:
            raise InvalidInputError("the body is not JSON") from exc
        time.sleep(request.get("block_seconds", 0))  # on the event loop: nobody else is served meanwhile
        return request

    def parse_rpc(self, method: str, message: bytes) -> dict[str, Any]:
        from airflow_provider_timl.hooks.tensor_messages import MESSAGES, read_tensor

        inputs = {
            entry.key: read_tensor(entry.value) for entry in MESSAGES["PredictRequest"].FromString(message).inputs
        }
        (faults,) = inputs.pop("faults", [b"{}"])
        return {**self.parse(method, faults), "inputs": inputs}

    def count_rows(self, request: dict[str, Any]) -> int:
        return 1

    def run(self, batch: Sequence[dict[str, Any]]) -> list[bytes | TimlError]:
        return [self._answer(request) for request in batch]

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object] | TimlError]:
        return [{} for _ in rows]

    def close(self) -> None:
        self._kept.clear()

    def _answer(self, request: dict[str, Any]) -> bytes:
        time.sleep(request.get("seconds", 0))
        if "print" in request:
            print(request["print"], flush=True)
        if "exit" in request:
            os._exit(request["exit"])
        self._kept.append(b"\1" * (request.get("grow_mb", 0) * 2**20))
        return build_rpc_answer(request["inputs"]) if "inputs" in request else json.dumps({"pid": os.getpid()}).encode()


def build_rpc_answer(inputs: dict[str, Any]) -> bytes:
    """What came in goes out again, with our pid."""
    import numpy as np

    from airflow_provider_timl.hooks.tensor_messages import MESSAGES, write_tensor

    response = MESSAGES["PredictResponse"]()
    for name, array in {**inputs, "pid": np.array([os.getpid()])}.items():
        entry = response.outputs.add(key=name)
        write_tensor(name, entry.value, array)
    content: bytes = response.SerializeToString()
    return content


def load(folder: Path, resources: Resources, options: RuntimeOptions) -> FaultyEngine:
    path = folder / "faults.json"
    faults = json.loads(path.read_text()) if path.exists() else {}
    time.sleep(faults.get("load_seconds", 0))
    if "load_exit" in faults:
        print(faults.get("load_words", ""), flush=True)
        os._exit(faults["load_exit"])
    return FaultyEngine()


def inspect(folder: Path, resources: Resources) -> InspectionReport:
    return InspectionReport(model_type="faulty", checks=[])


RUNTIME = RuntimeProgram(name="faulty", model_type="faulty", requires=(), extra="", inspect=inspect, load=load)
RPC_RUNTIME = replace(RUNTIME, name="faulty-rpc", has_rpc=True)
