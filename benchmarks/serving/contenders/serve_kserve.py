"""KServe's Python server: a ``kserve.Model`` over its V1 protocol."""

from __future__ import annotations

from typing import Any

import kserve
from predictors import load, read_job

job = read_job()


class Contender(kserve.Model):
    def __init__(self) -> None:
        super().__init__("m")
        self.rows = load(job)
        self.ready = True

    def predict(self, payload: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        return {"predictions": self.rows(payload["instances"])}


if __name__ == "__main__":
    kserve.ModelServer(http_port=job.port, enable_grpc=False, workers=1, access_log_format=None).start([Contender()])
