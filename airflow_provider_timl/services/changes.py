"""Changes of what is wanted, as pure functions from one ``ServiceSpec`` to the next.

They check everything that can be checked without acting, and raise before anything is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_timl.entities import ServiceSpec, ServiceVersionSpec
from airflow_provider_timl.exceptions import ConflictError, InvalidInputError, NotFoundError

_ALL_HUNDREDTHS = 100_00


def to_hundredths(percent: float) -> int:
    """A percent as whole hundredths, the unit in which splits are exact."""
    return round(percent * 100)


def find_version(spec: ServiceSpec, version: int) -> ServiceVersionSpec | None:
    return next((wanted for wanted in spec.versions if wanted.version == version), None)


def get_version(spec: ServiceSpec, service: str, version: int) -> ServiceVersionSpec:
    """:raises NotFoundError: the service does not have that version."""
    found = find_version(spec, version)
    if found is None:
        raise NotFoundError("version", f"{version} of service {service}")
    return found


def add_version(spec: ServiceSpec, service: str, added: ServiceVersionSpec) -> ServiceSpec:
    """The first version gets all traffic, a later one none. The same version with the same wish changes nothing."""
    present = find_version(spec, added.version)
    if present is None:
        percent = 0.0 if spec.versions else 100.0
        return ServiceSpec(versions=[*spec.versions, added.model_copy(update={"traffic_percent": percent})])
    if present.model_copy(update={"traffic_percent": added.traffic_percent}) != added:
        raise ConflictError(
            f"version {added.version} is already in service {service!r} with runtime {present.runtime!r}, "
            f"{present.instances} instance(s) and {present.resources}; remove it first to deploy it otherwise"
        )
    return spec


def remove_version(spec: ServiceSpec, service: str, version: int) -> ServiceSpec:
    """:raises ConflictError: it serves traffic, or is the only one."""
    removed = find_version(spec, version)
    if removed is None:
        return spec
    if len(spec.versions) == 1:
        raise ConflictError(f"version {version} is the only one of service {service!r}; delete the service instead")
    if removed.traffic_percent:
        raise ConflictError(
            f"version {version} serves {removed.traffic_percent:g} % of {service!r} and cannot be removed; "
            "shift its traffic first"
        )
    return ServiceSpec(versions=[kept for kept in spec.versions if kept.version != version])


def set_traffic(
    spec: ServiceSpec, service: str, traffic: Mapping[int, float], ready_instances: Mapping[int, int]
) -> ServiceSpec:
    """Give every version its percent; one that ``traffic`` does not name gets none.

    :param traffic: percent by version, whole hundredths, sum exactly 100.
    :param ready_instances: ready instances by version, as last observed.
    :raises ConflictError: a version would get traffic without a ready instance.
    """
    for version, percent in traffic.items():
        present = get_version(spec, service, version)
        if percent > present.traffic_percent and not ready_instances.get(version):
            raise ConflictError(
                f"version {version} of {service!r} has no ready instance and cannot be given traffic; "
                "wait until it is READY"
            )
    total = sum(to_hundredths(percent) for percent in traffic.values())
    if total != _ALL_HUNDREDTHS:
        raise InvalidInputError(f"the percents sum to {total / 100:g}, not 100", field="traffic")
    return ServiceSpec(
        versions=[
            version.model_copy(update={"traffic_percent": float(traffic.get(version.version, 0))})
            for version in spec.versions
        ]
    )
