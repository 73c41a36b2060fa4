"""LitServe: a ``LitAPI`` in one worker; with batching, up to 32 requests that came within a millisecond."""

from __future__ import annotations

from typing import Any

import litserve
from predictors import join, load, read_job, split

job = read_job()


class Contender(litserve.LitAPI):
    def setup(self, _device: str) -> None:
        self.rows = load(job)

    def decode_request(self, request):  # by its annotation LitServe would read a query
        return request["instances"]

    def batch(self, inputs: list[list[Any]]) -> list[list[Any]]:
        return inputs

    def unbatch(self, output: list[list[Any]]) -> list[list[Any]]:
        return output

    def predict(self, x: Any) -> Any:
        return split(self.rows(join(x)), x) if job.batching else self.rows(x)

    def encode_response(self, output: list[Any]) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    batching = {"max_batch_size": 32, "batch_timeout": 0.001} if job.batching else {}
    server = litserve.LitServer(Contender(**batching), accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=job.port, num_api_servers=1, generate_client_file=False, log_level="warning")
