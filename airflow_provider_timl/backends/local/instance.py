"""One instance: what the supervisor knows of it, and the folder that outlives the supervisor.

``<data_dir>/instances/<id>`` holds ``spec.json`` (written before anything is started), ``config.json`` (what the model
server reads; its path is how the process is found again) and, once it is to end, an empty file ``draining``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_timl.backends.contract import InstanceSpec, InstanceState, InstanceStatus
from airflow_provider_timl.backends.local.private_files import ensure_private_folder, write_private_file
from airflow_provider_timl.backends.local.process import ManagedProcess
from airflow_provider_timl.entities import FileDigest, Resources
from airflow_provider_timl.runtimes.contract import has_rpc
from airflow_provider_timl.settings import Settings

_BACK_OFF_SECONDS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_FAILED_AFTER = 3
_STABLE_SECONDS = 60.0


@dataclass
class Instance:
    """Times are of the monotonic clock. ``failures``: starts or runs in a row that ended badly.

    ``probe`` is a health check under way; ``ready_since`` is set while health checks pass; ``drain_until`` is set once
    it is to end.
    """

    spec: InstanceSpec
    folder: Path
    socket: Path
    rpc_socket: Path | None = None
    process: ManagedProcess | None = None
    fetch: Future[Path] | None = None
    probe: Future[bool] | None = None
    gpus: list[str] = field(default_factory=list)
    start_at: float = 0.0
    started_at: float = 0.0
    probe_at: float = 0.0
    ready_since: float | None = None
    missed_probes: int = 0
    failures: int = 0
    restarts: int = 0
    reason: str | None = None
    drain_until: float | None = None

    @property
    def config_file(self) -> Path:
        return self.folder / "config.json"

    def get_status(self) -> InstanceStatus:
        return InstanceStatus(
            id=self.spec.id,
            service=self.spec.service,
            version=self.spec.version,
            state=self._derive_state(),
            address=f"unix:{self.socket}",
            restarts=self.restarts,
            reason=self.reason,
            rpc_address=f"unix:{self.rpc_socket}" if self.rpc_socket else None,
        )

    def note_start(self, process: ManagedProcess) -> None:
        self.process = process
        self.started_at = self.probe_at = time.monotonic()
        self.probe = None
        self.missed_probes = 0

    def note_ready(self) -> None:
        if self.ready_since is None:
            self.ready_since = time.monotonic()
            self.reason = None
        elif time.monotonic() - self.ready_since > _STABLE_SECONDS:
            self.failures = 0
        self.missed_probes = 0

    def note_failure(self, reason: str, *, lasting: bool = False) -> None:
        """It has no process any more; the next start comes after a pause that grows from failure to failure.

        :param lasting: trying again soon cannot help.
        """
        self.failures = len(_BACK_OFF_SECONDS) if lasting else self.failures + 1
        self.start_at = time.monotonic() + _BACK_OFF_SECONDS[min(self.failures, len(_BACK_OFF_SECONDS)) - 1]
        self.restarts += 1
        self.reason = reason
        self.process = self.probe = self.ready_since = None

    def mark_draining(self) -> None:
        (self.folder / "draining").touch(mode=0o600)

    def is_marked_draining(self) -> bool:
        return (self.folder / "draining").exists()

    def remove(self) -> None:
        """The specification goes first: what is left of a folder without it is nobody's instance."""
        (self.folder / "spec.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        for socket in (self.socket, self.rpc_socket):
            if socket is not None:
                socket.unlink(missing_ok=True)

    def _derive_state(self) -> InstanceState:
        if self.drain_until is not None:
            return InstanceState.DRAINING
        if self.ready_since is not None:
            return InstanceState.READY
        return InstanceState.FAILED if self.failures >= _FAILED_AFTER else InstanceState.STARTING


def create_instance(settings: Settings, folder: Path, spec: InstanceSpec) -> Instance:
    """With its folder, so that it is known from now on."""
    ensure_private_folder(folder)
    values = {**vars(spec), "files": [file.model_dump() for file in spec.files]}
    write_private_file(folder / "spec.json", json.dumps({**values, "resources": spec.resources.model_dump()}))
    return _build_instance(settings, folder, spec)


def find_instance(settings: Settings, folder: Path) -> Instance | None:
    """What an earlier supervisor left; ``None`` when it ended before the specification was written, or after it was
    removed, or wrote it in a form that is not ours."""
    try:
        values = json.loads((folder / "spec.json").read_text())
        values["files"] = tuple(FileDigest(**file) for file in values["files"])
        values["model_names"] = tuple(values["model_names"])
        spec = InstanceSpec(**{**values, "resources": Resources(**values["resources"])})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return _build_instance(settings, folder, spec)


def write_server_config(settings: Settings, instance: Instance, model_folder: Path) -> None:
    """What the model server is told."""
    spec = instance.spec
    config = {
        "runtime": spec.runtime,
        "options": spec.options,
        "model_path": str(model_folder),
        "model_version": spec.version,
        "model_names": spec.model_names,
        "listen": f"unix:{instance.socket}",
        "rpc_listen": f"unix:{instance.rpc_socket}" if instance.rpc_socket else None,
        **spec.resources.model_dump(),
        "max_request_bytes": settings.max_request_bytes,
        "request_timeout_seconds": settings.request_timeout_seconds,
        "drain_timeout_seconds": settings.drain_timeout_seconds,
    }
    write_private_file(instance.config_file, json.dumps(config))


def _build_instance(settings: Settings, folder: Path, spec: InstanceSpec) -> Instance:
    """Its sockets have the same paths at each start, so that the gateway needs no change; short, as they have to be."""
    name = hashlib.sha256(spec.id.encode()).hexdigest()[:16]
    rpc_socket = settings.run_dir / f"{name}.rpc" if has_rpc(spec.runtime) else None
    return Instance(spec, folder, settings.run_dir / f"{name}.sock", rpc_socket)
