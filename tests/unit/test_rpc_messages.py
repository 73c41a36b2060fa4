"""What we read and write of TensorFlow Serving's messages by ourselves, against TensorFlow Serving's own classes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError
from airflow_provider_timl.hooks.tensor_messages import build_request, read_response
from airflow_provider_timl.runtimes.rpc_messages import ModelSpec, build_status, read_model_specs
from tests.tensorflow_messages import get_model_status_pb2, inference_pb2, predict_pb2, types_pb2

NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(st.text(min_size=1), st.none() | NUMBERS, st.none() | st.text(), st.binary(max_size=300))
def test_model_is_read_as_protobuf_reads_it(name: str, version: int | None, label: str | None, content: bytes) -> None:
    request = predict_pb2.PredictRequest()
    request.inputs["x"].tensor_content = content
    request.inputs["x"].float_val.extend([1, 2])
    request.model_spec.name = name
    request.model_spec.signature_name = "s"
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:  # of the two the last one counts
        request.model_spec.version_label = label
    expected = ModelSpec(name, None if label is not None else version, label)
    assert read_model_specs("Predict", request.SerializeToString()) == [expected]


def test_message_in_pieces_is_put_together() -> None:
    pieces = [
        predict_pb2.PredictRequest(model_spec={"name": "a"}),
        predict_pb2.PredictRequest(model_spec={"name": "b"}),
    ]
    pieces.append(predict_pb2.PredictRequest(model_spec={"version": {"value": 3}}))
    message = b"".join(piece.SerializeToString() for piece in pieces)
    assert read_model_specs("Predict", message) == [ModelSpec("b", 3)]


def test_each_task_of_an_inference_names_its_model() -> None:
    tasks = [{"model_spec": {"name": name}, "method_name": "tensorflow/serving/regress"} for name in ("a", "b")]
    request = inference_pb2.MultiInferenceRequest(tasks=tasks)
    assert read_model_specs("MultiInference", request.SerializeToString()) == [ModelSpec("a"), ModelSpec("b")]
    request.tasks[1].ClearField("model_spec")
    with pytest.raises(InvalidInputError) as refused:
        read_model_specs("MultiInference", request.SerializeToString())
    assert refused.value.details["field"] == "tasks[1].model_spec"


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused_and_nothing_else_happens(message: bytes) -> None:
    for method in ("Predict", "MultiInference"):
        with suppress(InvalidInputError):
            read_model_specs(method, message)


def test_status_is_what_tensorflow_serving_would_send() -> None:
    expected = get_model_status_pb2.GetModelStatusResponse()
    expected.model_version_status.add(version=300, state="AVAILABLE", status={"error_code": 0})
    assert get_model_status_pb2.GetModelStatusResponse.FromString(build_status(300)) == expected


NOT_WHOLE = ["float16", "float32", "float64", "complex64", "complex128", "bool"]
DTYPES = [*NOT_WHOLE, *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_survive_both_forms_of_a_tensor(name: str) -> None:
    array = np.array([[1, 0, 1], [2, 3, 3]]).astype(name)
    request = predict_pb2.PredictRequest.FromString(build_request("m", "sig", {"x": array.T}, ["y"]))
    assert (request.model_spec.name, request.model_spec.signature_name, list(request.output_filter)) == (
        "m",
        "sig",
        ["y"],
    )
    response = predict_pb2.PredictResponse(outputs={"content": request.inputs["x"]})
    fill(response.outputs["values"], array, request.inputs["x"].dtype)
    outputs = read_response(response.SerializeToString())
    for read, sent in ((outputs["content"], array.T), (outputs["values"], array)):
        assert read.dtype == sent.dtype
        np.testing.assert_array_equal(read, sent)


def fill(proto: Any, array: Any, number: int) -> None:
    """As TensorFlow Serving does by default: values in the field of their type; the last one is not repeated."""
    proto.dtype = number
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    values = array.reshape(-1)[:-1]
    prefix = {
        types_pb2.DT_FLOAT: "float",
        types_pb2.DT_DOUBLE: "double",
        types_pb2.DT_INT64: "int64",
        types_pb2.DT_UINT32: "uint32",
        types_pb2.DT_UINT64: "uint64",
        types_pb2.DT_BOOL: "bool",
        types_pb2.DT_HALF: "half",
        types_pb2.DT_COMPLEX64: "scomplex",
        types_pb2.DT_COMPLEX128: "dcomplex",
    }.get(number, "int")
    if prefix == "half":
        values = values.view(np.uint16)
    elif prefix.endswith("complex"):
        values = values.view(values.real.dtype)
    getattr(proto, f"{prefix}_val").extend(values.tolist())


def test_text_is_bytes_and_bfloat16_is_widened() -> None:
    request = predict_pb2.PredictRequest.FromString(build_request("m", "", {"a": ["花", "b"], "b": [b"\0"], "c": 2.5}))
    assert list(request.inputs["a"].string_val) == ["花".encode(), b"b"]
    assert not request.inputs["c"].tensor_shape.dim
    response = predict_pb2.PredictResponse(outputs={"a": request.inputs["a"]})
    response.outputs["h"].dtype = types_pb2.DT_BFLOAT16
    response.outputs["h"].half_val.append(0x3FC0)
    outputs = read_response(response.SerializeToString())
    assert outputs["a"].tolist() == ["花".encode(), b"b"]
    assert (outputs["h"].dtype, outputs["h"].item()) == (np.float32, 1.5)


def test_what_no_tensor_holds_is_refused_with_its_name() -> None:
    with pytest.raises(InvalidInputError, match=r"datetime64.* cannot be sent") as refused:
        build_request("m", "", {"when": np.array(["2024-01-01"], "datetime64[D]")})
    assert refused.value.details["field"] == "when"
    with pytest.raises(InvalidInputError, match="holds int, which is no text"):
        build_request("m", "", {"x": np.array(["a", 1], object)})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff", id="no message"),
        pytest.param(b"\x0a\x05\x0a\x01y\x12\x00", id="no type"),
        pytest.param(b"\x0a\x0a\x0a\x01y\x12\x05\x08\x01\x22\x01x", id="one byte of a float"),
    ],
)
def test_answer_that_is_no_tensor_is_told_from_one(content: bytes) -> None:
    with pytest.raises(ExternalSystemError, match="no PredictResponse"):
        read_response(content)
