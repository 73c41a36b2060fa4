"""A real TensorFlow model by gRPC through the gateway, with TensorFlow Serving's own stubs and with the hook."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from airflow_provider_timl.backends.contract import InstanceState
from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.hooks.prediction import PredictionHook
from tests.servers.local import ALL, KEY, LocalMachine, build_host, build_route, run_machine
from tests.servers.rpc import open_channel, open_hook
from tests.tensorflow_messages import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
)

START_SECONDS = 60.0
METADATA = (("authorization", KEY.secret),)
ROWS = [[0, 1], [2, 3], [100, 7]]
ARRAYS: dict[str, Any] = {
    **{f"{sign}int{bits}": np.array(ROWS) for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": np.array(ROWS) / 3 for bits in (16, 32, 64)},
    "bool": np.array(ROWS) % 2,
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, tensorflow_models: Path) -> Iterator[LocalMachine]:
    """Version 1 of the service ``iris`` has a signature for each type, which gives back what it gets."""
    root = tmp_path_factory.mktemp("grpc")
    with pytest.MonkeyPatch.context() as monkeypatch, run_machine(root, monkeypatch) as machine:
        shutil.copytree(tensorflow_models / "dtypes", machine.artifacts / "iris")
        name = machine.ensure("iris", runtime="tensorflow", memory_mb=2048)
        address = machine.wait_for(name, InstanceState.READY, START_SECONDS).address
        machine.publish(build_route("iris", {1: (ALL, (address,))}))
        yield machine


@pytest.fixture
def hook(machine: LocalMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[PredictionHook]:
    with open_hook(machine, monkeypatch) as hook:
        yield hook


@pytest.fixture
def channel(machine: LocalMachine) -> Iterator[grpc.Channel]:
    with open_channel(f"127.0.0.1:{machine.settings.gateway_port}", build_host("iris")) as channel:
        yield channel


@pytest.mark.parametrize("dtype", ARRAYS)
def test_both_protocols_answer_the_same(machine: LocalMachine, hook: PredictionHook, dtype: str) -> None:
    array = ARRAYS[dtype].astype(dtype)
    by_rpc = hook.predict_rpc({"x": array}, signature_name=dtype)["y"]
    status, _, answer = machine.call({"signature_name": dtype, "inputs": {"x": array.tolist()}})
    assert status == 200, answer
    assert by_rpc.dtype == array.dtype
    np.testing.assert_array_equal(by_rpc, array)
    np.testing.assert_array_equal(np.array(answer["outputs"], dtype), array)


def test_types_that_numpy_or_json_do_not_have(machine: LocalMachine, hook: PredictionHook) -> None:
    words = [["花", ""], ["a", "b"]]
    assert hook.predict_rpc({"x": words}, signature_name="string")["y"].tolist() == np.char.encode(words).tolist()
    assert machine.call({"signature_name": "string", "inputs": {"x": words}})[2] == {"outputs": words}
    short = np.array(ROWS).astype(ml_dtypes.bfloat16)
    widened = hook.predict_rpc({"x": short}, signature_name="bfloat16")["y"]
    np.testing.assert_array_equal(widened, short.astype(np.float32))
    by_rest = machine.call({"signature_name": "bfloat16", "inputs": {"x": ROWS}})[2]["outputs"]
    np.testing.assert_array_equal(by_rest, widened)
    complex_numbers = (np.array(ROWS) * (1 + 2j)).astype(np.complex64)
    np.testing.assert_array_equal(
        hook.predict_rpc({"x": complex_numbers}, signature_name="complex64")["y"], complex_numbers
    )


def test_ten_megabytes_go_through(hook: PredictionHook) -> None:
    large = np.random.default_rng(7).standard_normal((1_310_720, 2), np.float32)
    np.testing.assert_array_equal(hook.predict_rpc({"x": large}, signature_name="float32")["y"], large)


def test_wrong_type_is_told_with_the_input(hook: PredictionHook) -> None:
    with pytest.raises(InvalidInputError, match="x"):
        hook.predict_rpc({"x": np.zeros((1, 2), np.float64)}, signature_name="float32")


def test_tensorflow_servings_own_stubs_are_answered(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    spec = {"name": "m", "signature_name": "float32", "version": {"value": 1}}
    request = predict_pb2.PredictRequest(model_spec=spec)
    request.inputs["x"].dtype = types_pb2.DT_FLOAT
    for size in (1, 2):
        request.inputs["x"].tensor_shape.dim.add(size=size)
    request.inputs["x"].float_val.extend([1.5, 2.5])
    answer = stub.Predict(request, timeout=20, metadata=METADATA)
    assert np.frombuffer(answer.outputs["y"].tensor_content, np.float32).tolist() == [1.5, 2.5]
    assert answer.model_spec.version.value == 1
    asked = get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "m"}, metadata_field=["signature_def"])
    metadata = stub.GetModelMetadata(asked, timeout=20, metadata=METADATA)
    assert "signature_def" in metadata.metadata
    status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
        get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "m"}), timeout=20, metadata=METADATA
    )
    assert [(each.version, each.state) for each in status.model_version_status] == [(1, 30)]
    request.model_spec.version.value = 2
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(request, timeout=20, metadata=METADATA)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
