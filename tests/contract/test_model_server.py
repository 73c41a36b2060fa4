"""The model server as callers see it: the real program on a Unix socket, and everything that may be sent to it."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_timl.backends.local.unix_http import is_ready
from tests.servers.model_server import MOST_BYTES, PREDICT, Server, start_server, stop_server
from tests.waiting import wait_until

FLOWER = {"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}
ANSWER = {"probability(-1)": 0.920300305045526, "probability(1)": 0.07969969495447403, "y": -1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(tmp_path_factory.mktemp("server"))
    yield server
    stop_server(server)


@pytest.mark.parametrize(
    ("body", "prediction"),
    [
        ({"instances": [FLOWER]}, ANSWER),
        ({"instances": [{"values": FLOWER, "key": 7}]}, {**ANSWER, "key": 7}),
        ({"instances": [[6.2, 2.2, 1.1, 1.1]]}, ANSWER),
        ({"instances": [{"values": [6.2, 2.2, 1.1, 1.1], "key": "a"}]}, {**ANSWER, "key": "a"}),
        ({"inputs": {name: [value] for name, value in FLOWER.items()}}, ANSWER),
        ({"inputs": FLOWER}, ANSWER),
        ({"instances": [dict(reversed(FLOWER.items()))]}, ANSWER),
    ],
)
def test_every_form_gets_the_published_answer(server: Server, body: Any, prediction: dict[str, Any]) -> None:
    assert server.predict(body) == (200, {"predictions": [prediction]})


def test_answers_are_in_the_order_of_the_instances(server: Server) -> None:
    status, answer = server.predict({"instances": [{**FLOWER, "x1": 4 + n / 100} for n in range(500)]})
    probabilities = [prediction["probability(1)"] for prediction in answer["predictions"]]
    assert status == 200
    assert probabilities == sorted(probabilities)
    assert len(set(probabilities)) == 500


def test_missing_value_is_accepted_as_null(server: Server) -> None:
    assert server.predict({"instances": [{**FLOWER, "x1": None}]})[0] == 200


def without(name: str) -> dict[str, float]:
    return {key: value for key, value in FLOWER.items() if key != name}


NESTED = b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD_BODIES = [
    (b"", 400, "empty"),
    (b"x1=6.2", 400, "not valid JSON"),
    (b'{"instances": [', 400, "not valid JSON"),
    (b"\xff\xfe", 400, "not valid JSON"),
    (NESTED, 400, "not valid JSON"),
    (b"[1]", 400, "an array"),
    (b"{}", 400, "'instances' or 'inputs'"),
    (json.dumps({"instances": [FLOWER], "inputs": FLOWER}).encode(), 400, "either"),
    (json.dumps({"instances": [FLOWER], "instance": 1}).encode(), 400, "instance: unknown name"),
    (b'{"instances": []}', 400, "instances: the batch is empty"),
    (b'{"inputs": {}}', 400, "inputs: the batch is empty"),
    (b'{"instances": {}}', 400, "instances: expected an array"),
    (b'{"instances": [7]}', 400, "instances[0]: expected an object"),
    (json.dumps({"instances": [FLOWER, without("x3")]}).encode(), 400, "instances[1].x3: the field is missing"),
    (json.dumps({"instances": [{**FLOWER, "x1": "6.2"}]}).encode(), 400, "instances[0].x1: expected a number"),
    (json.dumps({"instances": [{**FLOWER, "x1": True}]}).encode(), 400, "instances[0].x1: expected a number"),
    (json.dumps({"instances": [{**FLOWER, "x1": [6.2]}]}).encode(), 400, "instances[0].x1: expected a number"),
    (json.dumps({"instances": [{**FLOWER, "x5": 1}]}).encode(), 400, "instances[0].x5: the model has no such field"),
    (json.dumps({"instances": [FLOWER, [6.2, 2.2, 1.1, 1.1]]}).encode(), 400, "instances[1]: is of another form"),
    (json.dumps({"instances": [[6.2, 2.2]]}).encode(), 400, "instances[0]: has 2 values"),
    (json.dumps({"instances": [{**FLOWER, "x1": float("nan")}]}).encode(), 400, "instances[0].x1: NaN, infinities"),
    (json.dumps({"instances": [{**FLOWER, "x2": float("-inf")}]}).encode(), 400, "instances[0].x2: NaN, infinities"),
    (b'{"instances": [{"x1": 1e999, "x2": 1, "x3": 1, "x4": 1}]}', 400, "instances[0].x1"),
    (b'{"instances": [{"x1": ' + b"9" * 400 + b', "x2": 1, "x3": 1, "x4": 1}]}', 400, "instances[0].x1"),
    (json.dumps({"inputs": {**FLOWER, "x1": [1, 2]}}).encode(), 400, "inputs: the columns differ in length"),
    (json.dumps({"inputs": without("x2")}).encode(), 400, "inputs.x2: the field is missing"),
    (b" " * (MOST_BYTES + 1), 413, "larger than 1048576 bytes"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD_BODIES, ids=[words for _, _, words in BAD_BODIES])
def test_bad_body_is_refused_with_the_name_of_what_is_wrong(
    server: Server, body: bytes, status: int, words: str
) -> None:
    found, answer = server.send(body)
    assert (found, list(answer)) == (status, ["error"])
    assert words in answer["error"]


def test_close_name_is_suggested(server: Server) -> None:
    _, answer = server.predict({"instances": [{**without("x4"), "x4": 1, "X1": 6.2}]})
    assert "did you mean 'x1'?" in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v1/models/m/versions/7:predict", 404),
        ("POST", "/v1/models/m:classify", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/nothing", 404),
        ("GET", PREDICT, 405),
        ("POST", "/v1/models/m", 405),
        ("DELETE", "/v1/models/m", 405),
    ],
)
def test_wrong_address_or_method_is_refused(server: Server, method: str, path: str, status: int) -> None:
    found, answer = server.send(json.dumps({"instances": [FLOWER]}).encode(), path, method)
    assert (found, list(answer)) == (status, ["error"])


@pytest.mark.parametrize("name", ["m", "iris", "iris-prod", "m/versions/6"])
def test_server_answers_to_each_of_its_names(server: Server, name: str) -> None:
    body = json.dumps({"instances": [FLOWER]}).encode()
    assert server.send(body, f"/v1/models/{name}:predict")[0] == 200


def test_status_has_state_types_and_schema(server: Server) -> None:
    _, status = server.send(b"", "/v1/models/m", "GET")
    assert status["model_version_status"][0]["version"] == "6"
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert status["typeMap"] == dict.fromkeys(FLOWER, "DT_DOUBLE")
    assert [field["name"] for field in status["signature"]["inputs"]] == list(FLOWER)
    assert server.predict(status["signature"]["example"])[0] == 200


def test_metrics_count_requests_by_status(server: Server) -> None:
    def read(code: int) -> float:
        text = server.send(b"", "/metrics", "GET")[1].decode()
        lines = [line for line in text.splitlines() if line.startswith(f'timl_requests_total{{code="{code}"}}')]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = read(200), read(400)
    server.predict({"instances": [FLOWER]})
    server.predict({"instances": []})
    assert (read(200), read(400)) == (before[0] + 1, before[1] + 1)


def test_gzip_is_accepted_and_bounded(server: Server) -> None:
    body = json.dumps({"instances": [FLOWER]}).encode()
    headers = {"Content-Encoding": "gzip"}
    assert server.send(gzip.compress(body), headers=headers)[0] == 200
    assert server.send(gzip.compress(b" " * (MOST_BYTES * 50)), headers=headers)[0] == 400
    assert server.send(b"not gzip", headers=headers)[0] == 400
    assert server.send(body, headers={"Content-Encoding": "br"})[0] == 415


def exchange(server: Server, sent: bytes, *, until: bytes) -> bytes:
    """Raw bytes in, and what comes back until it holds ``until`` or the connection ends."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(server.socket_path)
        client.sendall(sent)
        received = b""
        while until not in received and (chunk := client.recv(65536)):
            received += chunk
        return received


def build_request(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /v1/models/m:predict HTTP/1.1", b"Host: m", *headers, b"", body]
    return b"\r\n".join(lines)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    requests = b""
    for number in range(2000):
        body = json.dumps({"instances": [{"values": FLOWER, "key": number}]}).encode()
        requests += build_request(body, b"Content-Length: %d" % len(body))
    received = exchange(server, requests, until=b'"key":1999')
    assert [received.index(b'"key":%d}' % number) for number in range(20)] == sorted(
        received.index(b'"key":%d}' % number) for number in range(20)
    )


def test_chunked_body_that_grows_too_large_is_refused_without_reading_it_all(server: Server) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    request = build_request(chunk * 17, b"Transfer-Encoding: chunked")
    assert exchange(server, request, until=b"error").startswith(b"HTTP/1.1 413")


def test_what_is_not_http_is_refused(server: Server) -> None:
    assert exchange(server, b"\x16\x03\x01 hello\r\n\r\n", until=b"error").startswith(b"HTTP/1.1 400")
    assert exchange(server, b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000, until=b"error").startswith(b"HTTP/1.1 431")


def test_expect_continue_is_answered(server: Server) -> None:
    body = json.dumps({"instances": [FLOWER]}).encode()
    request = build_request(body, b"Content-Length: %d" % len(body), b"Expect: 100-continue")
    assert exchange(server, request, until=b"predictions").startswith(b"HTTP/1.1 100 Continue")


def test_draining_server_answers_what_is_connected_and_then_ends(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    body = json.dumps({"instances": [FLOWER]}).encode()
    connections = [server.connect() for _ in range(8)]
    for connection in connections:
        connection.request("POST", PREDICT, body)
        assert connection.getresponse().read()
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not is_ready(server.socket_path, 1), timeout_seconds=5)
    for connection in connections:
        connection.request("POST", PREDICT, body)
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("connection") == "close"
        response.read()
        connection.close()
    assert server.process.wait(10) == 0


def test_full_queue_answers_429_and_health_is_answered_meanwhile(tmp_path: Path) -> None:
    server = start_server(tmp_path, queue_size=2, max_request_bytes=32 * MOST_BYTES)
    large = json.dumps({"instances": [FLOWER] * 100_000}).encode()
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(server.send(large)[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    health = [is_ready(server.socket_path, 10) for _ in range(20)]
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    assert all(health)
    assert server.predict({"instances": [FLOWER]})[0] == 200
    stop_server(server)


def test_too_slow_request_is_answered_504(tmp_path: Path) -> None:
    server = start_server(tmp_path, request_timeout_seconds=0.05, max_request_bytes=32 * MOST_BYTES)
    status, answer = server.predict({"instances": [FLOWER] * 50_000})
    assert status == 504
    assert "0.05 s" in answer["error"]
    stop_server(server)


def test_model_that_cannot_be_loaded_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.pmml").write_text("<PMML version='4.3'")
    config = {
        "runtime": "pmml",
        "model_path": str(tmp_path),
        "model_version": 1,
        "model_names": ["m"],
        "listen": "127.0.0.1:0",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "airflow_provider_timl.runtimes.server", "--config", str(tmp_path / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 3
    assert "not well-formed XML" in done.stderr.strip().splitlines()[-1]


def test_server_does_not_import_airflow() -> None:
    code = "import sys, airflow_provider_timl.runtimes.server; sys.exit('airflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["instances", "inputs", "values", "key", "x1", "x2", "x3", "x4"]), children)
    ),
    max_leaves=12,
)


@given(st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=60)))
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_the_server_fail(server: Server, body: bytes) -> None:
    status, answer = server.send(body)
    assert status in {200, 400}
    assert list(answer) == ["predictions" if status == 200 else "error"]
