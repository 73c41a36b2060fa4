"""The local backend: what the controller calls. Delegates to the supervisor of instances and to the gateway."""

from __future__ import annotations

import os
import select

from airflow_provider_timl.backends.contract import GatewayConfig, GatewayStatus, InstanceSpec, InstanceStatus
from airflow_provider_timl.backends.local.artifact_cache import FetchArtifact
from airflow_provider_timl.backends.local.gateway import LocalGateway
from airflow_provider_timl.backends.local.instances import InstanceSupervisor
from airflow_provider_timl.settings import Settings


class LocalBackend:
    """Model servers and Envoy as processes of this machine; they outlive this object (see ``Backend``).

    :param fetch_artifact: brings the verified files of an artifact to a folder and returns it; runs in threads.
    """

    def __init__(self, settings: Settings, fetch_artifact: FetchArtifact) -> None:
        self._settings = settings
        self._instances = InstanceSupervisor(settings, fetch_artifact)
        self._gateway = LocalGateway(settings)

    def start(self) -> None:
        self._settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        pause_seconds = min(timeout_seconds, self._instances.compute_pause_seconds())
        processes = self._instances.list_processes()
        gateway = self._gateway.get_process()
        _wait_for_end([process.pid for process in (*processes, *([gateway] if gateway else []))], pause_seconds)

    def stop(self) -> None:
        self._instances.stop()

    def shut_down(self) -> None:
        self._gateway.stop()
        self._instances.shut_down()


def _wait_for_end(pids: list[int], timeout_seconds: float) -> None:
    """Return when one of the processes ends, has ended already, or when the time is over."""
    poll = select.poll()
    descriptors = []
    try:
        for pid in pids:
            descriptors.append(os.pidfd_open(pid))
            poll.register(descriptors[-1], select.POLLIN)
        poll.poll(timeout_seconds * 1000)
    except ProcessLookupError:
        return
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
