"""What a backend does for the controller: run instances, and make the gateway serve a configuration.

Everything here is data or an interface. The services layer decides (``plan``); a backend carries out, one call at a
time, from one thread. Calls are idempotent: the controller repeats them after it was killed at any point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from airflow_provider_timl.entities import FileDigest, LogChunk, Resources


class InstanceState(Enum):
    """``STARTING`` includes waiting for a restart after a crash; ``FAILED`` is that too, after several crashes in a row
    or when it can never start (its ``reason`` says why); the backend goes on trying with growing delays."""

    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


@dataclass(frozen=True)
class InstanceSpec:
    """One model server process that is wanted.

    ``id`` is unique for (service incarnation, version, everything below, slot): a changed specification is a new id,
    so that the new one starts beside the old one. It is a plain file name.
    """

    id: str
    service: str
    version: int
    runtime: str
    options: Mapping[str, Any]
    model_names: tuple[str, ...]
    artifact_uri: str
    files: tuple[FileDigest, ...]
    resources: Resources


@dataclass(frozen=True)
class InstanceStatus:
    """``address`` is what the gateway connects to (``unix:/path`` or ``host:port``), ``rpc_address`` the same for gRPC
    where the runtime has it; they do not change on restarts."""

    id: str
    service: str
    version: int
    state: InstanceState
    address: str
    restarts: int = 0
    reason: str | None = None
    rpc_address: str | None = None


@dataclass(frozen=True)
class GatewayKey:
    """``client`` names the key in metrics; ``secret`` is what callers send."""

    client: str
    secret: str

    def __repr__(self) -> str:
        return f"GatewayKey(client={self.client!r})"


@dataclass(frozen=True)
class VersionRoute:
    """``weight`` in hundredths of a percent (10000 = all); the weights of a service sum to 10000 or to 0.

    A version with weight 0 can still be reached by ``X-TIML-Version``. ``rpc_addresses`` are of the same instances, as
    far as they have gRPC. ``labels`` are names for the version in paths, each of one version of the service.
    """

    version: int
    weight: int
    addresses: tuple[str, ...]
    rpc_addresses: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServiceRoute:
    """All that the gateway knows of one service. Without keys every request is 401; with all weights 0 it is 503."""

    service: str
    host: str
    keys: tuple[GatewayKey, ...]
    versions: tuple[VersionRoute, ...]


@dataclass(frozen=True)
class GatewayConfig:
    routes: tuple[ServiceRoute, ...] = ()


@dataclass(frozen=True)
class GatewayStatus:
    """What the gateway itself says: the configuration it serves, and the addresses its health checks pass."""

    config: GatewayConfig
    healthy: frozenset[str]


class Backend(Protocol):
    """Where instances run, and their gateway."""

    def start(self) -> None:
        """Take over what runs already, and make sure the gateway runs. Called once, before anything else."""

    def list_instances(self) -> list[InstanceStatus]:
        """Every instance that exists, those of an earlier controller included. Restarts dead ones when due."""

    def ensure_instance(self, spec: InstanceSpec) -> None:
        """Start the instance unless it exists. Returns at once; progress shows in ``list_instances``."""

    def drain_instance(self, instance_id: str) -> None:
        """Let the instance finish its requests, then end it and forget it. Returns at once. The caller has taken it out
        of the gateway before."""

    def publish(self, config: GatewayConfig) -> None:
        """Make the gateway serve ``config``, without losing a request; returns when the gateway itself says it does.

        :raises InvalidInputError: the gateway refuses the configuration; the one before stays.
        :raises ExternalSystemError: the gateway did not take it over in time.
        """

    def get_gateway_status(self) -> GatewayStatus | None:
        """``None`` while the gateway does not answer. Restarts it when it is dead."""

    def wait_for_change(self, timeout_seconds: float) -> None:
        """Return early when an instance or the gateway ended."""

    def stop(self) -> None:
        """Leave. Instances and gateway keep running: the next controller takes them over."""

    def shut_down(self) -> None:
        """End every instance and the gateway (``airflow timl controller --stop-all``)."""


class LogReader(Protocol):
    """Reads logs where the backend keeps them; used by the API, which has no backend of its own."""

    def read_logs(self, service: str, version: int | None, max_bytes: int) -> list[LogChunk]:
        """The end of each instance's log, newest instance first, of ended ones too."""
