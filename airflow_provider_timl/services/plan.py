"""What to do next, as a pure function of what is wanted, what runs, and what the gateway serves.

The rules that keep every request:

- an instance enters the gateway when it is ready, and stays in it while it restarts in place;
- weights change only when each version that is to get traffic has a ready instance; until then those served stay;
- an instance is drained only when the gateway's next configuration does not mention it.

So a plan is carried out in the order ``start``, ``config``, ``drain``, and can be made anew at any moment from what is
there: nothing is remembered between two plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from airflow_provider_timl.backends.contract import (
    GatewayConfig,
    GatewayKey,
    InstanceSpec,
    InstanceState,
    InstanceStatus,
    ServiceRoute,
    VersionRoute,
)
from airflow_provider_timl.entities import ServiceVersionSpec
from airflow_provider_timl.services.changes import to_hundredths


@dataclass(frozen=True)
class WantedVersion:
    """One version and the instances that are to run for it. ``labels`` are the model's aliases for it."""

    spec: ServiceVersionSpec
    instances: tuple[InstanceSpec, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class WantedService:
    """One service that is not being deleted. ``host`` is unique for each life of a service name."""

    id: int
    name: str
    host: str
    generation: int
    keys: tuple[GatewayKey, ...]
    versions: tuple[WantedVersion, ...]


@dataclass(frozen=True)
class Plan:
    """``start`` what does not run, then serve ``config``, then ``drain`` what it no longer mentions."""

    start: tuple[InstanceSpec, ...]
    config: GatewayConfig
    drain: tuple[str, ...]


def plan_changes(wanted: Sequence[WantedService], instances: Sequence[InstanceStatus], served: GatewayConfig) -> Plan:
    """Plan the next step. Equal inputs give equal plans; a plan that is carried out leads to an empty one."""
    existing = {instance.id: instance for instance in instances if instance.state is not InstanceState.DRAINING}
    routes = {route.host: route for route in served.routes}
    config = GatewayConfig(
        tuple(
            _plan_route(service, existing, routes.get(service.host))
            for service in sorted(wanted, key=lambda service: service.name)
        )
    )
    wanted_instances = {
        spec.id: spec for service in wanted for version in service.versions for spec in version.instances
    }
    mentioned = set(list_addresses(config))
    return Plan(
        start=tuple(spec for name, spec in wanted_instances.items() if name not in existing),
        config=config,
        drain=tuple(
            instance.id
            for instance in existing.values()
            if instance.id not in wanted_instances and instance.address not in mentioned
        ),
    )


def build_final_weights(service: WantedService) -> dict[int, int]:
    """The split that is asked for, in hundredths of a percent by version."""
    return {version.spec.version: to_hundredths(version.spec.traffic_percent) for version in service.versions}


def list_addresses(config: GatewayConfig) -> Iterable[str]:
    return (address for route in config.routes for version in route.versions for address in version.addresses)


def _plan_route(
    service: WantedService, existing: dict[str, InstanceStatus], served: ServiceRoute | None
) -> ServiceRoute:
    before = {version.version: version for version in served.versions} if served else {}
    addresses = {
        version.spec.version: _plan_addresses(version, existing, before.get(version.spec.version))
        for version in service.versions
    }
    final = build_final_weights(service)
    if all(_has_ready(addresses[version], existing) for version, weight in final.items() if weight):
        weights = final
    else:
        weights = {version: route.weight for version, route in before.items()}
        for version, weight in weights.items():
            if weight and version not in addresses:  # still serves, though no longer wanted
                addresses[version] = before[version].addresses
    labels = {version.spec.version: version.labels for version in service.versions}
    return ServiceRoute(
        service=service.name,
        host=service.host,
        keys=service.keys,
        versions=tuple(
            VersionRoute(
                version=version,
                weight=weights.get(version, 0),
                addresses=addresses[version],
                rpc_addresses=_list_rpc_addresses(addresses[version], existing),
                labels=labels.get(version, ()),
            )
            for version in sorted(addresses)
        ),
    )


def _plan_addresses(
    version: WantedVersion, existing: dict[str, InstanceStatus], before: VersionRoute | None
) -> tuple[str, ...]:
    """Wanted instances that are ready or were already served; until all wanted are ready, also those they replace."""
    served = set(before.addresses) if before else set()
    wanted = [existing[spec.id] for spec in version.instances if spec.id in existing]
    chosen = {status.address for status in wanted if status.state is InstanceState.READY or status.address in served}
    ready_count = sum(status.state is InstanceState.READY for status in wanted)
    if ready_count < len(version.instances):
        addresses = {status.address for status in wanted}
        replaced = (status.address for status in existing.values() if status.address not in addresses)
        chosen.update(address for address in replaced if address in served)
    return tuple(sorted(chosen))


def _list_rpc_addresses(addresses: Iterable[str], existing: dict[str, InstanceStatus]) -> tuple[str, ...]:
    """The gRPC sides of those that have one: an instance is in the gateway with both sides or with none."""
    sides = {status.address: status.rpc_address for status in existing.values()}
    return tuple(sorted(side for address in addresses if (side := sides.get(address)) is not None))


def _has_ready(addresses: Iterable[str], existing: dict[str, InstanceStatus]) -> bool:
    ready = {status.address for status in existing.values() if status.state is InstanceState.READY}
    return any(address in ready for address in addresses)
