"""What is, as a pure function: the states that people see, from instances and the gateway's own answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_timl.backends.contract import GatewayStatus, InstanceState, InstanceStatus, ServiceRoute
from airflow_provider_timl.services.plan import WantedService, WantedVersion, build_final_weights
from airflow_provider_timl.states import ServiceState, ServiceVersionState


@dataclass(frozen=True)
class VersionReport:
    state: ServiceVersionState
    ready_instances: int
    reason: str | None


@dataclass(frozen=True)
class ServiceReport:
    """``in_sync``: the gateway serves exactly the wish of ``generation``, with every instance ready."""

    generation: int
    state: ServiceState
    in_sync: bool
    versions: Mapping[int, VersionReport]


def build_report(
    service: WantedService,
    instances: Mapping[str, InstanceStatus],
    gateway: GatewayStatus | None,
    was_in_sync: bool,
) -> ServiceReport:
    """:param was_in_sync: this generation was already served once, so anything missing now is a fault, not progress."""
    served = _find_route(service, gateway)
    addresses = _list_served(served, gateway)
    versions = {version.spec.version: _report_version(version, instances, addresses) for version in service.versions}
    all_ready = all(report.state is ServiceVersionState.READY for report in versions.values())
    in_sync = all_ready and served is not None and _is_final(service, served)
    return ServiceReport(
        generation=service.generation,
        state=_derive_state(service, versions, in_sync, was_in_sync),
        in_sync=in_sync,
        versions=versions,
    )


def _find_route(service: WantedService, gateway: GatewayStatus | None) -> ServiceRoute | None:
    routes = gateway.config.routes if gateway else ()
    return next((route for route in routes if route.host == service.host), None)


def _list_served(route: ServiceRoute | None, gateway: GatewayStatus | None) -> frozenset[str]:
    """Addresses that the gateway routes to and finds healthy."""
    if route is None or gateway is None:
        return frozenset()
    versions = route.versions
    return gateway.healthy & {
        address for version in versions for address in (*version.addresses, *version.rpc_addresses)
    }


def _is_served(status: InstanceStatus, served: frozenset[str]) -> bool:
    return status.address in served and (status.rpc_address is None or status.rpc_address in served)


def _report_version(
    version: WantedVersion, instances: Mapping[str, InstanceStatus], served: frozenset[str]
) -> VersionReport:
    statuses = [instances[spec.id] for spec in version.instances if spec.id in instances]
    ready = sum(status.state is InstanceState.READY and _is_served(status, served) for status in statuses)
    failed = next((status for status in statuses if status.state is InstanceState.FAILED), None)
    reason = failed.reason if failed else next((status.reason for status in statuses if status.reason), None)
    if ready == version.spec.instances:
        return VersionReport(ServiceVersionState.READY, ready, None)
    if failed is not None:
        return VersionReport(ServiceVersionState.FAILED, ready, reason)
    state = ServiceVersionState.STARTING if statuses else ServiceVersionState.PENDING
    return VersionReport(state, ready, reason)


def _is_final(service: WantedService, served: ServiceRoute) -> bool:
    wanted = {version.spec.version: version.labels for version in service.versions}
    return (
        served.keys == service.keys
        and build_final_weights(service) == {version.version: version.weight for version in served.versions}
        and wanted == {version.version: version.labels for version in served.versions}
    )


def _derive_state(
    service: WantedService, versions: Mapping[int, VersionReport], in_sync: bool, was_in_sync: bool
) -> ServiceState:
    if in_sync:
        return ServiceState.RUNNING
    carrying = [versions[version] for version, weight in build_final_weights(service).items() if weight]
    any_failed = any(report.state is ServiceVersionState.FAILED for report in versions.values())
    if any_failed and not any(report.ready_instances for report in carrying):
        return ServiceState.FAILED
    return ServiceState.DEGRADED if any_failed or was_in_sync else ServiceState.DEPLOYING
