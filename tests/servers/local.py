"""A local backend with real processes, driven by a test in the controller's place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_provider_timl.backends.contract import (
    GatewayConfig,
    GatewayKey,
    InstanceSpec,
    InstanceState,
    InstanceStatus,
    ServiceRoute,
    VersionRoute,
)
from airflow_provider_timl.backends.local.backend import LocalBackend
from airflow_provider_timl.backends.local.gateway import LocalGateway
from airflow_provider_timl.backends.local.unix_http import UnixConnection
from airflow_provider_timl.entities import FileDigest, Resources
from airflow_provider_timl.settings import Settings
from tests.servers.stack import find_free_port, list_processes
from tests.waiting import wait_until

FAULTY_RUNTIME = Path(__file__).parent / "faulty"
KEY = GatewayKey("iris/default", "0123456789abcdef")
ALL = 10_000


class LocalMachine:
    """One deployment below ``root``. Servers run the faulty runtime; ``faults`` of a service are of its next start."""

    def __init__(self, root: Path, **changes: Any) -> None:
        defaults = Settings(
            data_dir=root / "data",
            database_url="",
            artifact_store="",
            encryption_key="",
            gateway_port=find_free_port(),
            drain_timeout_seconds=5,
        )
        self.settings = replace(defaults, **changes)
        self.artifacts = root / "artifacts"
        self.fetches: list[str] = []
        self.backend = self.restart()

    def restart(self, **changes: Any) -> LocalBackend:
        """A new backend, as after the controller was killed: the old one is not told anything."""
        self.settings = replace(self.settings, **changes)
        self.backend = LocalBackend(self.settings, self.fetch)
        self.backend.start()
        return self.backend

    def fetch(self, uri: str, _files: Sequence[FileDigest], _target: Path) -> Path:
        self.fetches.append(uri)
        folder = self.artifacts / uri.rpartition("/")[2]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def set_faults(self, service: str, **faults: Any) -> None:
        folder = self.fetch(f"/{service}", (), Path())
        (folder / "faults.json").write_text(json.dumps(faults))

    def ensure(
        self, service: str, *, version: int = 1, slot: int = 0, runtime: str = "faulty", **resources: Any
    ) -> str:
        """The id of an instance that is wanted from now on."""
        spec = InstanceSpec(
            id=f"{service}-v{version}-0a1b2c3d-{slot}",
            service=service,
            version=version,
            runtime=runtime,
            options={},
            model_names=("m", service),
            artifact_uri=f"s3://bucket/{service}",
            files=(),
            resources=Resources(**resources),
        )
        self.backend.ensure_instance(spec)
        return spec.id

    def get(self, instance_id: str) -> InstanceStatus:
        return next(status for status in self.backend.list_instances() if status.id == instance_id)

    def wait_for(self, instance_id: str, state: InstanceState, timeout_seconds: float = 20) -> InstanceStatus:
        def find() -> InstanceStatus | None:
            status = self.get(instance_id)
            return status if status.state is state else None

        return wait_until(find, timeout_seconds=timeout_seconds)

    def start_ready(
        self, service: str, *, version: int = 1, instances: int = 1, runtime: str = "faulty"
    ) -> tuple[str, ...]:
        """Addresses of new instances that are ready."""
        names = [self.ensure(service, version=version, slot=slot, runtime=runtime) for slot in range(instances)]
        return tuple(self.wait_for(name, InstanceState.READY).address for name in names)

    def publish(self, *routes: ServiceRoute) -> GatewayConfig:
        """With the gRPC sides of the instances that have one."""
        config = GatewayConfig(tuple(self._add_rpc(route) for route in routes))
        wait_until(self.backend.get_gateway_status, timeout_seconds=10)
        self.backend.publish(config)
        return config

    def _add_rpc(self, route: ServiceRoute) -> ServiceRoute:
        sides = {status.address: status.rpc_address for status in self.backend.list_instances()}
        versions = (
            replace(version, rpc_addresses=tuple(side for each in version.addresses if (side := sides.get(each))))
            for version in route.versions
        )
        return replace(route, versions=tuple(versions))

    def list_servers(self, *words: str) -> list[psutil.Process]:
        return list_processes("runtimes.server", str(self.settings.data_dir), *words)

    def get_envoy(self) -> psutil.Process:
        (process,) = list_processes("bootstrap.json", str(self.settings.data_dir))
        return process

    def ask_gateway(self, path: str) -> bytes:
        """What Envoy's administration answers."""
        connection = UnixConnection(str(self.settings.run_dir / "admin.sock"), 5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def call(
        self, body: Any = None, path: str = "/v1/models/m:predict", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers by lower-case name, and the parsed body of one prediction for the service ``iris``."""
        sent = {"Host": build_host("iris"), "Authorization": KEY.secret}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        connection = HTTPConnection("127.0.0.1", self.settings.gateway_port, timeout=30)
        try:
            connection.request("POST", path, content, sent)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return response.status, received, json.loads(response.read())
        finally:
            connection.close()

    def close(self) -> None:
        self.backend.shut_down()
        wait_until(lambda: not list_processes(str(self.settings.data_dir)), timeout_seconds=10)
        shutil.rmtree(self.settings.run_dir)


def build_host(service: str) -> str:
    return f"{service}-00000000.timl.local"


def build_route(
    service: str, versions: dict[int, tuple[int, tuple[str, ...]]], keys: tuple[GatewayKey, ...] = (KEY,)
) -> ServiceRoute:
    """:param versions: weight and addresses by version."""
    routes = tuple(VersionRoute(version, weight, addresses) for version, (weight, addresses) in versions.items())
    return ServiceRoute(service, build_host(service), keys, routes)


def publish_for_ever(settings: Settings, configs: Sequence[GatewayConfig]) -> None:
    """What a process does that a test kills in the middle of it."""
    gateway = LocalGateway(settings)
    gateway.start()
    for config in cycle(configs):
        gateway.publish(config)


@contextmanager
def run_machine(root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Iterator[LocalMachine]:
    """Model servers find the faulty runtime by ``PYTHONPATH``, the backend by ours; nothing runs on afterwards."""
    monkeypatch.syspath_prepend(FAULTY_RUNTIME)
    inherited = os.environ.get("PYTHONPATH")
    path = [str(FAULTY_RUNTIME), *([inherited] if inherited else [])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    machine = LocalMachine(root, **changes)
    try:
        yield machine
    finally:
        machine.close()
