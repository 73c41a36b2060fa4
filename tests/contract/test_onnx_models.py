"""The ``onnx`` runtime: answers, joining, tables, what is refused, and the real server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
import pytest
import skl2onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from airflow_provider_timl.batch.score import ScoreConfig, score_file
from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, NotFoundError, TimlError
from airflow_provider_timl.repository.inspection import inspect_in_limited_process
from airflow_provider_timl.runtimes.contract import RuntimeOptions, get_runtime_for
from airflow_provider_timl.runtimes.onnx import OnnxEngine, inspect_onnx, load_onnx
from airflow_provider_timl.settings import Settings
from tests.servers.model_server import Server, start_server, stop_server

Tensor = tuple[str, int, Sequence[int | str | None] | None]
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
ROWS: Tensor = ("x", FLOAT, ["N", 2])


def build_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[*opsets, *(helper.make_opsetid(domain, 1) for domain in domains)]
    )
    model.ir_version = 8
    return model


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    found: onnx.NodeProto = helper.make_node(kind, inputs.split(), outputs.split(), **attributes)
    return found


def write(folder: Path, model: onnx.ModelProto) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def load(folder: Path, model: onnx.ModelProto) -> OnnxEngine:
    return load_onnx(write(folder, model), Resources(), RuntimeOptions())


def refuse(folder: Path) -> str:
    with pytest.raises(InvalidModelError) as caught:
        inspect_onnx(folder, Resources())
    return caught.value.message


def ask(engine: OnnxEngine, *bodies: Any) -> list[Any]:
    """Answers of one batch; what is refused as its sentence."""
    answers = engine.run([engine.parse("predict", json.dumps(body).encode()) for body in bodies])
    return [answer.message if isinstance(answer, TimlError) else json.loads(answer) for answer in answers]


def build_linear(batch: int | str = "N") -> onnx.ModelProto:
    """``y = x W + b`` with whole numbers: [10 x1 + x2, x1 - x2]."""
    weights = [
        numpy_helper.from_array(np.array([[10, 1], [1, -1]], np.float32), "W"),
        numpy_helper.from_array(np.array([0, 0.5], np.float32), "b"),
    ]
    nodes = [node("MatMul", "x W", "p"), node("Add", "p b", "y")]
    return build_model(nodes, [("x", FLOAT, [batch, 2])], [("y", FLOAT, [batch, 2])], weights)


def build_classifier() -> onnx.ModelProto:
    """What scikit-learn's converter writes: a linear classifier with named classes and a map of probabilities."""
    nodes = [
        node(
            "LinearClassifier",
            "x",
            "label scores",
            domain="ai.onnx.ml",
            classlabels_strings=["no", "yes"],
            coefficients=[1.0, 0.0, -1.0, 0.0],
            intercepts=[0.0, 0.0],
            multi_class=0,
            post_transform="LOGISTIC",
        ),
        node("ZipMap", "scores", "probabilities", domain="ai.onnx.ml", classlabels_strings=["no", "yes"]),
    ]
    model = build_model(nodes, [ROWS], [("label", STRING, ["N"])])
    probability = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    model.graph.output.append(helper.make_value_info("probabilities", helper.make_sequence_type_proto(probability)))
    return model


def build_identity(kind: int, shape: Sequence[int | str | None] | None = ("N",)) -> onnx.ModelProto:
    return build_model([node("Identity", "x", "y")], [("x", kind, shape)], [("y", kind, shape)])


@pytest.fixture
def linear(tmp_path: Path) -> OnnxEngine:
    return load(tmp_path, build_linear())


# ---- requests and answers


def test_both_forms_get_the_answer_of_their_form(linear: OnnxEngine) -> None:
    assert ask(linear, {"instances": [[1, 2], [3, 4]]}) == [{"predictions": [[12.0, -0.5], [34.0, -0.5]]}]
    assert ask(linear, {"instances": [{"x": [1, 2]}]}) == [{"predictions": [[12.0, -0.5]]}]
    assert ask(linear, {"inputs": [[1, 2]]}) == [{"outputs": [[12.0, -0.5]]}]
    assert ask(linear, {"inputs": {"x": [[1, 2]]}, "signature_name": "serving_default"}) == [
        {"outputs": [[12.0, -0.5]]}
    ]


def test_only_predict_is_there(linear: OnnxEngine) -> None:
    with pytest.raises(NotFoundError):
        linear.parse("classify", b"{}")


def test_several_inputs_and_outputs_have_names(tmp_path: Path) -> None:
    inputs: list[Tensor] = [("a", FLOAT, ["N"]), ("b", INT64, ["N"])]
    nodes = [node("Identity", "a", "c"), node("Neg", "b", "d")]
    engine = load(tmp_path, build_model(nodes, inputs, [("c", FLOAT, ["N"]), ("d", INT64, ["N"])]))
    assert ask(engine, {"instances": [{"a": 0.1, "b": 2**62}]}) == [{"predictions": [{"c": 0.1, "d": -(2**62)}]}]
    assert ask(engine, {"inputs": {"a": [0.1], "b": [7, 8]}}) == [{"outputs": {"c": [0.1], "d": [-7, -8]}}]


def test_maps_of_probabilities_are_objects(tmp_path: Path) -> None:
    engine = load(tmp_path, build_classifier())
    (answer,) = ask(engine, {"instances": [[0, 0], [100, 0]]})
    assert answer["predictions"][0]["probabilities"] == {"no": 0.5, "yes": 0.5}
    assert answer["predictions"][1] == {"label": "no", "probabilities": {"no": 1.0, "yes": 0.0}}
    assert [field.dtype for field in engine.signature.outputs] == ["string", "map"]


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        (TensorProto.FLOAT, [0.1, -3.5], "float"),
        (TensorProto.DOUBLE, [0.1, 1e300], "double"),
        (TensorProto.FLOAT16, [0.1, 2.0], "float16"),
        (TensorProto.INT64, [2**63 - 1, -1], "integer"),
        (TensorProto.INT32, [1, -1], "int32"),
        (TensorProto.INT8, [127, -128], "int8"),
        (TensorProto.UINT8, [0, 255], "uint8"),
        (TensorProto.UINT64, [2**64 - 1, 0], "uint64"),
        (TensorProto.BOOL, [True, False], "boolean"),
        (TensorProto.STRING, ["\u00e9", ""], "string"),
    ],
)
def test_each_type_passes_through_unchanged(tmp_path: Path, kind: int, values: list[Any], dtype: str) -> None:
    engine = load(tmp_path, build_identity(kind))
    assert ask(engine, {"instances": values}) == [{"predictions": values}]
    assert engine.signature.inputs[0].dtype == engine.signature.outputs[0].dtype == dtype


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    engine = load(tmp_path, build_identity(STRING))
    assert ask(engine, {"instances": [{"b64": "YQ=="}]}) == [{"predictions": ["a"]}]
    with pytest.raises(InvalidInputError, match="UTF-8"):
        engine.parse("predict", b'{"instances": [{"b64": "/w=="}]}')


def test_wrong_shape_is_named_before_the_model_is_asked(linear: OnnxEngine) -> None:
    with pytest.raises(InvalidInputError) as caught:
        linear.parse("predict", b'{"instances": [[1, 2, 3]]}')
    assert caught.value.details["field"] == "x"
    assert "shape (1, 3) does not fit (?, 2)" in caught.value.message


@pytest.mark.parametrize("shape", [None, []])
def test_scalars_and_unknown_ranks_are_sent_in_column_form(tmp_path: Path, shape: list[int] | None) -> None:
    engine = load(tmp_path, build_identity(FLOAT, shape))
    assert ask(engine, {"inputs": 1.5}) == [{"outputs": 1.5}]
    assert engine.signature.example == {"inputs": {"x": 1.0}}
    assert engine.signature.outputs[0].shape == []


def test_unknown_rank_takes_any(tmp_path: Path) -> None:
    engine = load(tmp_path, build_identity(FLOAT, None))
    assert ask(engine, {"instances": [[[1], [2]]]}, {"instances": [[1, 2]]}) == [
        {"predictions": [[[1.0], [2.0]]]},
        {"predictions": [[1.0, 2.0]]},
    ]


# ---- joining


def count_runs(engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each run of the model, from now on."""
    counts: list[int] = []
    evaluate = engine._evaluate

    def note(inputs: Any) -> Any:
        counts.append(len(next(iter(inputs.values()))))
        return evaluate(inputs)

    monkeypatch.setattr(engine, "_evaluate", note)
    return counts


def test_requests_that_wait_are_one_run(linear: OnnxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_runs(linear, monkeypatch)
    bodies = [{"instances": [[number, 0]] * (1 + number % 3)} for number in range(20)]
    answers = ask(linear, *bodies, {"inputs": [[7, 7]]})
    assert counts == [sum(len(body["instances"]) for body in bodies) + 1]
    assert answers[:-1] == [{"predictions": [[10.0 * number, number + 0.5]] * (1 + number % 3)} for number in range(20)]
    assert answers[-1] == {"outputs": [[77.0, 0.5]]}


def test_fixed_batch_is_run_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(tmp_path, build_linear(batch=1))
    counts = count_runs(engine, monkeypatch)
    assert ask(engine, *[{"instances": [[number, 0]]} for number in range(3)]) == [
        {"predictions": [[10.0 * number, number + 0.5]]} for number in range(3)
    ]
    assert counts == [1, 1, 1]


@pytest.mark.parametrize("kind", [FLOAT, INT64])
def test_model_that_mixes_the_rows_of_a_batch_is_run_one_by_one(tmp_path: Path, kind: int) -> None:
    """A sum over the batch: joined, each caller would get numbers of the others."""
    axes = numpy_helper.from_array(np.array([0]), "axes")
    nodes = [node("ReduceSum", "x axes", "m", keepdims=1), node("Sub", "x m", "y")]
    engine = load(tmp_path, build_model(nodes, [("x", kind, ["N", 2])], [("y", kind, ["N", 2])], [axes]))
    assert ask(engine, {"instances": [[1, 1]]}, {"instances": [[5, 5]]}) == [{"predictions": [[0.0, 0.0]]}] * 2


def test_output_without_a_row_for_each_row_is_run_one_by_one(tmp_path: Path) -> None:
    nodes = [node("NonZero", "x", "n"), node("Transpose", "n", "y")]
    engine = load(tmp_path, build_model(nodes, [ROWS], [("y", INT64, ["M", 2])]))
    assert ask(engine, {"inputs": [[1, 0]]}, {"inputs": [[1, 1]]}) == [
        {"outputs": [[0, 0]]},
        {"outputs": [[0, 0], [0, 1]]},
    ]


def build_lookup() -> onnx.ModelProto:
    table = numpy_helper.from_array(np.array([10, 20, 30], np.float32), "table")
    return build_model([node("Gather", "table x", "y")], [("x", INT64, ["N"])], [("y", FLOAT, ["N"])], [table])


def test_broken_request_hurts_no_other(tmp_path: Path) -> None:
    engine = load(tmp_path, build_lookup())
    first, broken, last = ask(engine, {"instances": [1]}, {"instances": [99]}, {"instances": [2, 0]})
    assert (first, last) == ({"predictions": [20.0]}, {"predictions": [30.0, 10.0]})
    assert broken.startswith("the model cannot evaluate the request: ")
    assert "99" in broken


def test_answer_that_has_no_row_form_is_refused_for_that_request_alone(tmp_path: Path) -> None:
    nodes = [node("ReduceSum", "x", "y", keepdims=0)]
    engine = load(tmp_path, build_model(nodes, [ROWS], [("y", FLOAT, [])]))
    refused, answered = ask(engine, {"instances": [[1, 2]]}, {"inputs": [[1, 2]]})
    assert "column form" in refused
    assert answered == {"outputs": 3.0}


# ---- inspection


def test_inspection_tells_what_the_model_takes_and_gives(tmp_path: Path) -> None:
    report = inspect_onnx(write(tmp_path, build_linear()), Resources())
    assert report.checks == ["structure", "loaded", "example"]
    assert report.signature is not None
    assert report.signature.example == {"instances": [[1.0, 1.0]]}
    assert report.signature.inputs[0].model_dump() == {
        "name": "x",
        "dtype": "float",
        "shape": [2],
        "required": True,
        "values": None,
    }
    assert report.framework["operators"] == "ai.onnx 17, ai.onnx.ml 3"


def test_example_is_one_that_runs(tmp_path: Path) -> None:
    """One is no place in this table of one row."""
    table = numpy_helper.from_array(np.array([10], np.float32), "table")
    model = build_model([node("Gather", "table x", "y")], [("x", INT64, ["N"])], [("y", FLOAT, ["N"])], [table])
    engine = load(tmp_path, model)
    assert engine.signature.example == {"instances": [0]}
    assert ask(engine, engine.signature.example) == [{"predictions": [10.0]}]


def test_large_example_is_tried_but_not_shown(tmp_path: Path) -> None:
    report = inspect_onnx(write(tmp_path, build_identity(FLOAT, ["N", 3, 32, 32])), Resources())
    assert "example" in report.checks
    assert report.signature is not None
    assert report.signature.example is None


def test_model_is_inspected_in_the_limited_process(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=f"sqlite:///{tmp_path / 'timl.db'}",
        artifact_store=(tmp_path / "artifacts").as_uri(),
        encryption_key="",
    )
    report = inspect_in_limited_process(write(tmp_path / "model", build_linear()), "onnx", settings=settings)
    assert (report.model_type, report.checks) == ("onnx", ["structure", "loaded", "example"])
    (tmp_path / "model" / "model.onnx").write_bytes(b"hello")
    with pytest.raises(InvalidModelError, match=r"model\.onnx is not an ONNX model"):
        inspect_in_limited_process(tmp_path / "model", "onnx", settings=settings)


def test_runtime_is_found_by_its_type() -> None:
    program = get_runtime_for("onnx")
    assert (program.name, program.extra, program.find_missing()) == ("onnx", "onnx", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello", "is not an ONNX model"),
        (b"\x00" * 100, "is not an ONNX model"),
        (b"\x80" * 100, "is not an ONNX model"),
        (b"\x08\x08", "it has no graph"),
        (build_linear().SerializeToString()[:-9], "is not an ONNX model, or it is truncated"),
        (build_linear().SerializeToString()[:40], "is not an ONNX model, or it is truncated"),
        (b"\xba\x80\x80\x80\x20\x00", "no field begins"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert words in refuse(tmp_path)


def test_artifact_has_one_model(tmp_path: Path) -> None:
    assert "exactly one .onnx file; found none" in refuse(tmp_path)
    write(tmp_path / "a", build_linear())
    write(tmp_path / "b", build_linear())
    assert "found model.onnx, model.onnx" in refuse(tmp_path)


def test_link_is_no_model(tmp_path: Path) -> None:
    write(tmp_path / "real", build_linear())
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "model.onnx").symlink_to(tmp_path / "real" / "model.onnx")
    assert "not a regular file" in refuse(tmp_path / "artifact")


def test_operators_that_are_not_there_are_named(tmp_path: Path) -> None:
    custom = build_model(
        [node("Foo", "x", "y", domain="com.acme")], [ROWS], [("y", FLOAT, ["N", 2])], domains=["com.acme"]
    )
    assert "operators that ONNX Runtime does not have (com.acme.Foo)" in refuse(write(tmp_path / "a", custom))
    unknown = build_model([node("Foo", "x", "y")], [ROWS], [("y", FLOAT, ["N", 2])])
    message = refuse(write(tmp_path / "b", unknown))
    assert message.startswith("ONNX Runtime refuses the model: ")
    assert "Foo" in message
    assert str(tmp_path) not in message


def test_operator_that_the_model_defines_itself_is_there(tmp_path: Path) -> None:
    model = build_model([node("Twice", "x", "y", domain="own")], [ROWS], [("y", FLOAT, ["N", 2])], domains=["own"])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], opsets))
    inspect_onnx(write(tmp_path, model), Resources())


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.COMPLEX64])
def test_types_that_requests_cannot_carry_are_refused(tmp_path: Path, kind: int) -> None:
    assert "x" in refuse(write(tmp_path, build_identity(kind)))


def test_outputs_that_answers_cannot_carry_are_refused_with_a_hint(tmp_path: Path) -> None:
    model = build_model([node("SequenceConstruct", "x", "y")], [ROWS], [])
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["N", 2]))
    model.graph.output.append(helper.make_value_info("y", sequence))
    assert "the output 'y' is of type seq(tensor(float)); give the model outputs that are tensors" in refuse(
        write(tmp_path, model)
    )


def test_model_without_inputs_is_refused(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones(2, np.float32))
    assert "no input" in refuse(
        write(tmp_path, build_model([node("Constant", "", "y", value=value)], [], [("y", FLOAT, [2])]))
    )


# ---- external data


def build_external(location: str, *, in_branch: bool = False) -> onnx.ModelProto:
    """``y = x + w`` with ``w`` in a file; or with it in a branch of an ``If`` within a function."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    if not in_branch:
        return build_model([node("Add", "x w", "y")], [ROWS], [("y", FLOAT, ["N", 2])], [weight])
    branch = helper.make_graph(
        [node("Constant", "", "c", value=weight)], "b", [], [helper.make_tensor_value_info("c", FLOAT, [2])]
    )
    condition = node("Constant", "", "t", value=numpy_helper.from_array(np.array(True)))
    nodes = [condition, node("If", "t", "d", then_branch=branch, else_branch=branch), node("Add", "a d", "b")]
    model = build_model([node("Own", "x", "y", domain="own")], [ROWS], [("y", FLOAT, ["N", 2])], domains=["own"])
    model.functions.append(helper.make_function("own", "Own", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]))
    return model


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    write(tmp_path, build_external("weights.bin"))
    (tmp_path / "weights.bin").write_bytes(np.array([1, 2], np.float32).tobytes())
    inspect_onnx(tmp_path, Resources())
    assert ask(load_onnx(tmp_path, Resources(), RuntimeOptions()), {"instances": [[1, 1]]}) == [
        {"predictions": [[2.0, 3.0]]}
    ]


@pytest.mark.parametrize("in_branch", [False, True])
@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../outside.bin", "not a plain relative path"),
        ("a/../../outside.bin", "not a plain relative path"),
        ("/etc/passwd", "not a plain relative path"),
        ("a\\b", "not a plain relative path"),
        ("*/_ORT_MEM_ADDR_/*", "not a plain relative path"),
        ("", "not a plain relative path"),
        (".", "not a plain relative path"),
        ("link.bin", "is a link"),
        ("folder/link.bin", "is a link"),
        ("absent.bin", "is not in the artifact"),
    ],
)
def test_external_data_elsewhere_is_refused_wherever_it_hides(
    tmp_path: Path, location: str, words: str, in_branch: bool
) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(8))
    folder = write(tmp_path / "artifact", build_external(location, in_branch=in_branch))
    (folder / "folder").mkdir()
    for link in (folder / "link.bin", folder / "folder" / "link.bin"):
        link.symlink_to(tmp_path / "outside.bin")
    assert words in refuse(folder)


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    write(tmp_path, build_external("weights.bin"))
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    assert "ONNX Runtime refuses the model" in refuse(tmp_path)


# ---- tables


def test_inputs_are_columns_of_their_names(tmp_path: Path) -> None:
    inputs: list[Tensor] = [("a", FLOAT, ["N"]), ("b", INT64, ["N", 2]), ("s", STRING, ["N"])]
    nodes = [node("Identity", "a", "c"), node("Neg", "b", "d"), node("Identity", "s", "t")]
    outputs: list[Tensor] = [("c", FLOAT, ["N"]), ("d", INT64, ["N", 2]), ("t", STRING, ["N"])]
    engine = load(tmp_path, build_model(nodes, inputs, outputs))
    rows = [["x", [1, 2], 0.1, "1"], ["x", "[3, 4]", 2, "b"], ["x", [1.0, 2.0], "0.5", "c"], ["x", None, 1, "d"]]
    first, second, third, fourth = engine.score(["id", "b", "a", "s"], rows)
    assert first == {"c": 0.1, "d": [-1, -2], "t": "1"}
    assert second == {"c": 2.0, "d": [-3, -4], "t": "b"}
    assert isinstance(third, InvalidInputError)
    assert third.details["field"] == "b[0]"
    assert isinstance(fourth, InvalidInputError)
    with pytest.raises(InvalidInputError, match="no such column; it has id, a"):
        engine.score(["id", "a"], [])


def test_numbers_of_a_row_may_be_columns(linear: OnnxEngine) -> None:
    rows = [[1, 2], ["3", "4"], [5, None], [6, "x"], [1], [0.1, float("nan")]]
    answers = linear.score(["p", "q"], rows)
    assert answers[:2] == [{"y": [12.0, -0.5]}, {"y": [34.0, -0.5]}]
    assert [answer.details.get("field") for answer in answers[2:5] if isinstance(answer, TimlError)] == [
        "x[1]",
        "x[1]",
        None,
    ]
    assert isinstance(answers[5], dict)
    with pytest.raises(InvalidInputError, match="3 columns where the model takes 2 values"):
        linear.score(["p", "q", "r"], [])


def test_row_that_the_model_does_not_take_is_refused_alone(tmp_path: Path) -> None:
    engine = load(tmp_path, build_lookup())
    answers = engine.score(["x"], [[number % 4] for number in range(100)])
    assert [isinstance(answer, InvalidInputError) for answer in answers] == [number % 4 == 3 for number in range(100)]
    assert answers[1] == {"y": 20.0}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_file_is_scored_with_lists_and_maps(tmp_path: Path, suffix: str) -> None:
    source, sink = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".csv":
        source.write_text("p,q\n1,2\n3,4\n")
    else:
        pa.parquet.write_table(pa.table({"p": [1.0, 3.0], "q": [2.0, 4.0]}), source)
    for model, expected in ((build_linear(), [[12.0, -0.5], [34.0, -0.5]]), (build_classifier(), ["no", "no"])):
        folder = write(tmp_path / "model", model)
        config = ScoreConfig("onnx", str(folder), str(source), str(sink), str(tmp_path / "quarantine.csv"))
        assert score_file(config) == {"row_count": 2, "error_count": 0}
        if suffix == ".csv":
            lines = sink.read_text().splitlines()
            assert lines[0].startswith("p,q,y" if model.graph.output[0].name == "y" else "p,q,label,probabilities")
            assert lines[1].startswith('1,2,"[12.0, -0.5]"' if isinstance(expected[0], list) else "1,2,no,")
        else:
            assert pa.parquet.read_table(sink).column(2).to_pylist() == expected


# ---- the server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write(tmp_path_factory.mktemp("onnx"), build_lookup())
    server = start_server(tmp_path_factory.mktemp("server"), runtime="onnx", model_path=str(folder))
    yield server
    stop_server(server)


def test_server_answers_and_refuses(server: Server) -> None:
    assert server.predict({"instances": [1]}) == (200, {"predictions": [20.0]})
    assert server.predict({"instances": ["1"]}) == (
        400,
        {"error": "instances[0]: expected a whole number, got a string (1)"},
    )
    status, answer = server.predict({"instances": [99]})
    assert (status, list(answer)) == (400, ["error"])


def test_server_tells_its_signature(server: Server) -> None:
    _, status = server.send(b"", "/v1/models/m", "GET")
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert status["signature"]["inputs"][0]["dtype"] == "integer"
    assert server.predict(status["signature"]["example"])[0] == 200
    _, metadata = server.send(b"", "/v1/models/m/metadata", "GET")
    assert metadata["metadata"]["signature"] == status["signature"]


def test_concurrent_requests_get_their_own_answers(server: Server) -> None:
    def ask_many(number: int) -> set[str]:
        body = {"instances": [number]} if number < 3 else {"instances": [99]}
        return {json.dumps(server.predict(body)) for _ in range(50)}

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_many, [0, 1, 2, 3] * 2))
    assert answers[:3] == [{json.dumps([200, {"predictions": [value]}])} for value in (10.0, 20.0, 30.0)]
    assert all(len(found) == 1 and "cannot evaluate" in next(iter(found)) for found in (answers[3], answers[7]))


@given(
    st.binary(max_size=40)
    | st.lists(st.integers() | st.floats() | st.text(max_size=3), max_size=3).map(
        lambda values: json.dumps({"instances": values}).encode()
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_the_server_fail(server: Server, body: bytes) -> None:
    status, answer = server.send(body)
    assert status in {200, 400}
    assert list(answer) == ["predictions" if status == 200 else "error"]


def test_published_digits_are_classified_as_by_scikit_learn(tmp_path: Path) -> None:
    """A model as people have them: trained, converted, uploaded."""
    digits, labels = load_digits(return_X_y=True)
    classifier = LogisticRegression(max_iter=1000).fit(digits / 16, labels)
    model = skl2onnx.to_onnx(classifier, (digits[:1] / 16).astype(np.float32))
    engine = load(tmp_path, model)
    (answer,) = ask(engine, {"instances": (digits[:100] / 16).tolist()})
    assert [row["output_label"] for row in answer["predictions"]] == classifier.predict(digits[:100] / 16).tolist()
    found = [list(row["output_probability"].values()) for row in answer["predictions"]]
    np.testing.assert_allclose(found, classifier.predict_proba(digits[:100] / 16), atol=1e-5)
