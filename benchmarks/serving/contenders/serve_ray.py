"""Ray Serve: one replica; with batching, ``@serve.batch`` of up to 32 requests that came within a millisecond."""

from __future__ import annotations

import signal
from typing import Any

import ray
from predictors import join, load, read_job, split
from ray import serve
from starlette.requests import Request

job = read_job()


@serve.deployment(num_replicas=1, max_ongoing_requests=64)
class Contender:
    def __init__(self) -> None:
        self.rows = load(job)

    async def __call__(self, request: Request) -> dict[str, Any]:
        rows = (await request.json())["instances"]
        return {"predictions": await self.predict_batch(rows) if job.batching else self.rows(rows)}

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def predict_batch(self, requests: list[list[Any]]) -> list[list[Any]]:
        return split(self.rows(join(requests)), requests)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": job.port})
    serve.run(Contender.bind(), route_prefix="/predict")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()
