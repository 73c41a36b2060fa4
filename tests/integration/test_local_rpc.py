"""gRPC through the real Envoy to real model servers: what callers are answered, and that nothing is lost."""

from __future__ import annotations

import itertools
import json
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from airflow_provider_timl.backends.contract import InstanceState
from airflow_provider_timl.backends.local.unix_http import UnixConnection
from airflow_provider_timl.exceptions import (
    ExternalSystemError,
    InvalidInputError,
    TimeoutExpiredError,
    TooLargeError,
    UnauthorizedError,
)
from airflow_provider_timl.hooks.prediction import PredictionHook
from airflow_provider_timl.hooks.tensor_messages import build_request
from airflow_provider_timl.runtimes import rpc_messages
from tests.servers.load import describe
from tests.servers.local import ALL, KEY, LocalMachine, build_host, build_route, run_machine
from tests.servers.rpc import (
    GET_STATUS,
    PREDICT,
    ControlPlane,
    RpcAnswer,
    RpcLoad,
    build_faults,
    call,
    open_channel,
    open_hook,
)
from tests.waiting import wait_until

LIMIT = 16 * 1024 * 1024
HEALS_WITHIN_SECONDS = 10.0
Code = grpc.StatusCode


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMachine]:
    with run_machine(tmp_path, monkeypatch, max_request_bytes=LIMIT, request_timeout_seconds=4.0) as machine:
        yield machine


@pytest.fixture
def iris(machine: LocalMachine) -> tuple[str, ...]:
    """Addresses of the service ``iris``: version 1 has all traffic, version 2 none, version 3 no gRPC."""
    addresses = [*machine.start_ready("iris", runtime="faulty-rpc")]
    addresses += machine.start_ready("iris", version=2, runtime="faulty-rpc")
    addresses += machine.start_ready("iris", version=3)
    machine.publish(build_route("iris", {n + 1: (0 if n else ALL, (address,)) for n, address in enumerate(addresses)}))
    return tuple(addresses)


@pytest.fixture
def channel(machine: LocalMachine) -> Iterator[grpc.Channel]:
    with open_channel(f"127.0.0.1:{machine.settings.gateway_port}", build_host("iris")) as channel:
        yield channel


def load(machine: LocalMachine, rate: float | None = 200, **options: Any) -> RpcLoad:
    return RpcLoad(machine.settings.gateway_port, {}, {}, clients=4, rate=rate, **options)


# what callers are answered


@pytest.mark.usefixtures("iris")
def test_arrays_come_back_as_they_were_sent(channel: grpc.Channel) -> None:
    large = np.random.default_rng(7).standard_normal((1280, 1024))  # 10 MB
    sent = {"large": large, "words": np.array(["", "花"], object), "half": np.float16([[1.5]])}
    answer = call(channel, build_request("iris", "", sent))
    assert (answer.code, answer.served_by) == (Code.OK, "iris/v1"), answer.details
    np.testing.assert_array_equal(answer.outputs["large"], large)
    assert answer.outputs["words"].tolist() == [b"", "花".encode()]
    assert answer.outputs["half"].dtype == np.float16


@pytest.mark.usefixtures("iris")
@pytest.mark.parametrize(
    ("metadata", "code", "words"),
    [
        (
            {"authorization": "wrong"},
            Code.UNAUTHENTICATED,
            "the access key is missing or wrong; send it in the header Au",
        ),
        ({"x_timl_version": "9"}, Code.NOT_FOUND, "this service has no version 9; its versions: 1, 2, 3"),
        ({"x_timl_version": "3"}, Code.UNIMPLEMENTED, "this model is not served by gRPC; use REST"),
    ],
)
def test_refusal_is_a_status_and_a_sentence(
    channel: grpc.Channel, metadata: dict[str, str], code: grpc.StatusCode, words: str
) -> None:
    answer = call(channel, build_faults(), **metadata)
    assert (answer.code, answer.details[: len(words)]) == (code, words)


@pytest.mark.usefixtures("iris")
def test_unknown_host_is_not_found(machine: LocalMachine) -> None:
    with open_channel(f"127.0.0.1:{machine.settings.gateway_port}", "nobody.timl.local") as channel:
        answer = call(channel, build_faults())
    assert (answer.code, answer.details[:34]) == (Code.NOT_FOUND, "there is no service at this host; ")


@pytest.mark.usefixtures("iris")
def test_errors_of_the_model_server_name_the_field(channel: grpc.Channel) -> None:
    def ask(message: bytes, method: str = PREDICT) -> tuple[grpc.StatusCode, str]:
        answer = call(channel, message, method)
        return answer.code, answer.details

    unknown = "there is no model 'rose' here; this service answers to m, iris"
    labelled = b"\x0a\x06\x0a\x01m\x22\x01x"
    assert ask(build_faults("rose")) == (Code.NOT_FOUND, unknown)
    assert ask(b"") == (Code.INVALID_ARGUMENT, "model_spec: is missing; its name says which model is meant")
    assert ask(b"\xff") == (Code.INVALID_ARGUMENT, "the request is not the message that this method takes")
    assert ask(labelled)[0] is Code.INVALID_ARGUMENT
    assert ask(b"\x0a\x07\x0a\x01m\x12\x02\x08\x05") == (
        Code.NOT_FOUND,
        "there is no version '5' here; this is version 1",
    )
    assert ask(build_request("m", "", {"faults": ["{"]})) == (Code.INVALID_ARGUMENT, "the body is not JSON")


@pytest.mark.usefixtures("iris")
def test_status_of_the_model_and_what_there_is_not(channel: grpc.Channel) -> None:
    spec = b"\x0a\x03\x0a\x01m"
    assert call(channel, spec, GET_STATUS).content == rpc_messages.build_status(1)
    assert call(channel, spec, GET_STATUS, x_timl_version="2").content == rpc_messages.build_status(2)
    assert call(channel, b"\x0a\x03\x0a\x01x", GET_STATUS).code is Code.NOT_FOUND
    reload = call(channel, b"", "/tensorflow.serving.ModelService/HandleReloadConfigRequest")
    assert (reload.code, "control plane" in reload.details) == (Code.UNIMPLEMENTED, True)
    assert call(channel, b"", "/tensorflow.serving.SessionService/SessionRun").code is Code.UNIMPLEMENTED
    assert call(channel, b"", "/grpc.health.v1.Health/Check").content == rpc_messages.SERVING


@pytest.mark.usefixtures("iris")
def test_message_above_the_limit_is_told_the_limit(channel: grpc.Channel) -> None:
    answer = call(channel, build_request("m", "", {"x": np.zeros(LIMIT, np.uint8)}))
    assert (answer.code, str(LIMIT) in answer.details) == (Code.RESOURCE_EXHAUSTED, True), answer.details
    assert answer.trailers["x-timl-reason"] == "too_large"


@pytest.mark.usefixtures("iris")
def test_slow_prediction_is_given_up_in_time(channel: grpc.Channel) -> None:
    answer = call(channel, build_faults(seconds=5))
    assert (answer.code, answer.details) == (Code.DEADLINE_EXCEEDED, "the model did not answer within 4 s")


def test_deadline_and_cancellation_free_the_place_in_the_queue(iris: tuple[str, ...], channel: grpc.Channel) -> None:
    def count_waiting() -> float:
        return read_metric(iris[0], "timl_requests_in_flight")

    before = read_metric(iris[0], "timl_requests_total")
    assert call(channel, build_faults(seconds=1), timeout_seconds=0.3).code is Code.DEADLINE_EXCEEDED
    wait_until(lambda: count_waiting() == 0, timeout_seconds=0.6)
    metadata = (("authorization", KEY.secret),)
    under_way = channel.unary_unary(PREDICT).future(build_faults(seconds=1), metadata=metadata)
    wait_until(lambda: count_waiting() == 1, timeout_seconds=5)
    under_way.cancel()
    wait_until(lambda: count_waiting() == 0, timeout_seconds=0.6)
    assert read_metric(iris[0], "timl_requests_total") == before
    assert call(channel, build_faults()).code is Code.OK
    assert read_metric(iris[0], "timl_requests_total") == before + 1


def read_metric(address: str, name: str) -> float:
    """Summed over its labels, as the model server at the address says."""
    connection = UnixConnection(address.removeprefix("unix:"), 5)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def test_full_queue_is_told_and_the_others_are_answered(iris: tuple[str, ...], channel: grpc.Channel) -> None:
    """One runs long, so that the others wait."""
    predict = partial(channel.unary_unary(PREDICT).future, metadata=(("authorization", KEY.secret),))
    first = predict(build_faults(seconds=2))
    wait_until(lambda: read_metric(iris[0], "timl_requests_in_flight") == 1, timeout_seconds=5)
    others = Counter(each.code() for each in [predict(build_faults()) for _ in range(400)])
    assert first.code() is Code.OK
    assert others.keys() == {Code.OK, Code.RESOURCE_EXHAUSTED}
    assert others[Code.OK] >= 255, "as many as wait beside the first"


def test_sockets_are_private_and_go_with_the_instance(machine: LocalMachine, iris: tuple[str, ...]) -> None:
    sockets = list(machine.settings.run_dir.glob("*.rpc"))
    assert len(sockets) == 2
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in sockets} == {0o600}
    machine.publish(build_route("iris", {3: (ALL, iris[2:])}))
    for status in machine.backend.list_instances():
        machine.backend.drain_instance(status.id)
    wait_until(lambda: not machine.backend.list_instances(), timeout_seconds=10)
    assert not list(machine.settings.run_dir.glob("*.rpc"))


# the hook


@pytest.fixture
def hook(machine: LocalMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[PredictionHook]:
    with open_hook(machine, monkeypatch) as hook:
        yield hook


@pytest.mark.usefixtures("iris")
def test_hook_predicts_arrays_by_grpc_and_rows_by_rest(hook: PredictionHook) -> None:
    large = np.random.default_rng(7).standard_normal(1_310_720)  # 10 MB
    outputs = hook.predict_rpc({"large": large, "words": ["a"]})
    np.testing.assert_array_equal(outputs["large"], large)
    assert outputs["words"].tolist() == [b"a"]
    (first,), (second,) = outputs["pid"], hook.predict_rpc({}, version=2)["pid"]
    assert first != second
    example = [{"x": 1}]
    by_rest = [hook.predict(instances=example, version=2), hook.classify(examples=example, version=2)]
    by_rest.append(hook.regress(examples=example, signature_name="r", version=2))
    assert {answer["pid"] for answer in by_rest} == {second}
    hook.close()
    assert hook.predict_rpc({})["pid"] == first, "closed hooks connect anew"
    assert KEY.secret not in repr(vars(hook))


@pytest.mark.usefixtures("iris")
def test_hook_raises_the_same_errors_by_grpc_as_by_rest(hook: PredictionHook, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(version: int | None = None, **faults: Any) -> object:
        return hook.predict_rpc({"faults": [json.dumps(faults)]}, version=version)

    with pytest.raises(TimeoutExpiredError, match="within 4 s"):
        predict(seconds=5)
    with pytest.raises(InvalidInputError, match="the body is not JSON"):
        hook.predict_rpc({"faults": ["{"]})
    with pytest.raises(TooLargeError, match=str(LIMIT)):
        hook.predict_rpc({"x": np.zeros(LIMIT, np.uint8)})
    with pytest.raises(ExternalSystemError, match="has no version 9"):
        predict(version=9)
    hook.close()
    monkeypatch.setattr(ControlPlane, "key", "wrong")
    with pytest.raises(UnauthorizedError, match="access key is missing or wrong"):
        predict()


# versions


def test_pin_by_metadata_and_split_by_weight_among_those_with_rpc(
    machine: LocalMachine, iris: tuple[str, ...], channel: grpc.Channel
) -> None:
    assert call(channel, build_faults(), x_timl_version="2").served_by == "iris/v2"
    first, second, third = ((address,) for address in iris)
    machine.publish(build_route("iris", {1: (4_000, first), 2: (1_000, second), 3: (5_000, third)}))
    with load(machine, rate=None, most=2_000) as clients:
        pass
    assert not clients.failures, describe(clients.failures)
    assert clients.share("iris/v2") == pytest.approx(20, abs=4)
    assert clients.served_by["iris/v3"] == 0
    machine.publish(build_route("iris", {1: (0, first), 3: (ALL, third)}))
    assert call(channel, build_faults()).code is Code.UNIMPLEMENTED
    machine.publish(build_route("iris", {1: (0, first)}))
    assert call(channel, build_faults()).code is Code.UNAVAILABLE


@pytest.mark.usefixtures("iris")
def test_version_in_the_path_pins_as_the_header_does(machine: LocalMachine) -> None:
    def get_served(path: str) -> tuple[int, str | None, Any]:
        status, headers, body = machine.call(path=path)
        return status, headers.get("x-timl-served-by"), body.get("error", "")

    assert get_served("/v1/models/iris/versions/2:predict") == (200, "iris/v2", "")
    assert get_served("/v1/models/m/versions/3:predict") == (200, "iris/v3", "")
    assert get_served("/v1/models/m:predict") == (200, "iris/v1", "")
    sentence = "this service has no version as in /v1/models/m/versions/9:predict; its versions: 1, 2, 3"
    assert get_served("/v1/models/m/versions/9:predict") == (404, None, sentence)
    assert get_served("/v1/models/m/versions/22:predict")[0] == 404


# losing nothing


def test_killed_instances_of_a_pair_lose_no_call(machine: LocalMachine) -> None:
    addresses = machine.start_ready("iris", instances=2, runtime="faulty-rpc")
    machine.publish(build_route("iris", {1: (ALL, addresses)}))

    def are_both_healthy() -> bool:
        ready = [status.state is InstanceState.READY for status in machine.backend.list_instances()]
        status = machine.backend.get_gateway_status()
        return all(ready) and status is not None and len(status.healthy) == 4

    with load(machine) as clients:
        for turn in range(6):
            restarts = sum(status.restarts for status in machine.backend.list_instances())
            machine.list_servers()[turn % 2].kill()
            wait_until(
                lambda restarts=restarts: sum(s.restarts for s in machine.backend.list_instances()) > restarts,
                timeout_seconds=5,
            )
            wait_until(are_both_healthy, timeout_seconds=HEALS_WITHIN_SECONDS)
    assert not clients.failures, describe(clients.failures)


def test_no_call_is_lost_while_instances_weights_and_backends_change(machine: LocalMachine) -> None:
    (first,) = machine.start_ready("iris", runtime="faulty-rpc")
    machine.publish(build_route("iris", {1: (ALL, (first,))}))
    slots = itertools.count(1)
    with load(machine) as clients:
        for turn in range(3):
            name = machine.ensure("iris", slot=next(slots), runtime="faulty-rpc")
            two = (first, machine.wait_for(name, InstanceState.READY).address)
            second = machine.start_ready("iris", version=2 + turn, runtime="faulty-rpc")
            machine.publish(build_route("iris", {1: (ALL, two), 2 + turn: (0, second)}))
            for weight in (5_000, ALL, 9_000):
                machine.publish(build_route("iris", {1: (ALL - weight, two), 2 + turn: (weight, second)}))
            config = machine.publish(build_route("iris", {1: (1, two), 2 + turn: (ALL - 1, second)}))
            machine.restart()
            status = wait_until(machine.backend.get_gateway_status, timeout_seconds=10)
            assert status.config == config
            machine.publish(build_route("iris", {1: (ALL, (first,))}))
            for instance in machine.backend.list_instances():
                if instance.address != first:
                    machine.backend.drain_instance(instance.id)
            wait_until(lambda: len(machine.backend.list_instances()) == 1, timeout_seconds=10)
    print(f"{clients.count} calls, served by {dict(clients.served_by)}")
    assert not clients.failures, describe(clients.failures)
    assert set(clients.served_by) == {"iris/v1", "iris/v2", "iris/v3", "iris/v4"}


def test_call_under_way_is_answered_when_its_instance_is_drained(machine: LocalMachine) -> None:
    first, second = machine.start_ready("iris", instances=2, runtime="faulty-rpc")
    machine.publish(build_route("iris", {1: (ALL, (first,))}))
    answers: list[RpcAnswer] = []

    def ask() -> None:
        with open_channel(f"127.0.0.1:{machine.settings.gateway_port}", build_host("iris")) as channel:
            answers.append(call(channel, build_faults(seconds=1.2)))

    caller = threading.Thread(target=ask)
    caller.start()
    wait_until(lambda: read_metric(first, "timl_requests_in_flight") == 1, timeout_seconds=5)
    machine.publish(build_route("iris", {1: (ALL, (second,))}))
    (leaving,) = [status.id for status in machine.backend.list_instances() if status.address == first]
    machine.backend.drain_instance(leaving)
    caller.join()
    assert answers[0].code is Code.OK, answers[0].details
    wait_until(lambda: len(machine.backend.list_instances()) == 1, timeout_seconds=10)
