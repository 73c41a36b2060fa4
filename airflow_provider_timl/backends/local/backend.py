"""The local backend: what the controller calls. Delegates to the supervisor of instances and to the gateway."""

from __future__ import annotations

import os
import select
import time

from airflow_provider_timl.backends.contract import GatewayConfig, GatewayStatus, InstanceSpec, InstanceStatus
from airflow_provider_timl.backends.local.gateway import LocalGateway
from airflow_provider_timl.backends.local.instances import FetchArtifact, InstanceSupervisor
from airflow_provider_timl.settings import Settings

_BUSY_PAUSE_SECONDS = 0.05


class LocalBackend:
    """Model servers and Envoy as processes of this machine; they outlive this object (see ``Backend``)."""

    def __init__(self, settings: Settings, fetch_artifact: FetchArtifact) -> None:
        self._instances = InstanceSupervisor(settings, fetch_artifact)
        self._gateway = LocalGateway(settings)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    def start(self) -> None:
        self._gateway.start()
        self._instances.adopt()
        self._instances.step()

    def list_instances(self) -> list[InstanceStatus]:
        self._instances.step()
        return self._instances.list_statuses()

    def ensure_instance(self, spec: InstanceSpec) -> None:
        self._instances.ensure(spec)

    def drain_instance(self, instance_id: str) -> None:
        self._instances.drain(instance_id)

    def publish(self, config: GatewayConfig) -> None:
        self._gateway.publish(config)

    def get_gateway_status(self) -> GatewayStatus | None:
        return self._gateway.get_status()

    def wait_for_change(self, timeout_seconds: float) -> None:
        if not self._instances.is_settled():
            timeout_seconds = min(timeout_seconds, _BUSY_PAUSE_SECONDS)
        processes = self._instances.list_processes()
        gateway = self._gateway.get_process()
        _wait_for_end([process.pid for process in (*processes, *([gateway] if gateway else []))], timeout_seconds)

    def stop(self) -> None:
        self._instances.stop()

    def shut_down(self) -> None:
        self._gateway.stop()
        self._instances.shut_down()


def _wait_for_end(pids: list[int], timeout_seconds: float) -> None:
    """Return when one of the processes ends, or when the time is over."""
    poll = select.poll()
    descriptors = []
    try:
        for pid in pids:
            descriptors.append(os.pidfd_open(pid))
            poll.register(descriptors[-1], select.POLLIN)
        poll.poll(timeout_seconds * 1000)
    except ProcessLookupError:  # ended already
        time.sleep(min(timeout_seconds, _BUSY_PAUSE_SECONDS))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
