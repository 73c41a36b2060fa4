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
    :param rpc_listen: ``unix:/path`` for gRPC, private as well; used when the runtime has gRPC.

    ``model_names`` are the names it answers to; ``options`` are the runtime's own; ``queue_size`` bounds requests that
    wait or are being answered.
    """

    runtime: str
    model_path: str
    model_version: int
    model_names: list[str]
    listen: str
    rpc_listen: str | None = None
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

    def find_problem(self, name: str, version: str | None) -> str | None:
        """Why this server does not have that model."""
        if name not in self.model_names:
            return f"there is no model {name!r} here; this service answers to {', '.join(self.model_names)}"
        if version not in (None, str(self.model_version)):
            return f"there is no version {version!r} here; this is version {self.model_version}"
        return None

    @classmethod
    def from_json_file(cls, path: Path) -> ServerConfig:
        return cls(**json.loads(path.read_text()))
