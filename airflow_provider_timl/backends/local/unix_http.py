"""HTTP over Unix sockets: the readiness of a model server, Envoy's administration."""

from __future__ import annotations

import socket
from http.client import HTTPConnection, HTTPException


def is_ready(socket_path: str, timeout_seconds: float) -> bool:
    """Whether ``/readyz`` answers 200 in time."""
    connection = UnixConnection(socket_path, timeout_seconds)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
