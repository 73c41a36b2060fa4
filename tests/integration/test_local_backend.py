"""The local backend and its faults: servers that crash, hang, grow or never start, and a gateway that is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

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
from airflow_provider_timl.backends.local.logs import LocalLogs
from airflow_provider_timl.backends.local.unix_http import UnixConnection
from airflow_provider_timl.entities import FileDigest, Resources
from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.settings import Settings
from tests.servers.stack import find_free_port, list_processes, post
from tests.waiting import wait_until

MODEL = Path(__file__).parents[1] / "data" / "pmml_lr" / "LogisticRegressionIris.pmml"
FLOWER = {"instances": [{"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}]}
HOST = "iris-00000000.timl.local"
KEY = GatewayKey("iris/default", "0123456789abcdef")
SPEC = InstanceSpec(
    id="iris-v1-0a1b2c3d-0",
    service="iris",
    version=1,
    runtime="pmml",
    model_names=("m", "iris"),
    artifact_uri="file:///somewhere/iris",
    files=(),
    resources=Resources(),
)


class Machine:
    """A backend over a folder that stands for the artifact; both can be changed while it runs."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(
            data_dir=root / "data",
            database_url="",
            artifact_store="",
            encryption_key="",
            gateway_port=find_free_port(),
            drain_timeout_seconds=5,
        )
        self.model = root / "model"
        self.model.mkdir()
        shutil.copy(MODEL, self.model)
        self.backend = self.restart()

    def restart(self, **changes: float) -> LocalBackend:
        """A new backend, as after a controller was killed: nothing of the old one is asked."""
        settings = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]
        self.backend = LocalBackend(settings, self._fetch)
        self.backend.start()
        return self.backend

    def _fetch(self, _uri: str, _files: Sequence[FileDigest], _target: Path) -> Path:
        return self.model

    def find(self) -> InstanceStatus | None:
        return next(iter(self.backend.list_instances()), None)

    def wait_for(self, state: InstanceState, timeout_seconds: float = 20) -> InstanceStatus:
        def check() -> InstanceStatus | None:
            status = self.find()
            return status if status and status.state is state else None

        return wait_until(check, timeout_seconds=timeout_seconds)

    def list_servers(self) -> list[int]:
        return [process.pid for process in list_processes("runtimes.server", str(self.settings.data_dir))]

    def serve(self, weight: int = 10_000) -> GatewayConfig:
        status = self.wait_for(InstanceState.READY)
        wait_until(lambda: self.backend.get_gateway_status() is not None, timeout_seconds=10)
        route = ServiceRoute("iris", HOST, (KEY,), (VersionRoute(1, weight, (status.address,)),))
        self.backend.publish(GatewayConfig((route,)))
        return GatewayConfig((route,))

    def predict(self, key: str = KEY.secret) -> int:
        return post(self.settings.gateway_port, {"Host": HOST, "Authorization": key}, FLOWER)[0]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.backend.shut_down()


def test_ready_means_that_a_prediction_is_answered(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    machine.serve()
    assert machine.predict() == 200
    assert machine.predict("Bearer " + KEY.secret) == 200
    assert machine.predict("wrong") == 401


def test_server_that_cannot_start_fails_with_its_reason_and_heals_when_it_can(machine: Machine) -> None:
    (machine.model / MODEL.name).unlink()
    machine.backend.ensure_instance(SPEC)
    failed = machine.wait_for(InstanceState.FAILED, 30)
    assert "exited with status 3" in (failed.reason or "")
    assert "exactly one .pmml" in (failed.reason or "")
    shutil.copy(MODEL, machine.model)
    machine.wait_for(InstanceState.READY, 30)
    logs = LocalLogs(machine.settings).read_logs("iris", 1, 10_000)
    assert "exactly one .pmml" in logs[0].text


def test_server_that_grows_beyond_its_memory_is_ended_with_the_figures(machine: Machine) -> None:
    machine.backend.ensure_instance(dataclasses.replace(SPEC, resources=Resources(memory_mb=128)))
    failed = machine.wait_for(InstanceState.FAILED, 30)
    assert "MB of its 128 MB" in (failed.reason or "")


def test_server_that_is_not_ready_in_time_is_ended(machine: Machine) -> None:
    machine.restart(start_timeout_seconds=0.05)
    machine.backend.ensure_instance(SPEC)
    assert "not ready within 0.05 s" in (machine.wait_for(InstanceState.FAILED, 30).reason or "")


def test_hung_server_is_replaced(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    machine.wait_for(InstanceState.READY)
    (hung,) = list_processes("runtimes.server", str(machine.settings.data_dir))
    hung.send_signal(signal.SIGSTOP)
    wait_until(lambda: machine.find() and not hung.is_running(), timeout_seconds=30)
    machine.wait_for(InstanceState.READY)


def test_asking_twice_starts_one_process_and_so_does_a_new_backend(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    machine.backend.ensure_instance(SPEC)
    machine.wait_for(InstanceState.READY)
    before = machine.list_servers()
    machine.restart()
    machine.backend.ensure_instance(SPEC)
    machine.wait_for(InstanceState.READY)
    assert machine.list_servers() == before
    assert len(before) == 1


def test_folder_without_a_process_is_started_by_the_next_backend(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)  # killed before it came to start the process
    machine.restart()
    machine.wait_for(InstanceState.READY)


def test_drain_is_finished_by_the_next_backend(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    status = machine.wait_for(InstanceState.READY)
    connection = UnixConnection(status.address.removeprefix("unix:"), 5)
    connection.connect()
    machine.backend.drain_instance(SPEC.id)
    machine.restart()
    assert machine.wait_for(InstanceState.DRAINING, 5)
    connection.request("POST", "/v1/models/m:predict", json.dumps(FLOWER))
    assert connection.getresponse().status == 200, "what is connected is still answered"
    connection.close()
    wait_until(lambda: not machine.backend.list_instances(), timeout_seconds=10)
    assert not machine.list_servers()


def test_wish_for_more_than_the_machine_has_fails_at_once(machine: Machine) -> None:
    machine.backend.ensure_instance(dataclasses.replace(SPEC, resources=Resources(cpu=1000)))
    assert "1000 CPUs" in (machine.wait_for(InstanceState.FAILED, 5).reason or "")


def test_server_gets_the_processors_it_asked_for_and_no_secret(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret-of-airflow")
    machine.backend.ensure_instance(SPEC)
    machine.wait_for(InstanceState.READY)
    (server,) = list_processes("runtimes.server", str(machine.settings.data_dir))
    assert len(server.cpu_affinity()) == 1
    assert not [name for name in server.environ() if name.startswith("AIRFLOW")]


def test_gateway_refuses_what_is_wrong_and_serves_on(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    config = machine.serve()
    with pytest.raises(InvalidInputError, match="domain"):
        machine.backend.publish(GatewayConfig((*config.routes, *config.routes)))
    assert machine.predict() == 200
    status = machine.backend.get_gateway_status()
    assert status is not None
    assert status.config == config


def test_next_backend_knows_what_the_gateway_serves(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    config = machine.serve()
    machine.restart()
    status = machine.backend.get_gateway_status()
    assert status is not None
    assert status.config == config
    assert status.healthy == frozenset(config.routes[0].versions[0].addresses)


def test_service_without_weight_says_that_nothing_is_ready_but_can_be_pinned(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    machine.serve(weight=0)
    assert machine.predict() == 503
    headers = {"Host": HOST, "Authorization": KEY.secret, "X-TIML-Version": "1"}
    assert post(machine.settings.gateway_port, headers, FLOWER)[0] == 200


def test_changed_listener_means_a_new_gateway(machine: Machine) -> None:
    machine.backend.ensure_instance(SPEC)
    machine.serve()
    machine.settings = dataclasses.replace(machine.settings, gateway_port=find_free_port())
    machine.restart()
    wait_until(lambda: machine.backend.get_gateway_status() is not None, timeout_seconds=10)
    wait_until(lambda: machine.predict() == 200, timeout_seconds=10)
