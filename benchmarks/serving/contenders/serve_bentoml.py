"""BentoML: a service with one worker; with batching, its adaptive batching."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType
from predictors import load, load_signature, read_job

job = read_job()
batching = {"batchable": True, "max_batch_size": 4096, "max_latency_ms": 10_000} if job.batching else {}
Matrix = Annotated[np.ndarray, DType("float32")]

if job.kind == "pmml":

    @bentoml.service(workers=1, traffic={"timeout": 120})
    class Contender:
        def __init__(self) -> None:
            self.rows = load(job)

        @bentoml.api(**batching)
        def predict(self, instances: list[dict[str, float]]) -> list[dict[str, Any]]:
            return self.rows(instances)

else:

    @bentoml.service(workers=1, traffic={"timeout": 120})
    class Contender:
        def __init__(self) -> None:
            self.rows = load_signature(job.model)

        @bentoml.api(**batching)
        def predict(self, instances: Matrix) -> np.ndarray:
            return self.rows(instances)


if __name__ == "__main__":
    program = str(Path(sys.executable).with_name("bentoml"))
    here = str(Path(__file__).parent)
    arguments = ["serve", "serve_bentoml:Contender", "--working-dir", here, "--host", "127.0.0.1", "-p", str(job.port)]
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is wanted
