"""The ``angel`` runtime: published and generated answers, every file format, every layer, and what is refused."""

from __future__ import annotations

import json
import math
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, NotFoundError
from airflow_provider_timl.runtimes.angel.engine import AngelEngine, AngelOptions, inspect_angel, load_angel
from airflow_provider_timl.runtimes.angel.losses import to_java
from airflow_provider_timl.runtimes.angel.matrices import read_columns, read_rows
from airflow_provider_timl.runtimes.contract import find_model_root
from tests.angel_writer import (
    COLUMN_FORMATS,
    DOUBLE_DENSE,
    DOUBLE_SPARSE,
    DOUBLE_SPARSE_LONGKEY,
    FLOAT_DENSE,
    FLOAT_SPARSE,
    FLOAT_SPARSE_LONGKEY,
    ROW_FORMATS,
    Layout,
    read_meta,
    to_row,
    write_matrix,
    write_meta,
    write_model,
)

DATA = Path(__file__).parents[1] / "data" / "angel"
PUBLISHED = [
    case
    for case in json.loads((DATA / "published" / "requests.json").read_text())["cases"]
    if "request" in case and not case["model"].startswith("pmml")
]
GENERATED = json.loads((DATA / "generated" / "expected.json").read_text())
MALFORMED = json.loads((DATA / "malformed" / "manifest.json").read_text())
PLAIN = Layout("ColIdValueTextRowFormat", DOUBLE_DENSE, (0, 4))


def predict(engine: AngelEngine, request: Any) -> list[dict[str, str]]:
    (answer,) = engine.run([engine.parse("predict", json.dumps(request).encode())])
    assert isinstance(answer, bytes)
    predictions: list[dict[str, str]] = json.loads(answer)["predictions"]
    return predictions


def is_close(found: dict[str, str], expected: dict[str, str], rel_tol: float) -> bool:
    if found.keys() != expected.keys() or found["sid"] != expected["sid"]:
        return False
    pairs = [(float(found[name]), float(expected[name])) for name in expected if name != "sid"]
    return all((math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=rel_tol) for a, b in pairs)


# known answers


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["model"])
def test_published_requests_get_the_published_answer_to_the_last_digit(case: dict[str, Any]) -> None:
    engine = load_angel(DATA / "published" / case["model"], Resources(), AngelOptions())
    expected = (
        case["response"]["predictions"]
        if case["response"]
        else case.get("angel_engine_patched") or case["angel_engine"]
    )
    assert predict(engine, case["request"]) == expected


@pytest.mark.parametrize("number", range(len(GENERATED)), ids=lambda number: f"{GENERATED[number]['model']}-{number}")
def test_generated_models_answer_as_angels_engine(number: int) -> None:
    case = GENERATED[number]
    engine = load_angel(DATA / "generated" / case["model"] / str(case["version"]), Resources(), AngelOptions())
    if "error" in case["expected"]:
        with pytest.raises(InvalidInputError, match="features"):
            predict(engine, case["request"])
        return
    found = predict(engine, case["request"])
    assert len(found) == len(case["expected"])
    assert all(is_close(a, b, case["rel_tol"]) for a, b in zip(found, case["expected"], strict=True)), found


def test_answer_is_written_as_angel_serving_writes_it() -> None:
    case = PUBLISHED[0]
    engine = load_angel(DATA / "published" / case["model"], Resources(), AngelOptions())
    (answer,) = engine.run([engine.parse("predict", json.dumps(case["request"]).encode())])
    assert list(json.loads(answer)["predictions"][0]) == ["trueLabel", "proba", "pred", "attached", "predLabel", "sid"]


def test_status_tells_types_and_dimension() -> None:
    engine = load_angel(DATA / "published" / "lr" / "6", Resources(), AngelOptions())
    described = engine.describe()
    assert described["typeMap"] == {"valueType": "DT_FLOAT", "keyType": "DT_INT32"}
    assert described["dim"] == "123"


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (-1.5, "-1.5"),
        (0.001, "0.001"),
        (9.99e-4, "9.99E-4"),
        (1e-5, "1.0E-5"),
        (9999999.0, "9999999.0"),
        (1e7, "1.0E7"),
        (12345678.9, "1.23456789E7"),
        (-7.42899996743e7, "-7.42899996743E7"),
        (1e300, "1.0E300"),
        (1.7976931348623157e308, "1.7976931348623157E308"),
        (2.2250738585072014e-308, "2.2250738585072014E-308"),
        (100000000000000000000.0, "1.0E20"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_numbers_are_spelled_as_java_spells_them(number: float, written: str) -> None:
    assert to_java(number) == written


@given(st.floats())
def test_spelling_keeps_every_number(number: float) -> None:
    text = to_java(number).replace("Infinity", "inf")
    assert float(text) == number or (math.isnan(number) and text == "NaN")


# files


def is_float(layout: Layout) -> bool:
    return not layout.is_double


@st.composite
def matrices(draw: st.DrawFn, formats: tuple[str, ...]) -> tuple[list[dict[int, float]], int, Layout]:
    format_name = draw(st.sampled_from(formats))
    types = [DOUBLE_DENSE, FLOAT_DENSE]
    if not format_name.startswith("Value"):
        types += [DOUBLE_SPARSE, FLOAT_SPARSE, DOUBLE_SPARSE_LONGKEY, FLOAT_SPARSE_LONGKEY]
    row_type = draw(st.sampled_from(types))
    is_dense = row_type in {DOUBLE_DENSE, FLOAT_DENSE}
    columns = draw(st.integers(1, 30))
    width = 64 if row_type < 7 else 32
    values = st.floats(width=width, allow_nan=False)
    all_columns = list(range(columns))
    same = draw(st.lists(st.sampled_from(all_columns), unique=True)) if format_name in COLUMN_FORMATS else None
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        keys = (
            all_columns
            if is_dense
            else same
            if same is not None
            else draw(st.lists(st.sampled_from(all_columns), unique=True))
        )
        rows.append({key: draw(values) for key in keys})
    is_hashed = draw(st.booleans()) and not format_name.startswith("Value")
    inner = draw(st.lists(st.integers(1, columns), max_size=3, unique=True))
    bounds = None if is_hashed else tuple(sorted({0, columns, *inner}))
    shared = draw(st.integers(1, 3))
    line_end = "\r\n" if shared == 1 and draw(st.booleans()) else "\n"
    return rows, columns, Layout(format_name, row_type, bounds, shared, line_end)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_row_format_reads_back_what_was_written(tmp_path: Path, data: st.DataObject) -> None:
    rows, columns, layout = data.draw(matrices(ROW_FORMATS))
    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    write_matrix(tmp_path / "m", rows, columns, layout)
    wanted = data.draw(st.integers(1, len(rows)))
    _, found = read_rows(tmp_path / "m", wanted, ",")
    for row, (keys, values) in zip(rows, found, strict=False):
        assert keys.tolist() == sorted(row)
        assert values.tolist() == [row[key] for key in sorted(row)]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_column_format_reads_back_what_was_written(tmp_path: Path, data: st.DataObject) -> None:
    rows, columns, layout = data.draw(matrices(COLUMN_FORMATS))
    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    write_matrix(tmp_path / "m", rows, columns, layout)
    wanted = data.draw(st.integers(1, len(rows)))
    _, keys, values = read_columns(tmp_path / "m", wanted, ",")
    assert keys.tolist() == sorted(rows[0])
    assert values.tolist() == [[row[key] for row in rows[:wanted]] for key in sorted(rows[0])]


@pytest.mark.parametrize("format_name", ["ColIdValueTextRowFormat", "ColIdValueBinaryRowFormat"])
def test_numbers_that_are_not_finite_are_weights_too(tmp_path: Path, format_name: str) -> None:
    row = {0: math.inf, 1: -math.inf, 2: 1e-5}
    write_matrix(tmp_path / "m", [row], 3, Layout(format_name, DOUBLE_DENSE, (0, 3)))
    _, ((_, values),) = read_rows(tmp_path / "m", 1, ",")
    assert values.tolist() == [math.inf, -math.inf, 1e-5]


def test_long_keys_may_be_negative_and_beyond_32_bits(tmp_path: Path) -> None:
    row = {-(2**62): 1.0, 5: 2.0, 2**62: 3.0}
    write_matrix(tmp_path / "m", [row], -1, Layout("ColIdValueBinaryRowFormat", DOUBLE_SPARSE_LONGKEY, None))
    _, ((keys, values),) = read_rows(tmp_path / "m", 1, ",")
    assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == row


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 200), more=st.integers(0, 20), end=st.sampled_from(["\n", "\r\n"]), is_open=st.booleans())
@pytest.mark.usefixtures("small_pieces")
def test_text_is_read_by_pieces(tmp_path: Path, count: int, more: int, end: str, *, is_open: bool) -> None:
    """Lines that are cut anywhere; behind them others that are not read; the last one with or without its end."""
    folder = tmp_path / "m"
    row = [float(column**5) for column in range(count + more)]
    text = end.join(f"{column},{value}" for column, value in enumerate(row)) + ("" if is_open else end)
    write_long_row(folder, count, text)
    _, ((keys, values),) = read_rows(folder, 1, ",")
    assert (keys.tolist(), values.tolist()) == ([*range(count)], row[:count])
    if more == 0:
        write_long_row(folder, count + 1, text)
        with pytest.raises(InvalidModelError, match=f"has {count} lines; the meta says {count + 1}|cannot hold"):
            read_rows(folder, 1, ",")


def test_line_that_does_not_end_is_refused(tmp_path: Path, small_pieces: int) -> None:
    folder = tmp_path / "m"
    write_long_row(folder, 3, "0,1\n1,2\n2," + "0" * small_pieces + "1\n")
    with pytest.raises(InvalidModelError, match="has a line of over 64 bytes"):
        read_rows(folder, 1, ",")


@pytest.mark.parametrize("text", ["0,1\r1,2\n2,3\r3,4\n", "0,1\r1,2\r2,3\r3,4", "0,1\n1,2\n2,3\r3,4\n4,5\n"])
def test_carriage_return_alone_does_not_end_a_line(tmp_path: Path, text: str) -> None:
    write_long_row(tmp_path / "m", 4, text)
    with pytest.raises(InvalidModelError, match="lines in place of"):
        read_rows(tmp_path / "m", 1, ",")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    module = "airflow_provider_timl.runtimes.angel.matrices"
    monkeypatch.setattr(f"{module}._PIECE_BYTES", 96)
    monkeypatch.setattr(f"{module}._BLOCK_BYTES", 64)
    return 96


def write_long_row(folder: Path, count: int, text: str) -> None:
    """A dense row of ``count`` lines, as the meta says."""
    shutil.rmtree(folder, ignore_errors=True)
    write_matrix(folder, [{0: 0.5}], 1, Layout("ColIdValueTextRowFormat", DOUBLE_DENSE, (0, 1)))
    meta = read_meta(folder)
    meta["col"] = meta["partMetas"]["0"]["endCol"] = count
    meta["partMetas"]["0"]["rowMetas"]["0"]["elementNum"] = count
    write_meta(folder, meta)
    (folder / "0").write_bytes(text.encode())


def test_text_of_a_million_lines_is_read_at_a_vectorised_parsers_speed(tmp_path: Path) -> None:
    """A loop over lines takes over a second; a hundred times that for a matrix as they are trained."""
    count = 1_000_000
    folder = tmp_path / "m"
    lines = [f"{column},{column / 3}\n" for column in range(count)]
    write_long_row(folder, count, "".join(lines))
    started = time.process_time()
    parsed = [float(line.rpartition(",")[2]) for line in lines]
    loop_seconds = time.process_time() - started
    started = time.process_time()
    _, ((_, values),) = read_rows(folder, 1, ",")
    seconds = time.process_time() - started
    assert values.tolist() == parsed
    assert seconds < loop_seconds * 1.5, (seconds, loop_seconds)


# what is refused


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case["case"])
def test_broken_model_is_refused_at_once_without_taking_what_it_claims(case: dict[str, str]) -> None:
    folder = find_model_root(DATA / "malformed" / case["case"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    if case["reject_because"].startswith("ACCEPT"):
        inspect_angel(folder, Resources())
    else:
        with pytest.raises(InvalidModelError):
            inspect_angel(folder, Resources())
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # in KiB


def write_linear(folder: Path) -> Path:
    """y = 1·x0 + 2·x1 + 3·x2 + 4·x3 + 0.5, in double."""
    graph = {
        "data": {"format": "libsvm", "indexrange": 4},
        "model": {"modeltype": "T_DOUBLE_DENSE"},
        "layers": [
            {"name": "input", "type": "simpleinputlayer", "outputdim": 1, "transfunc": "identity"},
            {"name": "loss", "type": "losslayer", "lossfunc": "l2loss", "inputlayer": "input"},
        ],
    }
    bias = Layout("ColIdValueTextRowFormat", DOUBLE_DENSE, (0, 1))
    write_model(
        folder, graph, {"input_weight": ([to_row([1, 2, 3, 4])], 4, PLAIN), "input_bias": ([{0: 0.5}], 1, bias)}
    )
    return folder


def change_meta(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        meta = read_meta(folder / "input_weight")
        change(meta)
        write_meta(folder / "input_weight", meta)

    return apply


def change_partition(**changes: Any) -> Callable[[Path], None]:
    return change_meta(lambda meta: meta["partMetas"]["0"].update(changes))


def change_graph(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        graph = json.loads((folder / "graph.json").read_text())
        change(graph)
        (folder / "graph.json").write_text(json.dumps(graph))

    return apply


def add_layers(*layers: dict[str, Any]) -> Callable[[Path], None]:
    named = [{"name": f"added{number}", **layer} for number, layer in enumerate(layers)]
    return change_graph(lambda graph: graph["layers"].extend(named))


def claim_elements(meta: dict[str, Any]) -> None:
    meta["rowType"] = DOUBLE_SPARSE
    meta["partMetas"]["0"]["rowMetas"]["0"]["elementNum"] = 2**62


def link_partition(folder: Path) -> None:
    (folder / "input_weight" / "0").rename(folder / "outside")
    (folder / "input_weight" / "0").symlink_to(folder / "outside")


def link_matrix(folder: Path) -> None:
    (folder / "input_weight").rename(folder / "other")
    (folder / "input_weight").symlink_to(folder / "other")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (link_partition, "not a file that can be read"),
        (link_matrix, "no such folder"),
        (change_meta(lambda meta: meta.update(rowType=True)), "'rowType'"),
        (change_meta(lambda meta: meta.pop("col")), "'col'"),
        (change_meta(lambda meta: meta.update(partMetas={})), "0 partitions"),
        (change_meta(lambda meta: meta.update(formatClassName="a.SnapshotFormat")), "SnapshotFormat"),
        (change_partition(fileName="meta"), "no plain name"),
        (change_partition(startCol=1), "a dense row has other than 3 elements"),
        (change_partition(startCol=9, endCol=3), "beyond endCol"),
        (change_partition(offset=3), "within a line"),
        (change_partition(rowMetas={"0": {"rowId": 0, "elementNum": 2**62}}), "other than 4 elements"),
        (change_meta(claim_elements), "cannot hold"),
        (lambda folder: (folder / "input_weight" / "0").write_text("0,1\n1,2\n2,x\n3,4\n"), "value"),
        (lambda folder: (folder / "input_weight" / "0").write_text("0,1\n1,2\n\n3,4\n"), "input_weight"),
        (lambda folder: (folder / "input_weight" / "0").write_text("0,1\n1,2\n1,3\n3,4\n"), "twice"),
        (lambda folder: (folder / "graph.json").write_text('{"layers": [], "layers": []}'), "twice"),
        (change_graph(lambda graph: graph["layers"][0].update(outputdim=10**9)), "outputdim"),
        (change_graph(lambda graph: graph["layers"][0].update(outputdim=2)), "input_bias"),
        (change_graph(lambda graph: graph["layers"][1].update(lossfunc=["logloss"])), "'type' is not a string"),
        (add_layers({"type": "concatlayer", "outputdim": 2, "inputlayers": ["input"]}), "outputdim is 2"),
        (add_layers({"type": "biinnersumcross", "outputdim": 1, "inputlayer": "input"}), "no vector a feature"),
        (add_layers({"type": "fclayer", "outputdims": [2**20, 2**20, 1], "inputlayer": "input"}), "added0_0_weight"),
        (add_layers(*({"type": "sumpooling", "outputdim": 1, "inputlayer": "input"} for _ in range(2000))), "layers"),
    ],
)  # fmt: skip
def test_change_for_the_worse_is_refused_with_the_reason(
    tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    folder = write_linear(tmp_path / "model")
    load_angel(folder, Resources(), AngelOptions())
    change(folder)
    with pytest.raises(InvalidModelError) as refused:
        load_angel(folder, Resources(), AngelOptions())
    assert reason in refused.value.message


# layers that the generated models do not have


def build(folder: Path, layers: Any, matrices: dict[str, Any], dimension: int = 6) -> AngelEngine:
    """:param matrices: rows of each matrix, shape (rows, columns)."""
    graph = {
        "data": {"format": "libsvm", "indexrange": dimension},
        "model": {"modeltype": "T_DOUBLE_DENSE"},
        "layers": layers,
    }
    written = {}
    for name, values in matrices.items():
        rows = [to_row(row) for row in np.atleast_2d(values)]
        format_name = "TextColumnFormat" if name.endswith("_embedding") else "RowIdColIdValueBinaryRowFormat"
        written[name] = (rows, len(rows[0]), Layout(format_name, DOUBLE_DENSE, (0, len(rows[0]))))
    write_model(folder, graph, written)
    return load_angel(folder, Resources(), AngelOptions())


EMBEDDED = {"sparseIndices": [0, 2, 5], "sparseValues": [1.0, -2.0, 0.5]}
TABLE = np.random.default_rng(1).normal(size=(2, 6))  # two factors of six features
PARTS = np.array([TABLE[:, 0] * 1.0, TABLE[:, 2] * -2.0, TABLE[:, 5] * 0.5])
EMBEDDING = {"type": "Embedding", "outputdim": 6, "numfactors": 2}


def test_bi_interaction_cross_is_half_of_what_the_square_of_the_sum_has_more(tmp_path: Path) -> None:
    layers = {
        "emb": EMBEDDING,
        "cross": {"type": "BiInteractionCross", "outputdim": 2, "inputlayer": "emb"},
        "loss": {"type": "LossLayer", "lossfunc": "SoftmaxLoss", "inputlayer": "cross"},
    }
    engine = build(tmp_path, layers, {"emb_embedding": TABLE})
    expected = sum(PARTS[a] * PARTS[b] for a in range(3) for b in range(a + 1, 3))
    found = predict(engine, {"instances": [EMBEDDED]})[0]
    assert float(found["pred"]) == pytest.approx(max(expected), rel=1e-12)
    one = PARTS[0] * 0  # no pairs
    found = predict(engine, {"instances": [{"sparseIndices": [1], "sparseValues": [3]}]})[0]
    assert float(found["pred"]) == pytest.approx(one.max(), abs=1e-12)


def test_cross_layers_take_the_first_input_again(tmp_path: Path) -> None:
    layers = {
        "emb": EMBEDDING,
        "c0": {"type": "CrossLayer", "outputdim": 6, "inputlayers": ["emb", "emb"]},
        "c1": {"type": "CrossLayer", "outputdim": 6, "inputlayers": ["emb", "c0"]},
        "fc": {"type": "FCLayer", "outputdim": 1, "transfunc": "identity", "inputlayer": "c1"},
        "loss": {"type": "LossLayer", "lossfunc": "HuberLoss", "inputlayer": "fc"},
    }
    generator = np.random.default_rng(2)
    weights = {name: generator.normal(size=6) for name in ("c0_weight", "c0_bias", "c1_weight", "c1_bias", "fc_weight")}
    engine = build(tmp_path, layers, {"emb_embedding": TABLE, "fc_bias": [0.25], **weights})
    first = PARTS.ravel()
    middle = first * (first @ weights["c0_weight"]) + weights["c0_bias"] + first
    last = first * (middle @ weights["c1_weight"]) + weights["c1_bias"] + middle
    found = predict(engine, {"instances": [EMBEDDED]})[0]
    assert float(found["pred"]) == pytest.approx(last @ weights["fc_weight"] + 0.25, rel=1e-12)
    assert found["proba"] == "NaN"


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_mixed_logistic_regression_multiplies_gates_and_experts(tmp_path: Path, scale: float) -> None:
    layers = {
        "gate": {"type": "SimpleInputLayer", "outputdim": 2, "transfunc": "softmax"},
        "expert": {"type": "SimpleInputLayer", "outputdim": 2, "transfunc": "sigmoid"},
        "dot": {"type": "DotPooling", "outputdim": 1, "inputlayers": ["gate", "expert"]},
        "loss": {"type": "LossLayer", "lossfunc": "CrossEntropyLoss", "inputlayer": "dot"},
    }
    gate, expert = np.array([[1.0, -1, 0, 2], [0, 1, 1, 1]]), np.array([[0.5, 0, 1, 0], [1, -1, 0, 3]])
    zeros = {"gate_bias": [0.0, 0.0], "expert_bias": [0.0, 0.0]}
    engine = build(tmp_path, layers, {"gate_weight": gate, "expert_weight": expert, **zeros}, dimension=4)
    x = np.array([1.0, 0.5, -1.0, 0.25]) * scale
    z = gate @ x
    shares = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    outputs = 1 / (1 + np.exp(-np.clip(expert @ x, -700, 700)))
    q = shares @ np.where(np.abs(expert @ x) > 20, np.round(outputs), outputs)
    found = predict(engine, {"instances": [x.tolist()]})[0]
    assert float(found["proba"]) == pytest.approx(q, rel=1e-12)
    odds = 3.4028234663852886e38 if q >= 1 else max(q / (1 - q), 1e-6)
    assert float(found["pred"]) == pytest.approx(math.log(odds), rel=1e-9)


def test_embeddings_that_need_different_numbers_of_features_are_refused(tmp_path: Path) -> None:
    layers = {
        "a": EMBEDDING,
        "b": {**EMBEDDING, "outputdim": 4},
        "cat": {"type": "ConcatLayer", "outputdim": 10, "inputlayers": ["a", "b"]},
        "loss": {"type": "LossLayer", "lossfunc": "SoftmaxLoss", "inputlayer": "cat"},
    }
    with pytest.raises(InvalidModelError, match="3 and 2 features"):
        build(tmp_path, layers, {"a_embedding": TABLE, "b_embedding": TABLE})


def test_loss_of_one_number_refuses_more(tmp_path: Path) -> None:
    layers = {
        "emb": EMBEDDING,
        "loss": {"type": "LossLayer", "lossfunc": "LogLoss", "inputlayer": "emb"},
    }
    with pytest.raises(InvalidModelError, match="takes one number"):
        build(tmp_path, layers, {"emb_embedding": TABLE})


# requests


@pytest.fixture
def linear(tmp_path: Path) -> AngelEngine:
    return load_angel(write_linear(tmp_path / "model"), Resources(), AngelOptions())


@pytest.mark.parametrize(
    ("instance", "pred", "sid"),
    [
        ([1, 1, 1, 1], "10.5", "0"),
        (["1", " 1.0e0 ", "1.", "1"], "10.5", "0"),
        ({"values": [1, 0, 0, 0], "key": "a"}, "1.5", "a"),
        ({"key": 7, "values": [1, 0, 0, 0]}, "1.5", "7"),
        ({"sparseIndices": [3, 0], "sparseValues": [1, 1]}, "5.5", "0"),
        ({"sparseIndices": [3], "sparseValues": [1], "key": 'b"\n'}, "4.5", 'b"\n'),
        ({"sparseIndices": [1, 1], "sparseValues": [5, 1]}, "2.5", "0"),
        ({"sparseIndices": [], "sparseValues": []}, "0.5", "0"),
    ],
)
def test_forms_of_requests(linear: AngelEngine, instance: Any, pred: str, sid: str) -> None:
    (found,) = predict(linear, {"instances": [instance]})
    assert (found["pred"], found["sid"]) == (pred, sid)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"{}", "instances"),
        (b"[]", "instances"),
        (b'{"instances": 3}', "not an array"),
        (b'{"instances": []}', "batch is empty"),
        (b'{"instances": [[1,1,1,1]], "x": 1}', "unknown name"),
        (b'{"instances": [[]]}', "has 0 values; the model takes 4"),
        (b'{"instances": [[1,1,1,1,1]]}', "has 5 values"),
        (b'{"instances": [[1,1,1,true]]}', "not a number"),
        (b'{"instances": [[1,1,1,null]]}', "not a number"),
        (b'{"instances": [[1,1,1,"1_000"]]}', "not a number"),
        (b'{"instances": [[1,1,1,"nan"]]}', "not a number"),
        (b'{"instances": [[1,1,1,NaN]]}', "NaN"),
        (b'{"instances": [[1,1,1,"1e999"]]}', "up to"),
        (b'{"instances": [[1,1,1,[1]]]}', "not a number"),
        (b'{"instances": ["text"]}', "no named fields"),
        (b'{"instances": [{"x1": 1}]}', "no named fields"),
        (b'{"instances": [{"values": [1,1,1,1], "x1": 1}]}', "unknown field"),
        (b'{"instances": [{"values": 1}]}', "not an array"),
        (b'{"instances": [{"values": [1,1,1,1], "key": [1]}]}', "key"),
        (b'{"instances": [[1,1,1,1], {"values": [1,1,1,1]}]}', "another form"),
        (b'{"instances": [{"sparseIndices": [1]}]}', "sparseValues"),
        (b'{"instances": [{"sparseIndices": [1], "sparseValues": [1, 2]}]}', "differ in number"),
        (b'{"instances": [{"sparseIndices": [4], "sparseValues": [1]}]}', "0 to 3"),
        (b'{"instances": [{"sparseIndices": [-1], "sparseValues": [1]}]}', "0 to 3"),
        (b'{"instances": [{"sparseIndices": [1.0], "sparseValues": [1]}]}', "not a whole number"),
        (b'{"instances": [{"sparseIndices": [true], "sparseValues": [1]}]}', "not a whole number"),
        (b'{"instances": [{"sparseIndices": [99999999999999999999], "sparseValues": [1]}]}', "whole number"),
    ],
)
def test_bad_request_is_refused_with_its_place(linear: AngelEngine, body: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        linear.parse("predict", body)
    assert reason in f"{refused.value.details.get('field')}: {refused.value.message}"


def test_other_verbs_are_not_there(linear: AngelEngine) -> None:
    with pytest.raises(NotFoundError):
        linear.parse("classify", b"{}")


def test_batch_answers_each_request_as_if_alone(linear: AngelEngine) -> None:
    bodies = [
        {"instances": [[1, 2, 3, 4]]},
        {"instances": [{"sparseIndices": [0, 2], "sparseValues": [1, 2], "key": "k"}] * 3},
        {"instances": [{"values": [0, 0, 0, 1]}]},
    ]
    parsed = [linear.parse("predict", json.dumps(body).encode()) for body in bodies]
    assert linear.run(parsed) == [linear.run([request])[0] for request in parsed]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(
                st.sampled_from(["instances", "values", "key", "sparseIndices", "sparseValues", "x"]), inner, max_size=4
            )
        ),
        max_leaves=20,
    )
)
def test_any_body_is_answered_or_refused(linear: AngelEngine, content: Any) -> None:
    for body in (content, {"instances": content}, {"instances": [content]}):
        try:
            request = linear.parse("predict", json.dumps(body).encode())
        except InvalidInputError:
            continue
        linear.run([request])


def test_long_key_model_takes_any_64_bit_feature(tmp_path: Path) -> None:
    graph = {
        "data": {"format": "libsvm", "indexrange": -1},
        "model": {"modeltype": "T_DOUBLE_SPARSE_LONGKEY"},
        "layers": {
            "input": {"type": "SimpleInputLayer", "outputdim": 1, "transfunc": "identity"},
            "loss": {"type": "LossLayer", "lossfunc": "LogLoss", "inputlayer": "input"},
        },
    }
    weights = {-(2**40): 1.0, 2**61: 2.0}
    keys = Layout("RowIdColIdValueTextRowFormat", DOUBLE_SPARSE_LONGKEY, None)
    bias = Layout("ColIdValueTextRowFormat", DOUBLE_DENSE, (0, 1))
    write_model(tmp_path / "m", graph, {"input_weight": ([weights], -1, keys), "input_bias": ([{0: 0.0}], 1, bias)})
    engine = load_angel(tmp_path / "m", Resources(), AngelOptions())
    found = predict(engine, {"instances": [{"sparseIndices": [2**61, -(2**40), 7], "sparseValues": [1, 10, 5]}]})
    assert found[0]["pred"] == "12.0"
    assert engine.describe()["typeMap"]["keyType"] == "DT_INT64"
    with pytest.raises(InvalidInputError, match="sparseIndices"):
        predict(engine, {"instances": [[1.0]]})


@pytest.mark.parametrize(("keys", "layout"), [({}, "out_in"), ({"decayclass": "x"}, "in_out")])
def test_layout_of_fully_connected_weights_follows_the_trainer(
    tmp_path: Path, keys: dict[str, str], layout: str
) -> None:
    graph = {
        "data": {"format": "dense", "indexrange": 2},
        "model": {"modeltype": "T_DOUBLE_DENSE"},
        "train": keys,
        "layers": [
            {"name": "input", "type": "simpleinputlayer", "outputdim": 3, "transfunc": "identity"},
            {"name": "loss", "type": "losslayer", "lossfunc": "softmaxloss", "inputlayer": "input"},
        ],
    }
    weights = np.arange(6.0)
    dense = Layout("ValueBinaryRowFormat", DOUBLE_DENSE, (0, 6))
    bias = Layout("ValueBinaryRowFormat", DOUBLE_DENSE, (0, 3))
    write_model(
        tmp_path / "m",
        graph,
        {"input_weight": ([to_row(weights)], 6, dense), "input_bias": ([to_row(np.zeros(3))], 3, bias)},
    )
    engine = load_angel(tmp_path / "m", Resources(), AngelOptions())
    matrix = weights.reshape(3, 2) if layout == "out_in" else weights.reshape(2, 3).T
    assert engine.describe()["fc_weight_layout"] == layout
    assert float(predict(engine, {"instances": [[1, 10]]})[0]["pred"]) == max(matrix @ [1, 10])


def test_rows_of_tables_are_scored_as_requests_are(linear: AngelEngine) -> None:
    scored = linear.score(["id", "values"], [[1, [1.0, 1.0, 1.0, 1.0]], [2, "[0, 0, 0, 1]"], [3, "x"], [4, None]])
    assert [row["pred"] for row in scored if isinstance(row, dict)] == [10.5, 4.5]
    assert [isinstance(row, InvalidInputError) for row in scored] == [False, False, True, True]
