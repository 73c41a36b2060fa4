"""Keeps model server processes running: starts, adopts, watches, restarts with back-off, drains.

What runs is what the process table and the instances' folders say, so a supervisor that was killed at any point is
followed by one that knows it all: a folder with a process is adopted, one without is started again, one marked as
draining is ended, and a process without a folder is killed. Fetching artifacts and asking for health happen in threads,
so that one instance that hangs delays no other.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_timl.backends.contract import InstanceSpec, InstanceStatus
from airflow_provider_timl.backends.local import logs, machine
from airflow_provider_timl.backends.local.artifact_cache import ArtifactCache, FetchArtifact
from airflow_provider_timl.backends.local.instance import (
    Instance,
    create_instance,
    find_instance,
    write_server_config,
)
from airflow_provider_timl.backends.local.private_files import ensure_private_folder
from airflow_provider_timl.backends.local.process import ManagedProcess, find_processes, spawn
from airflow_provider_timl.backends.local.unix_http import is_ready
from airflow_provider_timl.settings import Settings

log = logging.getLogger(__name__)

_SERVER = "airflow_provider_timl.runtimes.server"
_PROBE_EVERY_SECONDS = 2.0
_PROBE_TIMEOUT_SECONDS = 1.0
_MOST_PROBES = 32
_HUNG_AFTER = 3
_KILL_SECONDS = 5.0
_COLLECT_EVERY_SECONDS = 60.0
_BUSY_PAUSE_SECONDS = 0.05


class InstanceSupervisor:
    """Called from one thread; ``step`` does all that is due and does not block."""

    def __init__(self, settings: Settings, fetch_artifact: FetchArtifact) -> None:
        self._settings = settings
        self._folder = settings.data_dir / "instances"
        self._instances: dict[str, Instance] = {}
        self._artifacts = ArtifactCache(settings.data_dir / "artifact-cache", fetch_artifact)
        self._probers = ThreadPoolExecutor(_MOST_PROBES, thread_name_prefix="probe")
        self._collect_at = 0.0

    def adopt(self) -> None:
        """Take over what an earlier supervisor left."""
        for folder in (self._folder, self._settings.run_dir):
            ensure_private_folder(folder)
        processes = self._find_servers()
        for folder in sorted(self._folder.iterdir()):
            instance = find_instance(self._settings, folder)
            if instance is None:
                shutil.rmtree(folder)
            else:
                self._adopt_one(instance, processes.pop(str(instance.config_file), None))
        for config_file, process in processes.items():
            log.warning("killing the process %d of %s, which nobody knows", process.pid, config_file)
            self._kill(process)

    def ensure(self, spec: InstanceSpec) -> None:
        """Have the instance run. One that is draining has to be gone first; ask again then."""
        if spec.id not in self._instances:
            self._instances[spec.id] = create_instance(self._settings, self._folder / spec.id, spec)

    def drain(self, instance_id: str) -> None:
        """Ask it to end when its connections are gone. The mark outlives us."""
        instance = self._instances.get(instance_id)
        if instance is not None and instance.drain_until is None:
            instance.mark_draining()
            self._begin_drain(instance)

    def list_statuses(self) -> list[InstanceStatus]:
        return [instance.get_status() for instance in self._instances.values()]

    def list_processes(self) -> list[ManagedProcess]:
        """Those that run; what ``wait_for_change`` watches."""
        return [instance.process for instance in self._instances.values() if instance.process is not None]

    def step(self) -> None:
        """Do what is due for each instance."""
        if time.monotonic() >= self._collect_at:
            self._collect()
        for instance in list(self._instances.values()):
            if instance.process is not None and not instance.process.is_alive():
                self._note_exit(instance, instance.process)
            if instance.drain_until is not None:
                self._step_drain(instance, instance.drain_until)
            elif instance.process is None:
                self._step_start(instance)
            else:
                self._step_watch(instance, instance.process)

    def compute_pause_seconds(self) -> float:
        """How long until ``step`` has something to do, if no process ends before."""
        return min((self._compute_pause(instance) for instance in self._instances.values()), default=float("inf"))

    def stop(self) -> None:
        """Leave the processes alone; forget them."""
        self._probers.shutdown(cancel_futures=True)

    def shut_down(self) -> None:
        """Drain all and wait for it: as long as a drain may take."""
        for name in list(self._instances):
            self.drain(name)
        while self._instances:
            self.step()
            time.sleep(_BUSY_PAUSE_SECONDS)
        self._probers.shutdown()

    # adopt

    def _find_servers(self) -> dict[str, ManagedProcess]:
        """Processes of model servers below our folder, by configuration file. Of two that share one, one is killed."""
        prefix = f"{self._folder}/"
        found: dict[str, ManagedProcess] = {}
        for process, line in find_processes(lambda line: _SERVER in line and line[-1].startswith(prefix)):
            if found.setdefault(line[-1], process) is not process:
                self._kill(process)
        return found

    def _adopt_one(self, instance: Instance, process: ManagedProcess | None) -> None:
        self._instances[instance.spec.id] = instance
        if process is not None:
            instance.note_start(process)
            instance.gpus = [gpu for gpu in process.get_environment(machine.GPU_VARIABLE).split(",") if gpu]
            log.info("adopted %s (pid %d)", instance.spec.id, process.pid)
        if instance.is_marked_draining():
            self._begin_drain(instance)

    # start

    def _step_start(self, instance: Instance) -> None:
        if time.monotonic() < instance.start_at:
            return
        if instance.fetch is None:
            missing = machine.find_missing_resource(instance.spec.resources)
            if missing is not None:
                self._note_failure(instance, missing, lasting=True)
                return
            instance.fetch = self._artifacts.fetch(instance.spec)
        if not instance.fetch.done():
            return
        fetch, instance.fetch = instance.fetch, None
        error = fetch.exception()
        if error is not None:
            self._note_failure(instance, f"the artifact cannot be fetched: {error}")
            return
        write_server_config(self._settings, instance, fetch.result())
        self._spawn(instance)

    def _spawn(self, instance: Instance) -> None:
        spec = instance.spec
        others = [other.gpus for other in self._instances.values() if other.process is not None]
        gpus = machine.choose_gpus(spec.resources.gpu, [gpu for used in others for gpu in used])
        if gpus is None:
            self._note_failure(instance, f"it wants {spec.resources.gpu} GPU(s); too few are free on this machine now")
            return
        log_file = logs.ensure_log(self._settings, spec)
        logs.limit_log(log_file)
        try:
            process = spawn(
                [sys.executable, "-m", _SERVER, "--config", str(instance.config_file)],
                log_file=log_file,
                folder=instance.folder,
                environment={machine.GPU_VARIABLE: ",".join(gpus)},
                cpus=machine.choose_cpus(spec.resources.cpu, [other.get_cpus() for other in self.list_processes()]),
            )
        except OSError as exc:
            self._note_failure(instance, f"its process cannot be started: {exc}")
            return
        instance.gpus = gpus
        instance.note_start(process)
        log.info("started %s (pid %d)", spec.id, process.pid)

    # watch

    def _step_watch(self, instance: Instance, process: ManagedProcess) -> None:
        now = time.monotonic()
        memory_mb, limit_mb = process.get_memory_mb(), instance.spec.resources.memory_mb
        start_timeout = self._settings.start_timeout_seconds
        if memory_mb > limit_mb:
            self._end_badly(instance, process, f"it used {memory_mb:.0f} MB of its {limit_mb} MB of memory")
        elif instance.ready_since is None and now - instance.started_at > start_timeout:
            self._end_badly(instance, process, f"it was not ready within {start_timeout:g} s")
        elif instance.probe is None and now >= instance.probe_at:
            instance.probe = self._probers.submit(is_ready, str(instance.socket), _PROBE_TIMEOUT_SECONDS)
        elif instance.probe is not None and instance.probe.done():
            answered, instance.probe = instance.probe.result(), None
            self._note_probe(instance, process, answered)

    def _note_probe(self, instance: Instance, process: ManagedProcess, answered: bool) -> None:
        was_ready = instance.ready_since is not None
        if answered:
            instance.note_ready()
        elif was_ready:
            instance.missed_probes += 1
        if instance.missed_probes >= _HUNG_AFTER:
            self._end_badly(instance, process, f"it did not answer {_HUNG_AFTER} health checks in a row")
        elif instance.ready_since is not None:
            instance.probe_at = time.monotonic() + _PROBE_EVERY_SECONDS
            logs.limit_log(logs.ensure_log(self._settings, instance.spec))
            if not was_ready:
                log.info("%s is ready after %.1f s", instance.spec.id, instance.ready_since - instance.started_at)

    def _end_badly(self, instance: Instance, process: ManagedProcess, reason: str) -> None:
        self._kill(process)
        self._note_failure(instance, reason)

    def _note_exit(self, instance: Instance, process: ManagedProcess) -> None:
        instance.process = None
        if instance.drain_until is None:
            last_line = logs.read_last_line(logs.ensure_log(self._settings, instance.spec))
            self._note_failure(instance, f"it {process.describe_exit()}: {last_line}")

    def _note_failure(self, instance: Instance, reason: str, *, lasting: bool = False) -> None:
        log.warning("%s failed: %s", instance.spec.id, reason)
        if instance.ready_since is None:
            self._artifacts.forget(instance.spec)  # it never became ready: its files may be damaged, so verify again
        instance.note_failure(reason, lasting=lasting)

    def _kill(self, process: ManagedProcess) -> None:
        process.send_signal(signal.SIGKILL)
        if not process.wait(_KILL_SECONDS):
            log.error("the process %d does not end although it was killed", process.pid)

    # end

    def _begin_drain(self, instance: Instance) -> None:
        instance.ready_since = None
        instance.drain_until = time.monotonic() + self._settings.drain_timeout_seconds + _KILL_SECONDS
        if instance.process is not None:
            instance.process.send_signal(signal.SIGTERM)

    def _step_drain(self, instance: Instance, until: float) -> None:
        if instance.process is not None:
            if time.monotonic() > until:
                instance.process.send_signal(signal.SIGKILL)
            return
        instance.remove()
        del self._instances[instance.spec.id]
        self._collect()
        logs.remove_old_logs(self._settings, instance.spec.service, self._instances.keys())
        log.info("ended %s", instance.spec.id)

    def _collect(self) -> None:
        self._collect_at = time.monotonic() + _COLLECT_EVERY_SECONDS
        self._artifacts.collect({instance.spec.artifact_uri for instance in self._instances.values()})

    def _compute_pause(self, instance: Instance) -> float:
        if instance.ready_since is not None:
            return float("inf")
        if instance.process is None and instance.fetch is None and instance.drain_until is None:
            return max(0.0, instance.start_at - time.monotonic())
        return _BUSY_PAUSE_SECONDS
