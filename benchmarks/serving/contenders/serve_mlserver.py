"""MLServer: a custom runtime in its own process (``parallel_workers`` 0), over the V2 protocol; with batching, its
adaptive batching of up to 32 requests that came within a millisecond."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from predictors import load, load_signature, read_job

job = read_job()


class Contender(MLModel):
    async def load(self) -> bool:
        self.rows = load(job) if job.kind == "pmml" else load_signature(job.model)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arrays = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        answers = self._predict_columns(arrays) if job.kind == "pmml" else {"y": self.rows(arrays["x"])}
        outputs = [NumpyCodec.encode_output(name, values) for name, values in answers.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)

    def _predict_columns(self, arrays: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        columns = [array.ravel().tolist() for array in arrays.values()]
        answers = self.rows([dict(zip(arrays, values, strict=True)) for values in zip(*columns, strict=True)])
        return {name: np.array([[answer[name]] for answer in answers]) for name in answers[0]}


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    ports = {"http_port": job.port, "grpc_port": find_free_port(), "metrics_port": find_free_port()}
    settings = {**ports, "host": "127.0.0.1", "parallel_workers": 0, "debug": False}
    model = {"name": "m", "implementation": "serve_mlserver.Contender"}
    if job.batching:
        model |= {"max_batch_size": 32, "max_batch_time": 0.001}
    folder = Path(job.folder)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(folder)])  # noqa: S606 - no shell is wanted
