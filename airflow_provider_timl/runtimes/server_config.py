"""What a model server is told when it starts: a JSON file written by the backend, without secrets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_timl.entities import Resources


@dataclass(frozen=True)
class ServerConfig:
    """:param listen: ``unix:/path`` (the socket is private to the user) or ``127.0.0.1:port`` (0: the kernel chooses).

    ``model_names`` are the names it answers to; ``options`` are the runtime's own; ``queue_size`` bounds requests that
    wait or are being answered.
    """

    runtime: str
    model_path: str
    model_version: int
    model_names: list[str]
    listen: str
    cpu: float = 1.0
    memory_mb: int = 512
    gpu: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    max_request_bytes: int = 32 * 1024 * 1024
    queue_size: int = 256
    request_timeout_seconds: float = 60.0
    drain_timeout_seconds: float = 60.0

    @property
    def resources(self) -> Resources:
        return Resources(cpu=self.cpu, memory_mb=self.memory_mb, gpu=self.gpu)

    @classmethod
    def from_json_file(cls, path: Path) -> ServerConfig:
        return cls(**json.loads(path.read_text()))
