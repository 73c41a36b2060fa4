"""What every backend promises the controller (``backends.contract.Backend``); each backend runs the same suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_timl.backends.contract import GatewayConfig, InstanceState
from airflow_provider_timl.exceptions import InvalidInputError
from tests.servers.local import ALL, LocalMachine, build_route, run_machine
from tests.waiting import wait_until


@pytest.fixture(params=["local"])
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMachine]:
    with run_machine(tmp_path, monkeypatch) as machine:
        yield machine


def test_nothing_runs_and_nothing_is_served_at_first(machine: LocalMachine) -> None:
    assert machine.backend.list_instances() == []
    status = wait_until(machine.backend.get_gateway_status, timeout_seconds=10)
    assert (status.config, status.healthy) == (GatewayConfig(), frozenset())
    assert machine.call()[0] == 404


def test_ensured_instance_is_starting_at_once_and_ready_later(machine: LocalMachine) -> None:
    name = machine.ensure("iris")
    first = machine.get(name)
    assert (first.service, first.version, first.state) == ("iris", 1, InstanceState.STARTING)
    ready = machine.wait_for(name, InstanceState.READY)
    assert (ready.address, ready.restarts, ready.reason) == (first.address, 0, None)


def test_ensuring_again_changes_nothing(machine: LocalMachine) -> None:
    name = machine.ensure("iris")
    before = machine.wait_for(name, InstanceState.READY)
    assert machine.ensure("iris") == name
    machine.restart()
    machine.ensure("iris")
    after = machine.wait_for(name, InstanceState.READY)
    assert (after.address, after.restarts) == (before.address, 0)
    assert len(machine.list_servers()) == 1


def test_publish_returns_when_the_gateway_itself_serves_it(machine: LocalMachine) -> None:
    first, second = machine.start_ready("iris"), machine.start_ready("iris", version=2)
    for serving in (1, 2) * 5:
        weights = {1: (ALL if serving == 1 else 0, first), 2: (ALL if serving == 2 else 0, second)}
        config = machine.publish(build_route("iris", weights))
        assert {machine.call()[1]["x-timl-served-by"] for _ in range(10)} == {f"iris/v{serving}"}
        status = machine.backend.get_gateway_status()
        assert status is not None
        assert status.config == config
        assert {*first, *second} == set(status.healthy)


def test_refused_configuration_is_an_error_of_the_caller_and_changes_nothing(machine: LocalMachine) -> None:
    route = build_route("iris", {1: (ALL, machine.start_ready("iris"))})
    config = machine.publish(route)
    with pytest.raises(InvalidInputError):
        machine.backend.publish(GatewayConfig((route, route)))
    status = machine.backend.get_gateway_status()
    assert status is not None
    assert status.config == config
    assert machine.call()[0] == 200


def test_drained_instance_is_draining_and_then_gone_and_may_be_wanted_again(machine: LocalMachine) -> None:
    name = machine.ensure("iris")
    machine.wait_for(name, InstanceState.READY)
    machine.backend.drain_instance(name)
    machine.backend.drain_instance(name)
    assert {status.state for status in machine.backend.list_instances()} <= {InstanceState.DRAINING}
    wait_until(lambda: not machine.backend.list_instances(), timeout_seconds=10)
    machine.ensure("iris")
    machine.wait_for(name, InstanceState.READY)


def test_next_backend_continues_where_the_one_before_was_killed(machine: LocalMachine) -> None:
    config = machine.publish(build_route("iris", {1: (ALL, machine.start_ready("iris"))}))
    draining = machine.start_ready("iris", version=2)
    machine.backend.drain_instance("iris-v2-0a1b2c3d-0")
    starting = machine.ensure("iris", version=3)
    machine.restart()
    machine.wait_for(starting, InstanceState.READY)
    assert machine.wait_for("iris-v1-0a1b2c3d-0", InstanceState.READY).restarts == 0
    wait_until(
        lambda: draining[0] not in {status.address for status in machine.backend.list_instances()}, timeout_seconds=10
    )
    status = machine.backend.get_gateway_status()
    assert status is not None
    assert status.config == config


def test_stopped_backend_leaves_everything_running(machine: LocalMachine) -> None:
    machine.publish(build_route("iris", {1: (ALL, machine.start_ready("iris"))}))
    machine.backend.stop()
    assert machine.call()[0] == 200
    machine.restart()


def test_shut_down_ends_everything(machine: LocalMachine) -> None:
    machine.publish(build_route("iris", {1: (ALL, machine.start_ready("iris"))}))
    machine.backend.shut_down()
    assert not machine.list_servers()
    with pytest.raises(ConnectionRefusedError):
        machine.call()
    machine.restart()
    assert machine.backend.list_instances() == []
