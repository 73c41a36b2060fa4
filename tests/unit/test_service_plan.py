"""The plan loses no request: checked rule by rule, and by random histories of a simulated backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_timl.backends.contract import (
    GatewayConfig,
    GatewayKey,
    GatewayStatus,
    InstanceSpec,
    InstanceState,
    InstanceStatus,
)
from airflow_provider_timl.entities import Resources, ServiceVersionSpec
from airflow_provider_timl.services.plan import Plan, WantedService, WantedVersion, plan_changes
from airflow_provider_timl.services.report import build_report
from airflow_provider_timl.states import ServiceState, ServiceVersionState


def instance_spec(version: int, slot: int, digest: str = "a") -> InstanceSpec:
    return InstanceSpec(
        id=f"iris-v{version}-{digest}-{slot}",
        service="iris",
        version=version,
        runtime="pmml",
        options={},
        model_names=("m", "iris"),
        artifact_uri="file:///models/iris",
        files=(),
        resources=Resources(),
    )


def service(*versions: tuple[int, float, int], digest: str = "a", generation: int = 1) -> WantedService:
    """``versions``: (number, percent, instances)."""
    return WantedService(
        id=1,
        name="iris",
        host="iris-0a1b2c3d.timl.local",
        generation=generation,
        keys=(GatewayKey("iris/default", "secret"),),
        versions=tuple(
            WantedVersion(
                ServiceVersionSpec(version=number, runtime="pmml", instances=count, traffic_percent=percent),
                tuple(instance_spec(number, slot, digest) for slot in range(count)),
            )
            for number, percent, count in versions
        ),
    )


class SimulatedBackend:
    """Carries out plans in their order, with instances that become ready, crash and heal when told."""

    def __init__(self) -> None:
        self.rpc_versions: set[int] = set()
        self.states: dict[str, InstanceState] = {}
        self.versions: dict[str, int] = {}
        self.config = GatewayConfig()

    def list_instances(self) -> list[InstanceStatus]:
        return [
            InstanceStatus(
                name,
                "iris",
                self.versions[name],
                state,
                f"unix:/run/{name}",
                rpc_address=f"rpc:/run/{name}" if self.versions[name] in self.rpc_versions else None,
            )
            for name, state in self.states.items()
        ]

    def carry_out(self, plan: Plan) -> None:
        for spec in plan.start:
            assert spec.id not in self.states, "started twice"
            self.states[spec.id] = InstanceState.STARTING
            self.versions[spec.id] = spec.version
        self.config = plan.config
        served = {a for r in self.config.routes for v in r.versions for a in v.addresses}
        for name in plan.drain:
            assert f"unix:/run/{name}" not in served, "drained while the gateway still sends requests to it"
            del self.states[name]

    def step(self, wanted: Sequence[WantedService]) -> Plan:
        plan = plan_changes(wanted, self.list_instances(), self.config)
        self.carry_out(plan)
        return plan

    def make_ready(self, prefix: str = "") -> None:
        for name in self.states:
            if name.startswith(prefix):
                self.states[name] = InstanceState.READY

    def settle(self, wanted: Sequence[WantedService]) -> None:
        for _ in range(6):
            self.step(wanted)
            self.make_ready()

    def weights(self) -> dict[int, int]:
        (route,) = self.config.routes
        return {version.version: version.weight for version in route.versions if version.weight}

    def status(self) -> GatewayStatus:
        statuses = [status for status in self.list_instances() if status.state is InstanceState.READY]
        ready = {address for status in statuses for address in (status.address, status.rpc_address) if address}
        return GatewayStatus(self.config, frozenset(ready))


@pytest.fixture
def backend() -> SimulatedBackend:
    return SimulatedBackend()


def test_new_service_is_known_to_the_gateway_but_gets_no_request_before_it_is_ready(backend: SimulatedBackend) -> None:
    wanted = [service((1, 100, 1))]
    backend.step(wanted)
    assert backend.weights() == {}
    backend.make_ready()
    backend.step(wanted)
    assert backend.weights() == {1: 10000}


def test_settled_backend_needs_nothing(backend: SimulatedBackend) -> None:
    wanted = [service((1, 90, 2), (2, 10, 1))]
    backend.settle(wanted)
    plan = plan_changes(wanted, backend.list_instances(), backend.config)
    assert plan == Plan(start=(), config=backend.config, drain=())


def test_weights_stay_while_the_version_that_gains_traffic_is_not_ready(backend: SimulatedBackend) -> None:
    backend.settle([service((1, 100, 1))])
    rolled_back = [service((2, 100, 1))]
    backend.step(rolled_back)
    assert backend.weights() == {1: 10000}, "the old version serves on, though no longer wanted"
    assert "iris-v1-a-0" in backend.states
    backend.make_ready()
    backend.step(rolled_back)
    assert backend.weights() == {2: 10000}
    assert "iris-v1-a-0" not in backend.states


def test_old_weights_stay_for_ever_when_the_new_version_never_starts(backend: SimulatedBackend) -> None:
    backend.settle([service((1, 100, 1))])
    for _ in range(3):
        backend.step([service((2, 100, 1))])
        backend.states["iris-v2-a-0"] = InstanceState.FAILED
    assert backend.weights() == {1: 10000}


def test_crashed_instance_keeps_its_place_in_the_gateway(backend: SimulatedBackend) -> None:
    wanted = [service((1, 100, 2))]
    backend.settle(wanted)
    before = backend.config
    backend.states["iris-v1-a-0"] = InstanceState.STARTING
    backend.step(wanted)
    assert backend.config == before


def test_scaling_down_drains_only_what_left_the_gateway(backend: SimulatedBackend) -> None:
    backend.settle([service((1, 100, 3))])
    plan = backend.step([service((1, 100, 1))])
    assert set(plan.drain) == {"iris-v1-a-1", "iris-v1-a-2"}
    assert backend.config.routes[0].versions[0].addresses == ("unix:/run/iris-v1-a-0",)


def test_changed_specification_starts_beside_the_old_one(backend: SimulatedBackend) -> None:
    backend.settle([service((1, 100, 1))])
    changed = [service((1, 100, 1), digest="b")]
    backend.step(changed)
    assert set(backend.states) == {"iris-v1-a-0", "iris-v1-b-0"}
    assert backend.config.routes[0].versions[0].addresses == ("unix:/run/iris-v1-a-0",)
    backend.make_ready()
    backend.step(changed)
    assert set(backend.states) == {"iris-v1-b-0"}


def test_deleted_service_leaves_the_gateway_before_its_instances_end(backend: SimulatedBackend) -> None:
    backend.settle([service((1, 100, 1))])
    plan = backend.step([])
    assert plan.config.routes == ()
    assert plan.drain == ("iris-v1-a-0",)


def test_new_key_changes_the_route_at_once(backend: SimulatedBackend) -> None:
    wanted = service((1, 100, 1))
    backend.settle([wanted])
    rotated = dataclasses.replace(wanted, keys=(*wanted.keys, GatewayKey("iris/second", "other")))
    assert backend.step([rotated]).config.routes[0].keys == rotated.keys


def test_instance_is_in_the_gateway_with_both_sides_or_none(backend: SimulatedBackend) -> None:
    backend.rpc_versions = {1}
    wanted = [service((1, 90, 2), (2, 10, 1))]
    backend.settle(wanted)
    first, second = backend.config.routes[0].versions
    assert first.rpc_addresses == ("rpc:/run/iris-v1-a-0", "rpc:/run/iris-v1-a-1")
    assert second.rpc_addresses == ()
    backend.states["iris-v1-a-0"] = InstanceState.STARTING
    backend.step(wanted)
    assert backend.config.routes[0].versions[0] == first, "a crashed one keeps its place on both sides"
    backend.step([service((2, 0, 1), (3, 100, 1))])
    assert backend.config.routes[0].versions[0] == first, "it serves on, though no longer wanted"


def test_instance_is_ready_when_the_gateway_finds_both_sides_healthy(backend: SimulatedBackend) -> None:
    backend.rpc_versions = {1}
    wanted = service((1, 100, 1))
    backend.settle([wanted])
    statuses = {status.id: status for status in backend.list_instances()}
    one_side = GatewayStatus(backend.config, frozenset({"unix:/run/iris-v1-a-0"}))
    assert build_report(wanted, statuses, one_side, was_in_sync=False).versions[1].ready_instances == 0
    assert build_report(wanted, statuses, backend.status(), was_in_sync=False).in_sync


VERSIONS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3, unique_by=lambda v: v[0])


@st.composite
def wishes(draw: st.DrawFn) -> WantedService:
    chosen = draw(VERSIONS)
    cut = draw(st.integers(0, 100))
    percents = [100.0] if len(chosen) == 1 else [cut, 100.0 - cut, *[0.0] * (len(chosen) - 2)]
    rows = [(number, percent, count) for (number, count), percent in zip(chosen, percents, strict=True)]
    return service(*rows, digest=draw(st.sampled_from("ab")))


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wish"), wishes()), st.tuples(st.sampled_from(["ready", "crash", "step"]), st.integers())
    ),
    max_size=30,
)


@given(EVENTS, wishes())
@settings(max_examples=400, deadline=None)
def test_whatever_happens_a_ready_service_stays_served_and_the_wish_is_reached(
    events: list[tuple[str, object]], last: WantedService
) -> None:
    backend = SimulatedBackend()
    backend.rpc_versions = {1, 3}
    wanted = [service((1, 100, 1))]
    backend.settle(wanted)
    for kind, value in events:
        names = sorted(backend.states)
        if kind == "wish":
            assert isinstance(value, WantedService)
            wanted = [value]
        elif kind == "step":
            backend.step(wanted)
            assert sum(backend.weights().values()) == 10000, "a service that was served must not lose its weights"
            for version in backend.config.routes[0].versions:
                assert not version.weight or version.addresses, "weight on a version without an instance"
                sides = tuple(address.replace("unix", "rpc") for address in version.addresses)
                assert version.rpc_addresses == (sides if version.version in backend.rpc_versions else ())
        elif names:
            assert isinstance(value, int)
            name = names[value % len(names)]
            backend.states[name] = InstanceState.READY if kind == "ready" else InstanceState.STARTING
    backend.settle([last])
    assert plan_changes([last], backend.list_instances(), backend.config) == Plan((), backend.config, ())
    report = build_report(last, {s.id: s for s in backend.list_instances()}, backend.status(), was_in_sync=False)
    assert report.in_sync
    assert report.state is ServiceState.RUNNING


def test_report_tells_progress_from_fault(backend: SimulatedBackend) -> None:
    wanted = service((1, 100, 1), (2, 0, 1))
    backend.step([wanted])

    def report(was_in_sync: bool = False) -> tuple[ServiceState, dict[int, ServiceVersionState]]:
        statuses = {status.id: status for status in backend.list_instances()}
        made = build_report(wanted, statuses, backend.status(), was_in_sync)
        return made.state, {version: seen.state for version, seen in made.versions.items()}

    starting = {1: ServiceVersionState.STARTING, 2: ServiceVersionState.STARTING}
    assert report() == (ServiceState.DEPLOYING, starting)
    assert report(was_in_sync=True) == (ServiceState.DEGRADED, starting)
    backend.settle([wanted])
    assert report()[0] is ServiceState.RUNNING
    backend.states["iris-v2-a-0"] = InstanceState.FAILED
    assert report()[0] is ServiceState.DEGRADED
    backend.states["iris-v1-a-0"] = InstanceState.FAILED
    assert report()[0] is ServiceState.FAILED


def test_instance_that_the_gateway_finds_unhealthy_is_not_ready(backend: SimulatedBackend) -> None:
    wanted = service((1, 100, 1))
    backend.settle([wanted])
    statuses = {status.id: status for status in backend.list_instances()}
    report = build_report(wanted, statuses, GatewayStatus(backend.config, frozenset()), was_in_sync=True)
    assert report.versions[1].ready_instances == 0
    assert not report.in_sync
    assert build_report(wanted, statuses, None, was_in_sync=True).state is ServiceState.DEGRADED
