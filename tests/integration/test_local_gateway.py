"""The gateway with the real Envoy: what callers are answered, how it takes changes over, and that it loses nothing."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from airflow_provider_timl.backends.contract import GatewayConfig, GatewayKey, InstanceState
from airflow_provider_timl.backends.local import gateway as gateway_module
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError
from tests.servers.load import Load, describe
from tests.servers.local import ALL, KEY, LocalMachine, build_host, build_route, publish_for_ever, run_machine
from tests.waiting import wait_until

OTHER_KEY = GatewayKey("iris/other", "fedcba9876543210")
HEALS_WITHIN_SECONDS = 10.0
SERVED_BY = "x-timl-served-by"
SMALL_BODY = 100_000
UPDATES = "/stats?filter=cds.update_success"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMachine]:
    with run_machine(tmp_path, monkeypatch, max_request_bytes=SMALL_BODY, request_timeout_seconds=1.0) as machine:
        yield machine


@pytest.fixture
def iris(machine: LocalMachine) -> tuple[str, ...]:
    """Addresses of the service ``iris``: version 1 has two instances, version 2 (no traffic) one."""
    first, second = machine.start_ready("iris", instances=2), machine.start_ready("iris", version=2)
    machine.publish(build_route("iris", {1: (ALL, first), 2: (0, second)}))
    return (*first, *second)


def load(machine: LocalMachine, key: GatewayKey = KEY, rate: float | None = 200, **options: Any) -> Load:
    headers = {"Host": build_host("iris"), "Authorization": key.secret}
    return Load(machine.settings.gateway_port, headers, {}, clients=4, rate=rate, **options)


def exchange(machine: LocalMachine, sent: bytes) -> tuple[int, dict[str, str], Any]:
    """Send bytes as they are; status, headers and parsed body of the answer."""
    with socket.create_connection(("127.0.0.1", machine.settings.gateway_port), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(body)


# what callers are answered


@pytest.mark.usefixtures("iris")
@pytest.mark.parametrize("form", ["{}", "Bearer {}"])
def test_key_is_accepted_in_both_forms_and_any_case_of_the_host(machine: LocalMachine, form: str) -> None:
    status, headers, _ = machine.call(Authorization=form.format(KEY.secret), Host=build_host("IRIS").upper() + ":80")
    assert (status, headers[SERVED_BY]) == (200, "iris/v1")


@pytest.mark.usefixtures("iris")
@pytest.mark.parametrize(
    ("headers", "expected", "words"),
    [
        ({"Authorization": "wrong"}, 401, "header Authorization"),
        ({"Authorization": ""}, 401, "header Authorization"),
        ({"Authorization": f"Basic {KEY.secret}"}, 401, "header Authorization"),
        ({"Authorization": "wrong", "X_TIML_Version": "9"}, 401, "header Authorization"),
        ({"Host": "nobody.timl.local"}, 404, "no service at this host"),
        ({"Host": "nobody.timl.local", "Authorization": "wrong"}, 404, "no service at this host"),
        ({"X_TIML_Version": "9"}, 404, "this service has no version 9; its versions: 1, 2"),
        ({"X_TIML_Version": '"x'}, 404, 'no version "x;'),
    ],
)
def test_refusal_says_in_json_what_to_do(
    machine: LocalMachine, headers: dict[str, str], expected: int, words: str
) -> None:
    status, answered, body = machine.call(**headers)
    assert (status, answered["content-type"]) == (expected, "application/json")
    assert body.keys() == {"error"}
    assert words in body["error"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", 431),
    ],
)
def test_malformed_request_is_told_so_in_json(machine: LocalMachine, sent: bytes, expected: int) -> None:
    wait_until(machine.backend.get_gateway_status, timeout_seconds=10)
    status, headers, body = exchange(machine, sent)
    assert (status, headers["content-type"]) == (expected, "application/json")
    assert len(body["error"]) > 20


@pytest.mark.usefixtures("iris")
@pytest.mark.parametrize("chunked", [False, True])
def test_body_above_the_limit_is_refused_with_the_limit(machine: LocalMachine, chunked: bool) -> None:
    assert machine.call(b" " * (SMALL_BODY - 2) + b"{}")[0] == 200
    host = f"Host: {build_host('iris')}\r\nAuthorization: {KEY.secret}\r\n"
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SMALL_BODY + 1}"
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (SMALL_BODY + 1, b" " * (SMALL_BODY + 1)) if chunked else b" " * (SMALL_BODY + 1)
    sent = f"POST /v1/models/m:predict HTTP/1.1\r\n{host}{length}\r\n\r\n".encode() + body
    status, _, answer = exchange(machine, sent)
    assert (status, str(SMALL_BODY) in answer["error"]) == (413, True)


@pytest.mark.usefixtures("iris")
def test_slow_prediction_is_given_up_in_time(machine: LocalMachine) -> None:
    status, _, body = machine.call({"seconds": 3})
    assert (status, body["error"]) == (504, "the model did not answer within 1 s")


@pytest.mark.usefixtures("iris")
def test_errors_of_the_model_server_pass_as_they_are(machine: LocalMachine) -> None:
    status, headers, body = machine.call(b"{")
    assert (status, body["error"], headers[SERVED_BY]) == (400, "the body is not JSON", "iris/v1")


@pytest.mark.usefixtures("iris")
def test_pinned_version_answers_without_traffic(machine: LocalMachine) -> None:
    assert {machine.call()[1][SERVED_BY] for _ in range(20)} == {"iris/v1"}
    assert machine.call(X_TIML_Version="2")[1][SERVED_BY] == "iris/v2"
    assert machine.call(X_TIML_Version="1")[1][SERVED_BY] == "iris/v1"


def test_service_without_a_ready_instance_says_so(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    machine.publish(build_route("iris", {1: (0, iris[:2])}))
    status, _, body = machine.call()
    assert (status, "ready" in body["error"]) == (503, True)
    for name in [status.id for status in machine.backend.list_instances()]:
        machine.backend.drain_instance(name)
    wait_until(lambda: not machine.backend.list_instances(), timeout_seconds=10)
    status, headers, body = machine.call(X_TIML_Version="1")
    assert (status, body["error"]) == (503, "no instance of this service is ready; try again shortly")
    assert headers["content-type"] == "application/json"


def test_service_without_keys_refuses_everybody(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    machine.publish(build_route("iris", {1: (ALL, iris[:2])}, keys=()))
    assert machine.call()[0] == 401
    assert machine.call(Authorization="")[0] == 401


def test_key_stays_at_the_gateway_and_callers_cannot_pretend(machine: LocalMachine, tmp_path: Path) -> None:
    with EchoServer(tmp_path / "echo.sock") as echo:
        machine.publish(build_route("iris", {1: (ALL, (f"unix:{tmp_path / 'echo.sock'}",))}))
        forged = {"X_TIML_Client": "somebody", "X_Envoy_Retry_On": "5xx", "X_Envoy_Whatever": "1"}
        status, headers, _ = machine.call(**forged)
        assert (status, headers[SERVED_BY]) == (200, "iris/v1"), "what the server says of itself does not count"
        assert b"x-timl-client: iris/default" in echo.seen[-1].lower()
        for absent in (KEY.secret.encode(), b"authorization", b"somebody", b"x-envoy-retry-on", b"x-envoy-whatever"):
            assert absent not in echo.seen[-1].lower()


class EchoServer:
    """Answers everything with 200 over a Unix socket and keeps the heads of predictions."""

    def __init__(self, path: Path) -> None:
        self.seen: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> EchoServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (chunk := connection.recv(65536)):
                    head += chunk
                if b":predict" in head:
                    self.seen.append(head)
                answer = (
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-timl-served-by: forged\r\nconnection: close\r\n\r\n{}"
                )
                connection.sendall(answer)


# taking changes over


def test_refused_configuration_leaves_the_one_before(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    good = build_route("iris", {1: (ALL, iris[:2])})
    config = machine.publish(good)
    doubled_key = replace(good, keys=(KEY, KEY))
    unbalanced = build_route("iris", {1: (2**31, iris[:1]), 2: (2**31, iris[2:])})
    for wrong in ((good, good), (doubled_key,), (unbalanced,)):
        with pytest.raises(InvalidInputError, match="refuse"):
            machine.backend.publish(GatewayConfig(wrong))
        status = machine.backend.get_gateway_status()
        assert status is not None
        assert status.config == config
        assert machine.call()[0] == 200


def test_traffic_is_not_moved_to_an_instance_that_is_not_there(
    machine: LocalMachine, iris: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "_HEALTHY_SECONDS", 1.0)
    nobody = f"unix:{machine.settings.run_dir / 'nobody.sock'}"
    with (
        load(machine) as clients,
        pytest.raises(ExternalSystemError, match="does not find the instances healthy"),
    ):
        machine.publish(build_route("iris", {1: (0, iris[:2]), 2: (ALL, (nobody,))}))
    assert not clients.failures, describe(clients.failures)
    assert set(clients.served_by) == {"iris/v1"}


def test_unchanged_parts_are_not_written(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    def get_changed(before: dict[str, int]) -> set[str]:
        return {name for name, when in get_times().items() if before[name] != when}

    def get_times() -> dict[str, int]:
        folder = machine.settings.data_dir / "gateway"
        return {name: (folder / name).stat().st_mtime_ns for name in ("lds.json", "rds.json", "cds.json")}

    config = build_route("iris", {1: (ALL, iris[:2]), 2: (0, iris[2:])})
    start = get_times()
    machine.publish(config)
    assert get_changed(start) == set()
    machine.publish(replace(config, keys=(KEY, OTHER_KEY)))
    assert get_changed(start) == {"rds.json"}
    before = get_times()
    machine.publish(replace(build_route("iris", {1: (ALL, iris[:1]), 2: (0, iris[2:])}), keys=(KEY, OTHER_KEY)))
    assert get_changed(before) == {"cds.json"}


@pytest.mark.parametrize("step", ["_wait_for_healthy", "_publish_routes", "_apply"])
def test_publish_that_was_cut_off_is_undone_by_the_next_backend(
    machine: LocalMachine, iris: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = build_route("iris", {1: (ALL, iris[:1])})
    config = machine.publish(before)

    def be_killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gateway_module.LocalGateway, step, be_killed)
        with pytest.raises(KeyboardInterrupt):
            machine.backend.publish(GatewayConfig((build_route("iris", {1: (0, iris[:2]), 2: (ALL, iris[2:])}),)))
    machine.restart()
    status = wait_until(machine.backend.get_gateway_status, timeout_seconds=10)
    assert status.config == config
    wait_until(lambda: list_known_addresses(machine) == {iris[0]}, timeout_seconds=5)
    assert machine.call()[1][SERVED_BY] == "iris/v1"


def list_known_addresses(machine: LocalMachine) -> set[str]:
    clusters = json.loads(machine.ask_gateway("/clusters?format=json"))["cluster_statuses"]
    return {f"unix:{host['address']['pipe']['path']}" for cluster in clusters for host in cluster["host_statuses"]}


def test_lost_memory_of_what_was_published_loses_no_request(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    config = machine.publish(build_route("iris", {1: (ALL, iris[:2])}))
    with load(machine) as clients:
        (machine.settings.data_dir / "gateway" / "published.json").write_text('{"')
        machine.restart()
        machine.publish(*config.routes)
    assert not clients.failures, describe(clients.failures)
    status = machine.backend.get_gateway_status()
    assert status is not None
    assert status.config == config


def test_changed_settings_are_served_without_a_lost_request(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    envoy = machine.get_envoy()
    with load(machine) as clients:
        machine.restart(request_timeout_seconds=0.5, max_request_bytes=SMALL_BODY // 2)
        wait_until(machine.backend.get_gateway_status, timeout_seconds=10)
        wait_until(lambda: machine.call(b"{}" + b" " * (SMALL_BODY // 2))[0] == 413, timeout_seconds=5)
        assert machine.call({"seconds": 0.8}, X_TIML_Version="2")[2]["error"] == "the model did not answer within 0.5 s"
    assert not clients.failures, describe(clients.failures)
    assert machine.get_envoy() == envoy


def test_two_gateways_do_not_share_a_port(
    machine: LocalMachine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wait_until(machine.backend.get_gateway_status, timeout_seconds=10)
    second = LocalMachine(tmp_path / "second", gateway_port=machine.settings.gateway_port)
    try:
        wait_until(
            lambda: not second.backend.get_gateway_status() and "cannot listen" in caplog.text, timeout_seconds=10
        )
        assert "Address already in use" in caplog.text
        with pytest.raises(ExternalSystemError, match="cannot listen"):
            second.backend.publish(GatewayConfig((build_route("iris", {}),)))
        machine.backend.shut_down()
        wait_until(second.backend.get_gateway_status, timeout_seconds=10)
    finally:
        second.close()
        machine.restart()


# splitting and losing nothing


def test_split_of_some_thousand_requests_is_within_a_point(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    machine.publish(build_route("iris", {1: (9_000, iris[:2]), 2: (1_000, iris[2:])}))
    with load(machine, rate=None, most=8_000) as clients:
        pass
    assert not clients.failures, describe(clients.failures)
    assert clients.share("iris/v2") == pytest.approx(10, abs=1)


def test_no_request_is_lost_while_instances_weights_keys_and_backends_change(machine: LocalMachine) -> None:
    (first,) = machine.start_ready("iris")
    machine.publish(build_route("iris", {1: (ALL, (first,))}))
    slots = itertools.count(1)
    with load(machine) as clients:
        for turn in range(4):
            two = (first, machine.wait_for(machine.ensure("iris", slot=next(slots)), InstanceState.READY).address)
            second = machine.start_ready("iris", version=2 + turn)
            machine.publish(build_route("iris", {1: (ALL, two), 2 + turn: (0, second)}, keys=(KEY, OTHER_KEY)))
            for weight in (5_000, ALL, 1, 9_000):
                machine.publish(build_route("iris", {1: (ALL - weight, two), 2 + turn: (weight, second)}))
            machine.restart()
            machine.publish(build_route("iris", {1: (ALL, (first,))}))
            for status in machine.backend.list_instances():
                if status.address != first:
                    machine.backend.drain_instance(status.id)
            wait_until(lambda: len(machine.backend.list_instances()) == 1, timeout_seconds=10)
    print(f"{clients.count} requests, served by {dict(clients.served_by)}")
    assert not clients.failures, describe(clients.failures)
    assert {"iris/v1", "iris/v2", "iris/v3", "iris/v4", "iris/v5"} == set(clients.served_by)


def test_rotated_key_is_valid_and_removed_one_is_not_once_published(
    machine: LocalMachine, iris: tuple[str, ...]
) -> None:
    route = build_route("iris", {1: (ALL, iris[:2])})
    with load(machine, OTHER_KEY, rate=100) as refused, load(machine, rate=100) as clients:
        wait_until(lambda: refused.count > 10, timeout_seconds=5)
        assert len(refused.failures) == refused.count
        machine.publish(replace(route, keys=(KEY, OTHER_KEY)))
        assert machine.call(Authorization=OTHER_KEY.secret)[0] == 200
    assert not clients.failures, describe(clients.failures)
    machine.publish(replace(route, keys=(OTHER_KEY,)))
    assert machine.call()[0] == 401


def test_killed_instances_of_a_pair_lose_no_request(machine: LocalMachine) -> None:
    machine.publish(build_route("iris", {1: (ALL, machine.start_ready("iris", instances=2))}))

    def are_both_healthy() -> bool:
        ready = [status.state is InstanceState.READY for status in machine.backend.list_instances()]
        status = machine.backend.get_gateway_status()
        return all(ready) and status is not None and len(status.healthy) == 2

    with load(machine, rate=300) as clients:
        for turn in range(8):
            restarts = sum(status.restarts for status in machine.backend.list_instances())
            machine.list_servers()[turn % 2].kill()
            wait_until(
                lambda restarts=restarts: sum(s.restarts for s in machine.backend.list_instances()) > restarts,
                timeout_seconds=5,
            )
            wait_until(are_both_healthy, timeout_seconds=HEALS_WITHIN_SECONDS)
    assert not clients.failures, describe(clients.failures)


# Envoy itself


def test_killed_gateway_serves_again_by_itself(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    config = machine.publish(build_route("iris", {1: (0, iris[:2]), 2: (ALL, iris[2:])}))
    machine.get_envoy().kill()
    status = wait_until(machine.backend.get_gateway_status, timeout_seconds=HEALS_WITHIN_SECONDS)
    assert status.config == config
    wait_until(lambda: machine.call()[0] == 200, timeout_seconds=HEALS_WITHIN_SECONDS)
    assert machine.call()[1][SERVED_BY] == "iris/v2"


@pytest.mark.usefixtures("iris")
def test_hung_gateway_is_replaced(machine: LocalMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "_HUNG_SECONDS", 1.0)
    envoy = machine.get_envoy()
    envoy.send_signal(signal.SIGSTOP)
    assert wait_until(machine.backend.get_gateway_status, timeout_seconds=20)
    assert not envoy.is_running()
    wait_until(lambda: machine.call()[0] == 200, timeout_seconds=HEALS_WITHIN_SECONDS)


def test_keys_are_in_private_files_only(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    machine.publish(build_route("iris", {1: (ALL, iris[:1])}))
    machine.call()
    root = machine.settings.data_dir
    holders = [path for path in root.rglob("*") if path.is_file() and KEY.secret in path.read_text(errors="replace")]
    assert {path.name for path in holders} == {"rds.json", "published.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert KEY.secret.encode() not in machine.ask_gateway("/config_dump")
    assert stat.S_IMODE(os.stat(machine.settings.run_dir / "admin.sock").st_mode) == 0o600


def test_controller_killed_anywhere_in_a_publish_loses_nothing(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    """Another process publishes one configuration after the other until it is killed; then the next backend looks."""
    configs = (
        GatewayConfig((build_route("iris", {1: (ALL, iris[:1])}),)),
        GatewayConfig((build_route("iris", {1: (5_000, iris[:2]), 2: (5_000, iris[2:])}),)),
    )
    chance = Random(7)
    with load(machine) as clients:
        for _ in range(6):
            publisher = multiprocessing.get_context("spawn").Process(
                target=publish_for_ever, args=(machine.settings, configs)
            )
            served = machine.ask_gateway(UPDATES)
            publisher.start()
            wait_until(lambda served=served: machine.ask_gateway(UPDATES) != served, timeout_seconds=20)
            publisher.join(chance.uniform(0, 0.3))
            publisher.kill()
            publisher.join()
            machine.restart()
            status = wait_until(machine.backend.get_gateway_status, timeout_seconds=5)
            assert status.config in configs
            wait_until(
                lambda status=status: list_known_addresses(machine) == set(list_addresses(status.config)),
                timeout_seconds=5,
            )
    assert not clients.failures, describe(clients.failures)


def list_addresses(config: GatewayConfig) -> list[str]:
    return [address for route in config.routes for version in route.versions for address in version.addresses]
