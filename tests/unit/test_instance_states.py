"""An instance between its failures: which state it is in, and when it is started again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_provider_timl.backends.contract import InstanceSpec, InstanceState
from airflow_provider_timl.backends.local import instance as instance_module
from airflow_provider_timl.backends.local import machine
from airflow_provider_timl.backends.local.instance import Instance
from airflow_provider_timl.entities import Resources

SPEC = InstanceSpec("iris-v1-0a1b2c3d-0", "iris", 1, "pmml", {}, ("m",), "file:///iris", (), Resources())


@dataclass
class Clock:
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(instance_module, "time", clock)
    return clock


@pytest.fixture
def instance() -> Instance:
    return Instance(SPEC, Path("/data/instances/iris"), Path("/data/run/iris.sock"))


def test_pauses_between_starts_grow_to_half_a_minute(clock: Clock, instance: Instance) -> None:
    pauses = []
    for _ in range(11):
        instance.note_failure("it crashed")
        pauses.append(instance.start_at - clock.now)
    assert pauses == [0, 0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert instance.restarts == 11


def test_it_is_failed_after_three_bad_starts_in_a_row_and_ready_when_it_is(clock: Clock, instance: Instance) -> None:
    states = []
    for _ in range(3):
        instance.note_failure("it crashed")
        states.append(instance.get_status().state)
    assert states == [InstanceState.STARTING, InstanceState.STARTING, InstanceState.FAILED]
    assert instance.get_status().reason == "it crashed"
    instance.note_ready()
    assert (instance.get_status().state, instance.get_status().reason) == (InstanceState.READY, None)


@pytest.mark.parametrize(("ready_seconds", "pause"), [(59.0, 0.25), (61.0, 0.0)])
def test_failures_are_forgotten_after_a_minute_of_readiness(
    clock: Clock, instance: Instance, ready_seconds: float, pause: float
) -> None:
    instance.note_failure("it crashed")
    instance.note_ready()
    clock.now += ready_seconds
    instance.note_ready()
    instance.note_failure("it crashed again")
    assert instance.start_at - clock.now == pause


def test_what_cannot_heal_soon_is_failed_at_once_and_tried_rarely(clock: Clock, instance: Instance) -> None:
    instance.note_failure("it wants 8 GPUs", lasting=True)
    assert instance.get_status().state is InstanceState.FAILED
    assert instance.start_at - clock.now == 30


@pytest.mark.parametrize(
    ("cpu", "used", "chosen"),
    [
        (1.0, [], [0]),
        (0.5, [[0]], [1]),
        (1.5, [[0], [1]], [2, 3]),
        (2.0, [[0, 1], [2]], [3, 0]),
        (4.0, [[0, 1, 2, 3]], [0, 1, 2, 3]),
    ],
)
def test_processors_that_the_fewest_use_are_chosen(
    monkeypatch: pytest.MonkeyPatch, cpu: float, used: list[list[int]], chosen: list[int]
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert machine.choose_cpus(cpu, used) == chosen


def test_a_device_is_given_to_one_instance_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "list_gpus", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    assert machine.choose_gpus(0, ["GPU-a"]) == []
    assert machine.choose_gpus(2, ["GPU-b"]) == ["GPU-a", "GPU-c"]
    assert machine.choose_gpus(2, ["GPU-a", "GPU-b"]) is None
