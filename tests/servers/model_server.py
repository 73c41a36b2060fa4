"""The model server program on a Unix socket, for tests: who starts one stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_timl.backends.local.unix_http import UnixConnection, is_ready
from tests.waiting import wait_until

MODEL = Path(__file__).parents[1] / "data" / "pmml_lr"
MOST_BYTES = 1024 * 1024
PREDICT = "/v1/models/m:predict"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    socket_path: str

    def connect(self) -> UnixConnection:
        return UnixConnection(self.socket_path, 20)

    def send(
        self, body: bytes, path: str = PREDICT, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("content-type") == "application/json"
            return response.status, json.loads(content) if is_json else content
        finally:
            connection.close()

    def predict(self, body: Any) -> tuple[int, Any]:
        return self.send(json.dumps(body).encode())


def start_server(folder: Path, **changes: Any) -> Server:
    path = f"/tmp/timl-test-{folder.name[-20:]}-{id(folder):x}.sock"
    config = {
        "runtime": "pmml",
        "model_path": str(MODEL),
        "model_version": 6,
        "model_names": ["m", "iris-prod", "iris"],
        "listen": f"unix:{path}",
        "max_request_bytes": MOST_BYTES,
        "drain_timeout_seconds": 10,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "airflow_provider_timl.runtimes.server", "--config", str(folder / "config.json")]
    process = subprocess.Popen(command)
    server = Server(process, path)
    wait_until(lambda: is_ready(path, 1) or process.poll() is not None, timeout_seconds=30)
    return server


def stop_server(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    Path(server.socket_path).unlink(missing_ok=True)
