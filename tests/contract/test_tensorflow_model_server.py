"""The ``tensorflow_model_server`` runtime answers as ``tensorflow`` does, and its program lives as long as our server.

The program is a stand-in (``tests/servers/tensorflow_model_server``), for the real one is in no package index: what is
proved here is our side of its flags and of its protocol.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from airflow_provider_timl.backends.local.process import ManagedProcess
from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import (
    ExternalSystemError,
    InvalidInputError,
    InvalidModelError,
    NotReadyError,
    TimeoutExpiredError,
    TimlError,
)
from airflow_provider_timl.runtimes.contract import get_runtime, get_runtime_for
from airflow_provider_timl.runtimes.tensorflow import library, model_server_process
from airflow_provider_timl.runtimes.tensorflow.engine import TensorflowEngine, load_engine
from airflow_provider_timl.runtimes.tensorflow.model_server import load_model_server
from airflow_provider_timl.runtimes.tensorflow.model_server_session import build_error
from airflow_provider_timl.runtimes.tensorflow.runtime import TensorflowOptions
from airflow_provider_timl.runtimes.tensorflow.tensor_protos import build_tensor
from airflow_provider_timl.services.registry import _choose_runtime
from tests.servers.model_server import Server, start_server, stop_server
from tests.waiting import wait_until

RESOURCES = Resources(memory_mb=1024)
TESTS = Path(__file__).parents[1]
NAME = "tensorflow_model_server"
ROW = [1.0, 2.0, 3.0, 4.0]
EXAMPLES = [{"x": [1.0, 2.0], "tag": "a"}, {"x": [0.5, 0.0], "tag": {"b64": "Yg=="}}]
Engines = tuple[TensorflowEngine, TensorflowEngine]


@pytest.fixture(scope="module")
def program() -> Iterator[None]:
    """It is on the PATH."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folders = (str(TESTS / "servers"), str(Path(sys.executable).parent))
        for folder in reversed(folders):
            monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
        yield


@pytest.fixture
def without_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is all of the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def open_both(model: Path) -> Iterator[Engines]:
    ours = load_engine(model, RESOURCES, TensorflowOptions())
    theirs = load_model_server(model, RESOURCES, TensorflowOptions())
    ours.model_version = theirs.model_version = 6
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture(scope="module")
def linear(tensorflow_models: Path, program: None) -> Iterator[Engines]:
    yield from open_both(tensorflow_models / "linear")


@pytest.fixture(scope="module")
def examples(tensorflow_models: Path, program: None) -> Iterator[Engines]:
    yield from open_both(tensorflow_models / "warm")


def answer(engine: TensorflowEngine, verb: str, *bodies: Any) -> list[Any]:
    """JSON, or type and message of the error."""
    try:
        return list(map(simplify, engine.run([engine.parse(verb, json.dumps(body).encode()) for body in bodies])))
    except TimlError as exc:
        return [simplify(exc)]


def simplify(result: bytes | TimlError) -> Any:
    return (type(result), result.message) if isinstance(result, TimlError) else json.loads(result)


def answer_rpc(engine: TensorflowEngine, method: str, request: Any) -> bytes:
    (result,) = engine.run([engine.parse_rpc(method, request.SerializeToString())])
    if isinstance(result, TimlError):
        raise result
    return result


# the same answers


@pytest.mark.parametrize(
    "bodies",
    [
        [{"instances": [{"x": ROW}, {"x": [0, 0, 0, 0]}]}],
        [{"inputs": [ROW]}],
        [{"inputs": 2.5, "signature_name": "scalar"}],
        [{"signature_name": "two", "instances": [{"a": [1, 2], "b": 3}]}],
        [{"instances": [ROW]}, {"inputs": 2.5, "signature_name": "scalar"}, {"inputs": [ROW, ROW]}],
        [{"instances": [ROW], "signature_name": "three"}],
        [{"instances": [[1, 2, 3]]}],
    ],
)
def test_predictions_are_those_of_our_session(linear: Engines, bodies: list[Any]) -> None:
    ours, theirs = (answer(engine, "predict", *bodies) for engine in linear)
    assert theirs == ours


def test_what_the_graph_refuses_is_the_callers_error(linear: Engines) -> None:
    body = {"signature_name": "two", "inputs": {"a": [[1, 2], [3, 4]], "b": [1, 2, 3]}}
    ((kind, message),) = answer(linear[1], "predict", body)
    assert kind is InvalidInputError
    assert "Incompatible shapes" in message


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("classify", {"signature_name": "classify", "examples": EXAMPLES}),
        ("classify", {"signature_name": "scores", "context": {"tag": "c"}, "examples": EXAMPLES}),
        ("regress", {"signature_name": "regress", "examples": EXAMPLES}),
        ("regress", {"signature_name": "classify", "examples": EXAMPLES}),
        ("classify", {"signature_name": "classify", "examples": [{"x": [1, 2]}]}),
    ],
)
def test_examples_are_answered_as_by_our_session(examples: Engines, verb: str, body: Any) -> None:
    ours, theirs = (answer(engine, verb, body) for engine in examples)
    assert theirs == ours


def build_predict() -> Any:
    request = library.predict_pb2.PredictRequest(output_filter=["total"])
    request.model_spec.name, request.model_spec.signature_name = "iris", "two"
    request.inputs["a"].CopyFrom(build_tensor(np.ones((2, 2), np.float32)))
    request.inputs["b"].CopyFrom(build_tensor(np.ones(2, np.int64)))
    return request


def test_messages_are_answered_to_the_byte(linear: Engines) -> None:
    ours, theirs = (answer_rpc(engine, "Predict", build_predict()) for engine in linear)
    assert theirs == ours
    response = library.predict_pb2.PredictResponse.FromString(theirs)
    assert (response.model_spec.name, response.model_spec.version.value) == ("iris", 6)


def test_tasks_of_several_signatures_are_one_answer(examples: Engines) -> None:
    request = library.inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.add().features.feature["x"].float_list.value.extend([1, 2])
    for method, signature in (("regress", "regress"), ("classify", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", signature
    ours, theirs = (answer_rpc(engine, "MultiInference", request) for engine in examples)
    assert theirs == ours


def test_metadata_example_and_rows_are_the_same(linear: Engines) -> None:
    ours, theirs = linear
    assert theirs.describe_metadata() == ours.describe_metadata()
    assert theirs.signature == ours.signature
    rows = [[1, ROW], [2, [1, 2]], [3, "[1, 2, 3, 4]"]]
    good, bad, text = theirs.score(["id", "x"], rows)
    assert good == text == ours.score(["id", "x"], rows)[0]
    assert isinstance(bad, InvalidInputError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInputError),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidInputError),
        (grpc.StatusCode.UNAVAILABLE, NotReadyError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimeoutExpiredError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TimlError),
        (grpc.StatusCode.INTERNAL, TimlError),
    ],
)
def test_failure_of_the_program_is_the_error_of_our_session(code: grpc.StatusCode, kind: type[TimlError]) -> None:
    error = build_error(code, "the reason\n\tat a node")
    assert type(error) is kind
    assert error.message.endswith("the reason at a node")


def test_strings_and_bytes_go_through(tensorflow_models: Path, program: None) -> None:
    for ours, theirs in open_both(tensorflow_models / "bytes"):
        body = {"instances": [{"s": "é", "raw": {"b64": "AP8="}}]}
        assert answer(theirs, "predict", body) == answer(ours, "predict", body)


# the program's life


@pytest.fixture(scope="module")
def server(tensorflow_models: Path, program: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    server = start_server(folder, runtime=NAME, model_path=str(tensorflow_models / "linear"), memory_mb=1024)
    yield server
    server.process.kill()
    server.process.wait()
    Path(server.socket_path).unlink(missing_ok=True)


def find_child(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    return next(child for child in children if any(word.endswith(NAME) for word in child.cmdline()))


def test_program_listens_at_no_port(server: Server) -> None:
    assert server.predict({"instances": [ROW]}) == (200, {"predictions": [[71.0, 81.0, 91.0]]})
    child = find_child(server)
    assert [found for found in child.net_connections() if found.status == psutil.CONN_LISTEN] == []


def test_memory_of_the_program_counts_for_the_instance(server: Server) -> None:
    process, child = psutil.Process(server.process.pid), find_child(server)
    both_mb = (process.memory_info().rss + child.memory_info().rss) / 2**20
    assert ManagedProcess(process).get_memory_mb() == pytest.approx(both_mb, rel=0.1)


def test_program_ends_with_a_server_that_is_killed(server: Server) -> None:
    child = find_child(server)
    server.process.kill()
    server.process.wait(10)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, timeout_seconds=10)


def test_server_ends_with_the_reason_when_its_program_does(
    tensorflow_models: Path, program: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start_server(tmp_path, runtime=NAME, model_path=str(tensorflow_models / "linear"), memory_mb=1024)
    os.kill(find_child(server).pid, signal.SIGSEGV)
    assert server.process.wait(10) == 4
    Path(server.socket_path).unlink(missing_ok=True)
    assert "tensorflow_model_server was killed by SIGSEGV" in capfd.readouterr().err.splitlines()[-1]


def test_server_that_is_stopped_stops_its_program(tensorflow_models: Path, program: None, tmp_path: Path) -> None:
    server = start_server(tmp_path, runtime=NAME, model_path=str(tensorflow_models / "linear"), memory_mb=1024)
    child = find_child(server)
    stop_server(server)
    assert not child.is_running()


def write_program(folder: Path, script: str) -> None:
    (folder / NAME).write_text(f"#!/bin/sh\n{script}\n")
    (folder / NAME).chmod(0o755)


def test_program_that_ends_at_once_is_told_by_its_last_line(tensorflow_models: Path, without_program: Path) -> None:
    write_program(without_program, "echo one; echo 'bad flag' >&2; exit 7")
    with pytest.raises(InvalidModelError, match="exited with status 7: bad flag"):
        load_model_server(tensorflow_models / "linear", RESOURCES, TensorflowOptions())


def test_program_that_never_listens_is_given_up(
    tensorflow_models: Path, without_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(without_program, "echo loading; exec /bin/sleep 60")
    monkeypatch.setattr(model_server_process, "START_SECONDS", 0.5)
    with pytest.raises(ExternalSystemError, match=r"did not load the model within 0\.5 s"):
        load_model_server(tensorflow_models / "linear", RESOURCES, TensorflowOptions())


# which runtime is taken


def test_program_on_the_path_takes_the_place_of_our_own(program: None) -> None:
    assert get_runtime(NAME).find_missing() is None
    assert _choose_runtime("tensorflow", None).name == NAME
    assert _choose_runtime("tensorflow", "tensorflow").name == "tensorflow"
    assert get_runtime_for("tensorflow").name == "tensorflow"


def test_without_the_program_our_own_is_taken(without_program: Path, tensorflow_models: Path) -> None:
    assert get_runtime(NAME).find_missing() == NAME
    assert _choose_runtime("tensorflow", None).name == "tensorflow"
    with pytest.raises(InvalidInputError, match="needs the program 'tensorflow_model_server' on the PATH"):
        _choose_runtime("tensorflow", NAME)
    with pytest.raises(ExternalSystemError, match="not on the PATH"):
        load_model_server(tensorflow_models / "linear", RESOURCES, TensorflowOptions())
