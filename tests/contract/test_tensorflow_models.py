"""The ``tensorflow`` runtime: answers over REST and gRPC, joining, tables, what is refused, and the real server."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_timl.batch.score import ScoreConfig, score_file
from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, NotFoundError, TimlError
from airflow_provider_timl.repository.inspection import inspect_in_limited_process
from airflow_provider_timl.runtimes.contract import get_runtime_for
from airflow_provider_timl.runtimes.tensorflow import library
from airflow_provider_timl.runtimes.tensorflow.engine import TensorflowEngine, load_engine
from airflow_provider_timl.runtimes.tensorflow.runtime import TensorflowOptions, inspect_tensorflow
from airflow_provider_timl.runtimes.tensorflow.tensor_protos import build_tensor, read_tensor
from airflow_provider_timl.settings import Settings
from tests.servers.model_server import Server, start_server, stop_server

RESOURCES = Resources(memory_mb=1024)
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES = [*INTEGERS, "float16", "float32", "float64", "bool", "complex64", "complex128"]
ROW = [1.0, 2.0, 3.0, 4.0]
ANSWER = [71.0, 81.0, 91.0]  # of the model "linear" to ROW
Change = Callable[[Path], object]


ENGINES: dict[Path, TensorflowEngine] = {}


@pytest.fixture(scope="module")
def models(tensorflow_models: Path) -> Iterator[Path]:
    yield tensorflow_models
    for engine in ENGINES.values():
        engine.close()
    ENGINES.clear()


def load(folder: Path) -> TensorflowEngine:
    """Once for all tests; closed with the models."""
    if folder not in ENGINES:
        ENGINES[folder] = load_engine(folder, RESOURCES, TensorflowOptions())
        ENGINES[folder].model_version = 6
    return ENGINES[folder]


def send(engine: TensorflowEngine, body: Any, verb: str = "predict") -> Any:
    (answer,) = engine.run([engine.parse(verb, json.dumps(body).encode())])
    return read_answer(answer)


def read_answer(answer: bytes | TimlError) -> Any:
    if isinstance(answer, TimlError):
        raise answer
    return json.loads(answer)


def call(engine: TensorflowEngine, method: str, request: Any) -> bytes:
    (answer,) = engine.run([engine.parse_rpc(method, request.SerializeToString())])
    if isinstance(answer, TimlError):
        raise answer
    return answer


def build_predict(inputs: dict[str, Any], signature: str = "") -> Any:
    request = library.predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(build_tensor(array))
    return request


def predict(engine: TensorflowEngine, inputs: dict[str, Any], signature: str = "") -> dict[str, Any]:
    response = library.predict_pb2.PredictResponse.FromString(call(engine, "Predict", build_predict(inputs, signature)))
    return {name: read_tensor(name, proto) for name, proto in response.outputs.items()}


def objects(*values: bytes) -> Any:
    return np.array(values, object)


# predict


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [{"x": ROW}, {"x": [0, 0, 0, 0]}]}, {"predictions": [ANSWER, [1.0, 1.0, 1.0]]}),
        ({"instances": [ROW]}, {"predictions": [ANSWER]}),
        ({"inputs": {"x": [ROW]}}, {"outputs": [ANSWER]}),
        ({"inputs": [ROW], "signature_name": "serving_default"}, {"outputs": [ANSWER]}),
        ({"inputs": 2.5, "signature_name": "scalar"}, {"outputs": 5.0}),
        (
            {"signature_name": "two", "instances": [{"a": [1, 2], "b": 3}]},
            {"predictions": [{"a_copy": [1.0, 2.0], "count": 6, "total": [4.0, 5.0]}]},
        ),
    ],
)
def test_each_signature_is_answered_in_both_forms(models: Path, body: Any, answer: Any) -> None:
    assert send(load(models / "linear"), body) == answer


def test_strings_and_bytes_are_told_apart_by_name(models: Path) -> None:
    body = {"instances": [{"s": "é", "raw": {"b64": "AP8="}}]}
    expected = {"text": "é!", "raw_bytes": {"b64": b64encode(b"\0\xff\xff").decode()}}
    assert send(load(models / "bytes"), body) == {"predictions": [expected]}


def test_vocabulary_of_the_model_is_looked_up(models: Path) -> None:
    body = {"instances": ["green", "pink", "red"]}
    assert send(load(models / "vocabulary"), body) == {"predictions": [1, -1, 0]}


@pytest.mark.parametrize("value", [1.5, [1.5], [[1.5, 2], [3, 4]]])
def test_input_of_unknown_rank_takes_any(models: Path, value: Any) -> None:
    assert send(load(models / "unknown_rank"), {"inputs": value})["outputs"] == (np.array(value) * 2).tolist()


def test_perceptron_gives_probabilities(models: Path) -> None:
    answer = send(load(models / "perceptron"), {"instances": [[0.1] * 8] * 3})
    assert [sum(row) for row in answer["predictions"]] == pytest.approx([1, 1, 1])


def test_model_refuses_values_with_its_own_words(models: Path) -> None:
    with pytest.raises(InvalidInputError, match="no negative numbers"):
        send(load(models / "picky"), {"instances": [1, -1]})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"instances": [ROW], "signature_name": "three"}, "no signature 'three'"),
        ({"instances": [[1, 2, 3]]}, "shape"),
        ({"instances": [["a", 1, 2, 3]]}, "expected a number"),
        ({"instances": []}, "empty"),
        ({"instances": [{"z": ROW}]}, "missing"),
        ({"signature_name": "two", "inputs": {"a": [[1, 2], [3, 4]], "b": [1, 2, 3]}}, "Incompatible shapes"),
    ],
)
def test_bad_predict_is_refused(models: Path, body: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        send(load(models / "linear"), body)


# every type, both ways


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16", "string"])
def test_every_type_goes_through_both_doors_unchanged(models: Path, dtype: str) -> None:
    engine = load(models / "dtypes")
    values = [[0, 1], [1, 0], [1, 1]]
    if dtype == "string":
        array: Any = np.array([[b"a", b"\xff\0"], [b"", b"b"]], object)
    else:
        array = np.array(values, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    by_rpc = predict(engine, {"x": array}, dtype)["y"]
    assert by_rpc.dtype == array.dtype
    assert (by_rpc == array).all()
    if dtype.startswith("complex"):
        with pytest.raises(InvalidInputError, match="gRPC"):
            send(engine, {"signature_name": dtype, "inputs": [[1, 2]]})
    elif dtype != "string":
        plain = array.astype(bool if dtype == "bool" else float if "float" in dtype else int).tolist()
        assert send(engine, {"signature_name": dtype, "inputs": plain}) == {"outputs": plain}


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_numbers_in_the_typed_fields_are_those_in_the_content(dtype: str) -> None:
    """TensorFlow's own writer of messages fills the typed fields when told to."""
    array = np.array([[0, 1, 2]], ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    proto = build_tensor(array)
    content = proto.tensor_content
    fields = {"float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val"}
    fields |= {"uint32": "uint32_val", "uint64": "uint64_val", "float16": "half_val", "bfloat16": "half_val"}
    fields |= {"complex64": "scomplex_val", "complex128": "dcomplex_val"}
    flat = array.reshape(-1)
    if fields.get(dtype) == "half_val":
        flat = flat.view(np.uint16)
    elif dtype.startswith("complex"):
        flat = flat.view(flat.real.dtype)
    getattr(proto, fields.get(dtype, "int_val")).extend(flat.tolist())
    proto.tensor_content = b""
    assert read_tensor("x", proto).tobytes() == content


def test_fewer_values_are_filled_up_with_the_last_one() -> None:
    proto = library.tensor_pb2.TensorProto(dtype=library.types_pb2.DT_FLOAT, float_val=[1, 2])
    proto.tensor_shape.dim.add(size=4)
    assert read_tensor("x", proto).tolist() == [1, 2, 2, 2]
    proto.ClearField("float_val")
    assert read_tensor("x", proto).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "values", "content"), [([2], [1, 2, 3], b""), ([2], [], b"abc"), ([-1], [1], b""), ([10**12], [1], b"")]
)
def test_tensor_that_does_not_fit_itself_is_refused(shape: list[int], values: list[float], content: bytes) -> None:
    proto = library.tensor_pb2.TensorProto(dtype=library.types_pb2.DT_FLOAT, float_val=values, tensor_content=content)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(InvalidInputError) as refused:
        read_tensor("inputs.x", proto)
    assert refused.value.details == {"field": "inputs.x"}


# classify, regress

EXAMPLES = [{"x": [1.0, 2.0], "tag": "a"}, {"x": [0.5, 0.0], "tag": {"b64": "Yg=="}}]


@pytest.mark.parametrize("name", ["examples", "reference_variables"])
def test_examples_are_classified_and_regressed(models: Path, name: str) -> None:
    engine = load(models / name)
    assert send(engine, {"signature_name": "classify", "examples": EXAMPLES}, "classify") == {
        "results": [[["a", 21.0], ["not a", -21.0]], [["b", 0.5], ["not b", -0.5]]]
    }
    assert send(engine, {"signature_name": "regress", "examples": EXAMPLES}, "regress") == {"results": [21.0, 0.5]}
    scores = send(engine, {"signature_name": "scores", "examples": EXAMPLES[:1]}, "classify")
    assert scores == {"results": [[["", 21.0], ["", -21.0]]]}


def test_context_stands_for_what_an_example_lacks(models: Path) -> None:
    body = {"signature_name": "classify", "context": {"tag": "c", "x": [1.0, 0.0]}, "examples": [{}, {"tag": "d"}]}
    answer = send(load(models / "examples"), body, "classify")
    assert [row[0] for row in answer["results"]] == [["c", 1.0], ["d", 1.0]]


def test_numbers_that_json_does_not_have_are_written_as_tensorflow_serving_does(models: Path) -> None:
    engine = load(models / "examples")
    body = b'{"signature_name": "%b", "examples": [{"x": [%b, 0.0]}]}'
    for word, number in ((b"NaN", math.nan), (b"Infinity", math.inf), (b"-Infinity", -math.inf)):
        (values,) = engine.run([engine.parse("regress", body % (b"regress", word))])
        (classes,) = engine.run([engine.parse("classify", body % (b"scores", word))])
        for value in (read_answer(values)["results"][0], read_answer(classes)["results"][0][0][1]):
            assert value == number or (math.isnan(value) and math.isnan(number))


@pytest.mark.parametrize(
    ("verb", "body", "words"),
    [
        ("classify", {"examples": EXAMPLES}, "method_name"),
        ("regress", {"examples": EXAMPLES, "signature_name": "classify"}, "tensorflow/serving/regress"),
        ("classify", {"examples": EXAMPLES, "signature_name": "z"}, "no signature 'z'"),
        ("classify", {"signature_name": "classify"}, "expected an array of examples"),
        ("classify", {"signature_name": "classify", "examples": []}, "empty"),
        ("classify", {"signature_name": "classify", "examples": [1]}, "object of features"),
        ("classify", {"signature_name": "classify", "examples": [{"x": [1.0, 2]}]}, "values of one kind"),
        ("classify", {"signature_name": "classify", "examples": [{"x": None}]}, "got null"),
        ("classify", {"signature_name": "classify", "examples": [{"x": [[1.0]]}]}, "got an array"),
        ("classify", {"signature_name": "classify", "examples": [{"x": {"b64": "?"}}]}, "base64"),
        ("classify", {"signature_name": "classify", "examples": [{"x": 1e39}]}, "too large"),
        ("classify", {"signature_name": "classify", "examples": [{"x": 2**63}]}, "got a number"),
        ("classify", {"signature_name": "classify", "examples": [{"x": [1, 2]}]}, "Data types don't match"),
        ("classify", {"signature_name": "classify", "context": 3, "examples": [{}]}, "object of features"),
    ],
)
def test_bad_examples_are_refused(models: Path, verb: str, body: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        send(load(models / "examples"), body, verb)


def test_other_verbs_do_not_exist(models: Path) -> None:
    with pytest.raises(NotFoundError):
        load(models / "linear").parse("explain", b"{}")


# gRPC messages


def test_prediction_says_which_model_answered(models: Path) -> None:
    content = call(load(models / "linear"), "Predict", build_predict({"x": np.array([ROW], np.float32)}))
    response = library.predict_pb2.PredictResponse.FromString(content)
    assert read_tensor("y", response.outputs["y"]).tolist() == [ANSWER]
    spec = response.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("m", "serving_default", 6)


def test_output_filter_chooses(models: Path) -> None:
    request = build_predict({"a": np.ones((1, 2), np.float32), "b": np.ones(1, np.int64)}, "two")
    request.output_filter.extend(["total", "count"])
    response = library.predict_pb2.PredictResponse.FromString(call(load(models / "linear"), "Predict", request))
    assert sorted(response.outputs) == ["count", "total"]


def change(request: Any, **inputs: Any) -> Any:
    for name, value in inputs.items():
        if value is None:
            del request.inputs[name]
        else:
            request.inputs[name].CopyFrom(build_tensor(value))
    return request


def two() -> Any:
    return build_predict({"a": np.ones((1, 2), np.float32), "b": np.ones(1, np.int64)}, "two")


def filtered(*names: str) -> Any:
    request = two()
    request.output_filter.extend(names)
    return request


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: build_predict({}, "three"), "no signature 'three'"),
        (lambda: change(two(), b=None), "Missing but required: {b}"),
        (lambda: change(two(), c=np.ones(1)), "Sent extra: {c}"),
        (lambda: change(two(), b=np.ones(1)), "type float64; the model takes int64"),
        (lambda: change(two(), b=objects(b"x")), "type string"),
        (lambda: filtered("z"), "alias not found"),
        (lambda: filtered("total", "total"), "twice"),
    ],
)
def test_bad_message_is_refused(models: Path, build: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        call(load(models / "linear"), "Predict", build())


def build_input(request: Any, *examples: dict[str, list[float]], context: bool = False) -> Any:
    parts = request.input.example_list_with_context if context else request.input.example_list
    for features in examples:
        example = parts.examples.add()
        for name, values in features.items():
            example.features.feature[name].float_list.value.extend(values)
    if context:
        parts.context.features.feature["tag"].bytes_list.value.append(b"c")
    return request


def test_messages_are_classified_and_regressed(models: Path) -> None:
    engine = load(models / "examples")
    asked = build_input(library.classification_pb2.ClassificationRequest(), {"x": [1, 2]}, {"x": [3, 0]}, context=True)
    asked.model_spec.signature_name = "classify"
    answer = library.classification_pb2.ClassificationResponse.FromString(call(engine, "Classify", asked))
    rows = [[(each.label, each.score) for each in row.classes] for row in answer.result.classifications]
    assert rows == [[("c", 21), ("not c", -21)], [("c", 3), ("not c", -3)]]
    asked = build_input(library.regression_pb2.RegressionRequest(), {"x": [1, 2]}, {"x": [3, 0]})
    asked.model_spec.signature_name = "regress"
    values = library.regression_pb2.RegressionResponse.FromString(call(engine, "Regress", asked))
    assert [each.value for each in values.result.regressions] == [21, 3]
    assert values.model_spec.version.value == 6
    asked.ClearField("input")
    with pytest.raises(InvalidInputError, match=r"Input is empty"):
        call(engine, "Regress", asked)


def build_multi(*tasks: tuple[str, str]) -> Any:
    request = build_input(library.inference_pb2.MultiInferenceRequest(), {"x": [1, 2]}, {"x": [3, 0]})
    for method, signature in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", signature
    return request


def test_several_tasks_are_one_run(models: Path) -> None:
    content = call(
        load(models / "examples"), "MultiInference", build_multi(("regress", "regress"), ("classify", "scores"))
    )
    regressed, classified = library.inference_pb2.MultiInferenceResponse.FromString(content).results
    assert [each.value for each in regressed.regression_result.regressions] == [21, 3]
    assert [row.classes[1].score for row in classified.classification_result.classifications] == [-21, -3]
    assert (classified.model_spec.signature_name, classified.model_spec.version.value) == ("scores", 6)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "no task"),
        ([("regress", "regress"), ("regress", "regress")], "twice"),
        ([("predict", "serving_default")], "Unsupported"),
        ([("regress", "classify")], "method_name"),
    ],
)
def test_bad_tasks_are_refused(models: Path, tasks: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        call(load(models / "examples"), "MultiInference", build_multi(*tasks))


def test_metadata_has_all_signatures(models: Path) -> None:
    request = library.get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    content = call(load(models / "linear"), "GetModelMetadata", request)
    response = library.get_model_metadata_pb2.GetModelMetadataResponse.FromString(content)
    found = library.get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert found.signature_def["two"].inputs["b"].dtype == library.types_pb2.DT_INT64
    request.metadata_field[:] = ["other"]
    with pytest.raises(InvalidInputError, match="not supported"):
        call(load(models / "linear"), "GetModelMetadata", request)


# joining


def run_together(engine: TensorflowEngine, *bodies: Any) -> list[Any]:
    answers = engine.run([engine.parse("predict", json.dumps(body).encode()) for body in bodies])
    return [answer if isinstance(answer, TimlError) else json.loads(answer) for answer in answers]


class Spy:
    """Counts the runs of an engine's session."""

    def __init__(self, engine: TensorflowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        run = engine._session.run

        def spy(feeds: Any, fetches: Any, arrays: Any) -> Any:
            self.rows.append(len(arrays[0]) if arrays[0].ndim else 1)
            return run(feeds, fetches, arrays)

        monkeypatch.setattr(engine._session, "run", spy)


def test_requests_of_one_signature_are_one_run(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(models / "linear")
    spy = Spy(engine, monkeypatch)
    other = {"signature_name": "two", "instances": [{"a": [1, 2], "b": 3}]}
    answers = run_together(engine, {"instances": [ROW]}, other, {"inputs": [ROW, ROW]}, {"instances": [[0] * 4]})
    assert spy.rows == [3 + 1, 1]
    assert answers[0] == {"predictions": [ANSWER]}
    assert answers[1]["predictions"][0]["count"] == 6
    assert answers[2] == {"outputs": [ANSWER, ANSWER]}
    assert answers[3] == {"predictions": [[1.0, 1.0, 1.0]]}


def test_bad_request_hurts_no_other(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(models / "picky")
    spy = Spy(engine, monkeypatch)
    first, second, third = run_together(engine, {"instances": [1]}, {"instances": [-1]}, {"instances": [2]})
    assert (first, third) == ({"predictions": [2.0]}, {"predictions": [4.0]})
    assert isinstance(second, InvalidInputError)
    assert spy.rows == [3, 1, 1, 1]


@pytest.mark.parametrize("name", ["total", "counter"])
def test_requests_that_would_see_each_other_are_not_joined(models: Path, name: str) -> None:
    engine = load(models / name)
    bodies = [{"instances": [[1, 2]]}, {"instances": [[3, 4]]}] if name == "total" else [{"instances": [0]}] * 2
    first, second = run_together(engine, *bodies)
    if name == "total":
        assert (first, second) == ({"predictions": [[1.0, 2.0]]}, {"predictions": [[3.0, 4.0]]})
    else:
        assert second["predictions"][0] == first["predictions"][0] + 1


def test_runs_are_padded_up_to_the_allowed_sizes(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TensorflowOptions(allowed_batch_sizes=[1, 4, 8], max_batch_rows=8)
    engine = load_engine(models / "linear", RESOURCES, options)
    spy = Spy(engine, monkeypatch)
    answers = run_together(engine, {"instances": [ROW]}, {"instances": [[0] * 4] * 2})
    assert answers == [{"predictions": [ANSWER]}, {"predictions": [[1.0] * 3] * 2}]
    run_together(engine, {"instances": [ROW] * 5}, {"instances": [ROW] * 5})
    assert len(send(engine, {"instances": [ROW] * 9})["predictions"]) == 9
    assert spy.rows == [4, 8, 8, 9]
    engine.close()


@pytest.mark.parametrize("given", [{"allowed_batch_sizes": [4, 2]}, {"max_batch_rows": 0}, {"other": 1}])
def test_wrong_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="tensorflow"):
        get_runtime_for("tensorflow").parse_options(given)


# tables


def test_rows_are_scored_together_and_bad_ones_told_apart(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(models / "linear")
    spy = Spy(engine, monkeypatch)
    results = engine.score(["id", "x"], [[1, ROW], [2, "[1, 2, 3, 4]"]])
    assert results == [{"y": ANSWER}, {"y": ANSWER}]
    assert spy.rows == [2]
    good, short, text, missing, narrow = engine.score(["id", "x"], [[1, ROW], [2, [1, 2]], [3, "x"], [4, None], [5]])
    assert good == {"y": ANSWER}
    assert all(isinstance(each, InvalidInputError) for each in (short, text, missing, narrow))
    with pytest.raises(InvalidInputError, match="no such column"):
        engine.score(["id"], [[1]])


def test_rows_that_would_see_each_other_are_scored_one_by_one(models: Path) -> None:
    assert load(models / "total").score(["x"], [[[1, 2]], [[3, 4]]]) == [{"y": [1.0, 2.0]}, {"y": [3.0, 4.0]}]


def test_table_with_strings_is_scored(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("color,note\ngreen,a\npink,b\n[],c\n")
    score_file(
        ScoreConfig(
            runtime="tensorflow",
            model_path=str(models / "vocabulary"),
            input_file=str(tmp_path / "in.csv"),
            output_file=str(tmp_path / "out.csv"),
            quarantine_file=str(tmp_path / "bad.csv"),
            most_errors=1,
        )
    )
    assert (tmp_path / "out.csv").read_text() == "color,note,number\ngreen,a,1\npink,b,-1\n[],c,-1\n"


# warm-up


def test_warm_up_requests_are_replayed(models: Path) -> None:
    assert send(load(models / "warm"), {"signature_name": "regress", "examples": EXAMPLES}, "regress")


def test_model_whose_warm_up_fails_is_not_loaded(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"request 1 .* fails: .*Sent extra: \{examples\}"):
        load_engine(models / "badly_warmed", RESOURCES, TensorflowOptions())
    damaged = shutil.copytree(models / "warm", tmp_path / "damaged")
    path = damaged / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidModelError, match="damaged"):
        load_engine(damaged, RESOURCES, TensorflowOptions())


# inspection


def refuse(folder: Path) -> str:
    with pytest.raises(InvalidModelError) as refused:
        inspect_tensorflow(folder, RESOURCES)
    return refused.value.message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reads", "'ReadFile' reads or writes files"),
        ("writes", "'WriteFile' reads or writes files"),
        ("python", "'EagerPyFunc' runs Python"),
        ("prints", "'PrintV2' reads or writes files"),
        ("lists", "'MatchingFiles' reads or writes files"),
        ("restores", "'RestoreV2' reads or writes files in a request"),
        ("aborts", "'Abort' ends the process"),
        ("dataset", "reads or writes files"),
        ("hostile_init", "'InitializeTableFromTextFileV2' reads another file"),
        ("training_only", "no graph with the tag 'serve'; the tags of its graphs are ['train']"),
        ("no_signature", "no signature to serve"),
        ("badly_warmed", "warm-up request 1"),
    ],
)
def test_hostile_model_is_refused_with_the_reason(models: Path, name: str, words: str) -> None:
    assert words in refuse(models / name)


def edit_graph(folder: Path, edit: Callable[[Any], object]) -> None:
    path = folder / "saved_model.pb"
    message = library.saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(message.meta_graphs[0])
    path.write_bytes(message.SerializeToString())


def rename_operation(graph: Any) -> None:
    for function in graph.graph_def.library.function:
        for node in function.node_def:
            node.op = "FancyOp" if node.op == "AddV2" else node.op


def add_caller_of_restore(graph: Any) -> None:
    """A request that reads variables from where the graph says."""
    restore = next(node for node in graph.graph_def.node if node.name == graph.saver_def.restore_op_name)
    path = graph.graph_def.node.add(name="path", op="Const")
    path.attr["dtype"].type = library.types_pb2.DT_STRING
    path.attr["value"].tensor.CopyFrom(build_tensor(np.array(b"/elsewhere/variables", object)))
    again = graph.graph_def.node.add()
    again.CopyFrom(restore)
    again.name, again.input[0] = "again", "path"
    graph.saver_def.restore_op_name = "again"


def hide_reader(graph: Any) -> None:
    """A function without a name, as the graph itself has none."""
    graph.graph_def.node[0].op = "ReadFile"
    graph.graph_def.library.function.add()


def name_two_nodes_alike(graph: Any) -> None:
    nodes = graph.graph_def.library.function[0].node_def
    nodes.add(name=nodes[0].name, op="ReadFile")


def name_function_like_operation(graph: Any) -> None:
    graph.graph_def.library.function.add().signature.name = "ReadFile"


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("linear", rename_operation, "'FancyOp' is not known to TensorFlow here"),
        ("linear", add_caller_of_restore, "'RestoreV2' reads another file"),
        ("linear", hide_reader, "no name for something"),
        ("linear", name_two_nodes_alike, "twice the name"),
        ("linear", name_function_like_operation, "the name of an operation"),
        ("vocabulary", lambda graph: setattr(graph.asset_file_def[0], "filename", "../../x"), "not a file inside"),
        ("vocabulary", lambda graph: graph.ClearField("asset_file_def"), "reads another file"),
        ("linear", lambda graph: graph.signature_def["two"].outputs["count"].ClearField("name"), "sparse"),
        ("linear", lambda graph: setattr(graph.graph_def.node[0], "op", "ReadFile"), "reads or writes files"),
    ],
)
def test_edited_graph_is_refused(
    models: Path, tmp_path: Path, name: str, edit: Callable[[Any], object], words: str
) -> None:
    folder = shutil.copytree(models / name, tmp_path / name)
    edit_graph(folder, edit)
    assert words in refuse(folder)


def cut_graph(folder: Path) -> None:
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-100])


def link_graph(folder: Path) -> None:
    path = folder / "saved_model.pb"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def write_graph(content: bytes) -> Change:
    return lambda folder: (folder / "saved_model.pb").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_graph, "cut off"),
        (link_graph, "is a link"),
        (write_graph(b""), "is empty"),
        (write_graph(b"\x08\x01"), "holds no graph"),
        (write_graph(b"\x12\x05gra"), "is cut off"),
        (write_graph(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), "is cut off"),
        (write_graph(b"\x12" + b"\xff" * 11), "is not a protocol buffer"),
        (write_graph(b"\x07\x00"), "is not a protocol buffer"),
        (write_graph(b"\x12\x05graph\x1a\x01x"), "is another protocol buffer"),
        (write_graph(b"\x0a\x05graph"), "is another protocol buffer"),
        (write_graph(b"\x12\x05graph"), "cannot be read"),
        (lambda folder: (folder / "saved_model.pb").unlink(), "is not there"),
        (lambda folder: (folder / "variables" / "variables.index").unlink(), "variables.index"),
        (lambda folder: (folder / "variables" / "variables.data-00000-of-00001").unlink(), "one set of files"),
        (
            lambda folder: (folder / "variables" / "variables.data-00000-of-00001").rename(
                folder / "variables" / "variables.data-00000-of-00002"
            ),
            "lacks some of its 2 files",
        ),
        (lambda folder: shutil.rmtree(folder / "variables"), "the model does not answer the example"),
        (lambda folder: (folder / "variables" / "variables.index").write_bytes(b"x"), "TensorFlow refuses the model"),
    ],
)
def test_damaged_files_are_refused(models: Path, tmp_path: Path, damage: Change, words: str) -> None:
    folder = shutil.copytree(models / "linear", tmp_path / "model")
    damage(folder)
    assert words in refuse(folder)


def build_settings(folder: Path) -> Settings:
    store = (folder / "artifacts").as_uri()
    return Settings(data_dir=folder, database_url="sqlite://", artifact_store=store, encryption_key="")


def test_model_is_tried_in_the_limited_process(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linear"
    shutil.copytree(models / "linear", folder / "1")
    report = inspect_in_limited_process(folder, "tensorflow", settings=build_settings(tmp_path))
    assert report.checks == ["structure", "ops", "loaded", "example"]
    assert report.framework["signatures"] == "scalar, serving_default, two"
    assert report.signature is not None
    (field,) = report.signature.inputs
    assert (field.name, field.dtype, field.shape) == ("x", "float", [4])
    assert send(load(models / "linear"), report.signature.example)["predictions"] == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize(("name", "words"), [("endless", "longer than 6 s"), ("large", "OOM")])
def test_bomb_ends_in_the_limited_process_alone(models: Path, tmp_path: Path, name: str, words: str) -> None:
    limits = replace(build_settings(tmp_path), inspection_timeout_seconds=6 if name == "endless" else 60)
    with pytest.raises(InvalidModelError, match=words):
        inspect_in_limited_process(models / name, "tensorflow", settings=limits)


def test_example_of_parsed_features_has_them(models: Path) -> None:
    report = inspect_tensorflow(models / "examples", RESOURCES)
    assert report.signature is not None
    assert report.signature.example is not None
    assert send(load(models / "examples"), report.signature.example) == {"predictions": [[0.0]]}


def test_listing_runtimes_does_not_import_tensorflow() -> None:
    """Every API server lists them."""
    code = (
        "import sys; from airflow_provider_timl.runtimes.contract import list_runtimes; list_runtimes(); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# the real server


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    server = start_server(folder, runtime="tensorflow", model_path=str(models / "examples"), memory_mb=1024)
    yield server
    stop_server(server)


def test_server_answers_every_verb(server: Server) -> None:
    body = json.dumps({"signature_name": "regress", "examples": EXAMPLES}).encode()
    assert server.send(body, "/v1/models/m:regress") == (200, {"results": [21.0, 0.5]})
    body = json.dumps({"signature_name": "scores", "examples": EXAMPLES[:1]}).encode()
    assert server.send(body, "/v1/models/m/versions/6:classify")[1] == {"results": [[["", 21.0], ["", -21.0]]]}
    status = server.send(b"", "/v1/models/m", "GET")[1]
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert server.predict(status["signature"]["example"]) == (200, {"predictions": [[0.0]]})
    found, answer = server.send(b'{"examples": [{}]}', "/v1/models/m:classify")
    assert (found, list(answer)) == (400, ["error"])
    found, answer = server.send(b"{}", "/v1/models/m:explain")
    known = ":predict, :classify and :regress"
    assert (found, answer) == (404, {"error": f"method ':explain' does not exist; there is {known}"})


def test_server_prints_metadata_as_tensorflow_serving_does(server: Server) -> None:
    status, answer = server.send(b"", "/v1/models/m/metadata", "GET")
    assert status == 200
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "6"}
    definition = answer["metadata"]["signature_def"]["signature_def"]["regress"]
    assert definition["method_name"] == "tensorflow/serving/regress"
    assert definition["inputs"]["inputs"] == {
        "dtype": "DT_STRING",
        "name": "examples:0",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    }


# whatever comes

NAMES = ["instances", "inputs", "x", "tag", "examples", "context", "signature_name", "classify", "regress", "b64"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from(NAMES),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(NAMES), children),
    max_leaves=12,
)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.sampled_from(["predict", "classify", "regress"]), st.dictionaries(st.sampled_from(NAMES), JSON))
@FUZZ
def test_no_body_makes_the_engine_fail(models: Path, verb: str, body: Any) -> None:
    for name in ("examples", "unknown_rank"):
        answer = attempt(load(models / name), lambda engine: engine.parse(verb, json.dumps(body).encode()))
        assert isinstance(answer, bytes) or answer.status == 400, answer


def attempt(engine: TensorflowEngine, parse: Callable[[TensorflowEngine], Any]) -> bytes | TimlError:
    try:
        (answer,) = engine.run([parse(engine)])
    except TimlError as exc:
        return exc
    return answer


METHODS = ["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"]


@given(st.sampled_from(METHODS), st.binary(max_size=80), st.integers(0, 200), st.booleans())
@FUZZ
def test_no_message_makes_the_engine_fail(
    models: Path, method: str, noise: bytes, place: int, is_grafted: bool
) -> None:
    """Noise, and a good request with noise in the place of some of its bytes."""
    good = build_multi(("regress", "regress")) if method == "MultiInference" else two()
    content = good.SerializeToString()
    message = content[:place] + noise + content[place + len(noise) :] if is_grafted else noise
    for name in ("linear", "examples"):
        answer = attempt(load(models / name), lambda engine: engine.parse_rpc(method, message))
        assert isinstance(answer, bytes) or answer.status == 400, answer
