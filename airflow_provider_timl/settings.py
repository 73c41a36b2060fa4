"""Settings of the server side, as one value that is passed in; ``config.py`` reads it from Airflow's configuration."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

#: Room for a socket's name below ``run_dir``: ``sun_path`` has 108 bytes.
_LONGEST_RUN_DIR = 80


@dataclass(frozen=True)
class Settings:
    """Everything the API and the controller need to know about this deployment."""

    data_dir: Path
    """Logs, gateway files, instance folders. Private to the user who runs the controller (0700)."""

    database_url: str
    """SQLAlchemy URL of TIML's own database (SQLite or PostgreSQL)."""

    artifact_store: str
    """``file:///path`` or ``s3://bucket/prefix``."""

    encryption_key: str = field(repr=False)
    """Fernet key (or several, comma-separated, newest first) that access keys are encrypted with at rest."""

    artifact_conn_id: str | None = None
    """Airflow connection of an ``s3://`` artifact store."""

    cos_conn_id: str = "cos_default"
    """Airflow connection that imports read from."""

    gateway_host: str = "127.0.0.1"
    gateway_port: int = 31292
    service_domain: str = "timl.local"

    max_request_bytes: int = 32 * 1024 * 1024
    """Largest prediction request. Above it the gateway answers 413."""

    request_timeout_seconds: float = 60.0
    """Longest prediction. Above it the gateway answers 504."""

    start_timeout_seconds: float = 120.0
    """How long an instance may take from its start to ready before it is killed and started anew."""

    drain_timeout_seconds: float = 60.0
    """How long an instance that left the gateway may take to finish its requests."""

    inspection_timeout_seconds: float = 60.0
    inspection_memory_mb: int = 2048
    max_model_bytes: int = 8 * 1024**3
    """Largest artifact, after unpacking."""

    upload_ttl_seconds: float = 24 * 3600.0
    """Age at which an upload that was never committed is collected."""

    @property
    def gateway_url(self) -> str:
        return f"http://{self.gateway_host}:{self.gateway_port}"

    @property
    def run_dir(self) -> Path:
        """Folder of the Unix sockets: below ``data_dir``, or in the temporary folder when that path is too long."""
        below = self.data_dir / "run"
        if len(os.fsencode(below)) <= _LONGEST_RUN_DIR:
            return below
        short = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"timl-{os.getuid()}-{short}"
