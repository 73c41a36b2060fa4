"""Keeps model server processes running: starts, adopts, watches, restarts with back-off, drains.

Each instance has a folder ``<data_dir>/instances/<id>`` with its specification, written before the process starts. What
runs is what the process table says, so a supervisor that was killed at any point is followed by one that knows it all:
a folder with a process is adopted, one without is started again, one marked as draining is ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from airflow_provider_timl.backends.contract import InstanceSpec, InstanceState, InstanceStatus
from airflow_provider_timl.backends.local.logs import open_log, read_tail
from airflow_provider_timl.backends.local.process import ManagedProcess, find_processes, spawn
from airflow_provider_timl.backends.local.unix_http import is_ready
from airflow_provider_timl.entities import FileDigest, Resources
from airflow_provider_timl.exceptions import TimlError
from airflow_provider_timl.settings import Settings

log = logging.getLogger(__name__)

FetchArtifact = Callable[[str, Sequence[FileDigest], Path], Path]
_SERVER = "airflow_provider_timl.runtimes.server"
_BACK_OFF_SECONDS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_FAILED_AFTER = 3
_STABLE_SECONDS = 60.0
_PROBE_EVERY_SECONDS = 2.0
_PROBE_TIMEOUT_SECONDS = 1.0
_HUNG_AFTER = 3
_KILL_AFTER_DRAIN_SECONDS = 5.0
_LAST_LINE_BYTES = 4000


@dataclass
class Instance:
    """What the supervisor knows of one instance. ``failures``: starts or runs in a row that ended badly."""

    spec: InstanceSpec
    folder: Path
    process: ManagedProcess | None = None
    fetching: Future[Path] | None = None
    ready_since: float | None = None
    start_at: float = 0.0
    started_at: float = 0.0
    probed_at: float = 0.0
    missed_probes: int = 0
    failures: int = 0
    restarts: int = 0
    reason: str | None = None
    drain_until: float | None = None
    gpus: list[str] = field(default_factory=list)


class InstanceSupervisor:
    """Called from one thread; ``step`` does all that is due and never blocks for longer than a probe."""

    def __init__(self, settings: Settings, fetch_artifact: FetchArtifact) -> None:
        self._settings = settings
        self._fetch_artifact = fetch_artifact
        self._folder = settings.data_dir / "instances"
        self._instances: dict[str, Instance] = {}
        self._fetchers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="fetch")

    def adopt(self) -> None:
        """Take over what an earlier supervisor left: running processes, and folders whose process is gone."""
        for folder in (self._folder, self._settings.run_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        running = {str(self._folder / name / "config.json"): name for name in os.listdir(self._folder)}
        processes = {}
        for process in find_processes(lambda line: _SERVER in line and any(path in line for path in running)):
            line = psutil.Process(process.pid).cmdline()
            processes[next(running[path] for path in line if path in running)] = process
        for name in sorted(running.values()):
            self._adopt_one(self._folder / name, processes.get(name))

    def ensure(self, spec: InstanceSpec) -> None:
        """Have the instance run. Its folder is there before its process."""
        if spec.id in self._instances:
            return
        folder = self._folder / spec.id
        folder.mkdir(mode=0o700, exist_ok=True)
        _write_private(folder / "spec.json", _dump_spec(spec))
        self._instances[spec.id] = Instance(spec, folder)

    def drain(self, instance_id: str) -> None:
        """Ask it to end when its connections are gone. The mark outlives us."""
        instance = self._instances[instance_id]
        if instance.drain_until is None:
            (instance.folder / "draining").touch(mode=0o600)
            self._begin_drain(instance)

    def list_statuses(self) -> list[InstanceStatus]:
        return [
            InstanceStatus(
                id=instance.spec.id,
                service=instance.spec.service,
                version=instance.spec.version,
                state=_derive_state(instance),
                address=f"unix:{self._get_socket(instance.spec)}",
                restarts=instance.restarts,
                reason=instance.reason,
            )
            for instance in self._instances.values()
        ]

    def step(self) -> None:
        """Do what is due for each instance."""
        for instance in list(self._instances.values()):
            if instance.process is not None and not instance.process.is_alive():
                self._note_exit(instance, instance.process)
            if instance.drain_until is not None:
                self._step_drain(instance)
            elif instance.process is None:
                self._step_start(instance)
            else:
                self._step_watch(instance, instance.process)

    def list_processes(self) -> list[ManagedProcess]:
        """Living processes; what ``wait_for_change`` watches."""
        return [instance.process for instance in self._instances.values() if instance.process is not None]

    def is_settled(self) -> bool:
        """Whether nothing is starting or draining, so that only ends are news."""
        return all(instance.ready_since is not None for instance in self._instances.values())

    def shut_down(self) -> None:
        """Drain all and wait for it."""
        for name in list(self._instances):
            self.drain(name)
        while self._instances:
            self.step()
            time.sleep(0.05)
        self._fetchers.shutdown()

    def stop(self) -> None:
        """Leave the processes alone; forget them."""
        self._fetchers.shutdown(cancel_futures=True)

    # start

    def _adopt_one(self, folder: Path, process: ManagedProcess | None) -> None:
        try:
            spec = _load_spec((folder / "spec.json").read_text())
        except (FileNotFoundError, ValueError):  # killed before the specification was written: nothing was started
            shutil.rmtree(folder)
            return
        instance = Instance(spec, folder, process)
        if process is not None:
            instance.started_at = time.monotonic()
            log.info("adopted %s (pid %d)", spec.id, process.pid)
        self._instances[spec.id] = instance
        if (folder / "draining").exists():
            self._begin_drain(instance)

    def _step_start(self, instance: Instance) -> None:
        if time.monotonic() < instance.start_at:
            return
        missing = self._find_missing_resource(instance.spec.resources)
        if missing is not None:
            self._note_failure(instance, missing, lasting=True)
            return
        if instance.fetching is None:
            target = self._get_cache(instance.spec.artifact_uri)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            spec = instance.spec
            instance.fetching = self._fetchers.submit(self._fetch_artifact, spec.artifact_uri, spec.files, target)
        if instance.fetching.done():
            try:
                folder = instance.fetching.result()
            except (TimlError, OSError) as exc:
                self._note_failure(instance, f"the artifact cannot be fetched: {exc}")
            else:
                self._start(instance, folder)
            finally:
                instance.fetching = None

    def _start(self, instance: Instance, model_folder: Path) -> None:
        spec, settings = instance.spec, self._settings
        config = {
            "runtime": spec.runtime,
            "model_path": str(model_folder),
            "model_version": spec.version,
            "model_names": spec.model_names,
            "listen": f"unix:{self._get_socket(spec)}",
            **spec.resources.model_dump(),
            "max_request_bytes": settings.max_request_bytes,
            "request_timeout_seconds": settings.request_timeout_seconds,
            "drain_timeout_seconds": settings.drain_timeout_seconds,
        }
        path = instance.folder / "config.json"
        _write_private(path, json.dumps(config))
        instance.gpus = self._choose_gpus(spec.resources.gpu)
        instance.process = spawn(
            [sys.executable, "-m", _SERVER, "--config", str(path)],
            open_log(settings, spec),
            {"CUDA_VISIBLE_DEVICES": ",".join(instance.gpus)},
            self._choose_cpus(spec.resources.cpu),
        )
        instance.started_at = time.monotonic()
        log.info("started %s (pid %d)", spec.id, instance.process.pid)

    def _find_missing_resource(self, resources: Resources) -> str | None:
        """Why this machine can never run it."""
        if resources.gpu > len(_list_gpus()):
            return f"it wants {resources.gpu} GPU(s); this machine has {len(_list_gpus())}"
        cpus = os.cpu_count() or 1
        if math.ceil(resources.cpu) > cpus:
            return f"it wants {resources.cpu:g} CPUs; this machine has {cpus}"
        memory_mb = psutil.virtual_memory().total // 2**20
        if resources.memory_mb > memory_mb:
            return f"it wants {resources.memory_mb} MB of memory; this machine has {memory_mb}"
        return None

    def _choose_cpus(self, cpu: float) -> list[int]:
        """As many CPUs as asked for, those that the fewest instances use."""
        available = sorted(os.sched_getaffinity(0))
        used = dict.fromkeys(available, 0)
        for process in self.list_processes():
            try:
                for number in psutil.Process(process.pid).cpu_affinity():
                    used[number] = used.get(number, 0) + 1
            except psutil.NoSuchProcess:
                continue
        return sorted(available, key=lambda number: used[number])[: math.ceil(cpu)]

    def _choose_gpus(self, count: int) -> list[str]:
        taken = {gpu for instance in self._instances.values() for gpu in instance.gpus}
        return [gpu for gpu in _list_gpus() if gpu not in taken][:count]

    # watch

    def _step_watch(self, instance: Instance, process: ManagedProcess) -> None:
        now = time.monotonic()
        memory_mb = process.get_memory_mb()
        if memory_mb > instance.spec.resources.memory_mb:
            limit = instance.spec.resources.memory_mb
            self._kill(instance, process, f"it used {memory_mb:.0f} MB of its {limit} MB of memory")
        elif instance.ready_since is None:
            self._probe_start(instance, process, now)
        elif now - instance.probed_at >= _PROBE_EVERY_SECONDS:
            self._probe_run(instance, process, now)

    def _probe_start(self, instance: Instance, process: ManagedProcess, now: float) -> None:
        if is_ready(self._get_socket(instance.spec), _PROBE_TIMEOUT_SECONDS):
            instance.ready_since = instance.probed_at = now
            instance.reason = None
            log.info("%s is ready after %.1f s", instance.spec.id, now - instance.started_at)
        elif now - instance.started_at > self._settings.start_timeout_seconds:
            self._kill(instance, process, f"it was not ready within {self._settings.start_timeout_seconds:g} s")

    def _probe_run(self, instance: Instance, process: ManagedProcess, now: float) -> None:
        instance.probed_at = now
        answered = is_ready(self._get_socket(instance.spec), _PROBE_TIMEOUT_SECONDS)
        instance.missed_probes = 0 if answered else instance.missed_probes + 1
        if instance.missed_probes >= _HUNG_AFTER:
            self._kill(instance, process, f"it did not answer {_HUNG_AFTER} health checks in a row")
        elif instance.ready_since is not None and now - instance.ready_since > _STABLE_SECONDS:
            instance.failures = 0

    def _kill(self, instance: Instance, process: ManagedProcess, reason: str) -> None:
        log.warning("killing %s: %s", instance.spec.id, reason)
        process.send_signal(signal.SIGKILL)
        process.wait(_KILL_AFTER_DRAIN_SECONDS)
        instance.process = None
        self._note_failure(instance, reason)

    def _note_exit(self, instance: Instance, process: ManagedProcess) -> None:
        reason = process.describe_exit()
        instance.process = None
        if instance.drain_until is None:
            self._note_failure(instance, f"it {reason}: {self._read_last_line(instance.spec)}")

    def _note_failure(self, instance: Instance, reason: str, lasting: bool = False) -> None:
        """Plan the next start. ``lasting``: trying again soon cannot help."""
        log.warning("%s: %s", instance.spec.id, reason)
        instance.reason = reason
        instance.ready_since = None
        instance.missed_probes = 0
        instance.restarts += 1
        instance.failures = _FAILED_AFTER if lasting else instance.failures + 1
        step = len(_BACK_OFF_SECONDS) if lasting else instance.failures
        instance.start_at = time.monotonic() + _BACK_OFF_SECONDS[min(step, len(_BACK_OFF_SECONDS)) - 1]

    def _read_last_line(self, spec: InstanceSpec) -> str:
        lines = read_tail(open_log(self._settings, spec), _LAST_LINE_BYTES).strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    # end

    def _begin_drain(self, instance: Instance) -> None:
        instance.ready_since = None
        patience = self._settings.drain_timeout_seconds + _KILL_AFTER_DRAIN_SECONDS
        instance.drain_until = time.monotonic() + patience
        if instance.process is not None:
            instance.process.send_signal(signal.SIGTERM)

    def _step_drain(self, instance: Instance) -> None:
        if instance.process is not None and instance.drain_until is not None:
            if time.monotonic() > instance.drain_until:
                instance.process.send_signal(signal.SIGKILL)
            return
        shutil.rmtree(instance.folder, ignore_errors=True)
        Path(self._get_socket(instance.spec)).unlink(missing_ok=True)
        del self._instances[instance.spec.id]
        uri = instance.spec.artifact_uri
        if all(other.spec.artifact_uri != uri for other in self._instances.values()):
            shutil.rmtree(self._get_cache(uri), ignore_errors=True)
        log.info("ended %s", instance.spec.id)

    def _get_cache(self, artifact_uri: str) -> Path:
        """Where an artifact of a remote store is kept while an instance uses it."""
        name = hashlib.sha256(artifact_uri.encode()).hexdigest()[:32]
        return self._settings.data_dir / "artifact-cache" / name

    def _get_socket(self, spec: InstanceSpec) -> str:
        name = hashlib.sha256(spec.id.encode()).hexdigest()[:16]
        return str(self._settings.run_dir / f"{name}.sock")


def _derive_state(instance: Instance) -> InstanceState:
    if instance.drain_until is not None:
        return InstanceState.DRAINING
    if instance.ready_since is not None:
        return InstanceState.READY
    return InstanceState.FAILED if instance.failures >= _FAILED_AFTER else InstanceState.STARTING


def _list_gpus() -> list[str]:
    """Numbers of this machine's NVIDIA devices."""
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def _dump_spec(spec: InstanceSpec) -> str:
    values = {**vars(spec), "files": [file.model_dump() for file in spec.files]}
    return json.dumps({**values, "resources": spec.resources.model_dump()})


def _load_spec(text: str) -> InstanceSpec:
    values = json.loads(text)
    values["files"] = tuple(FileDigest(**file) for file in values["files"])
    values["model_names"] = tuple(values["model_names"])
    return InstanceSpec(**{**values, "resources": Resources(**values["resources"])})


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, readable by this user only."""
    partial = path.with_suffix(".partial")
    with open(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    partial.replace(path)
