"""Angel models that claim much or lie oddly, each written to order."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError
from airflow_provider_timl.runtimes.angel.engine import AngelEngine, AngelOptions, inspect_angel, load_angel
from airflow_provider_timl.runtimes.angel.folders import find_model_folder
from airflow_provider_timl.runtimes.angel.matrices import read_columns, read_rows
from airflow_provider_timl.runtimes.angel.requests import RequestReader
from tests.angel_writer import (
    DOUBLE_DENSE,
    DOUBLE_SPARSE,
    FLOAT_SPARSE,
    Layout,
    read_meta,
    to_row,
    write_matrix,
    write_meta,
    write_model,
)
from tests.models import ANGEL_LR, copy_angel_model

TEXT = Layout("ColIdValueTextRowFormat", DOUBLE_DENSE, (0, 1))
LOSS = {"type": "LossLayer", "lossfunc": "SoftmaxLoss"}
EMBEDDING = {"type": "Embedding", "outputdim": 6, "numfactors": 2}


def load(folder: Path, layers: dict[str, Any], matrices: dict[str, Any], **data: Any) -> AngelEngine:
    graph = {"data": {"indexrange": 6, **data}, "model": {"modeltype": "T_FLOAT_DENSE"}, "layers": layers}
    write_model(folder, graph, matrices)
    inspect_angel(folder, Resources())
    return load_angel(folder, Resources(), AngelOptions())


def embed(features: int = 6) -> dict[str, Any]:
    rows = [to_row(np.ones(features))] * 2
    return {"emb_embedding": (rows, features, Layout("BinaryColumnFormat", DOUBLE_SPARSE, (0, features)))}


@pytest.mark.parametrize("order", [("0", "1", "2"), ("2", "1", "0"), ("1", "0", "2")])
def test_empty_partitions_may_begin_where_others_do(tmp_path: Path, order: tuple[str, ...]) -> None:
    row = {0: 1.0, 1: 2.0, 7: 3.0}
    layout = Layout("ColIdValueTextRowFormat", DOUBLE_SPARSE, (0, 3, 6, 9), partitions_a_file=3)
    write_matrix(tmp_path / "m", [row], 9, layout)
    meta = read_meta(tmp_path / "m")
    meta["partMetas"] = {number: meta["partMetas"][number] for number in order}
    write_meta(tmp_path / "m", meta)
    _, ((keys, values),) = read_rows(tmp_path / "m", 1, "")
    assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == row


def test_partitions_cannot_share_their_bytes(tmp_path: Path) -> None:
    layout = Layout("ColIdValueTextRowFormat", DOUBLE_SPARSE, None, partitions_a_file=3)
    write_matrix(tmp_path / "m", [{0: 1.0, 1: 1.0, 2: 1.0}], 3, layout)
    meta = read_meta(tmp_path / "m")
    for partition in meta["partMetas"].values():
        partition["offset"] = 0
    write_meta(tmp_path / "m", meta)
    with pytest.raises(InvalidModelError, match="what follows at 0"):
        read_rows(tmp_path / "m", 1, "")


def test_many_partitions_take_time_in_proportion(tmp_path: Path) -> None:
    write_matrix(tmp_path / "m", [{0: 1.0}], 1, Layout("BinaryColumnFormat", DOUBLE_SPARSE, (0, 1)))
    meta = read_meta(tmp_path / "m")
    empty = {**meta["partMetas"]["0"], "saveColNum": 0, "rowMetas": {}}
    meta["partMetas"] |= {str(number): empty for number in range(1, 20_000)}
    write_meta(tmp_path / "m", meta)
    started = time.process_time()
    _, keys, _ = read_columns(tmp_path / "m", 1, "")
    assert keys.tolist() == [0]
    assert time.process_time() - started < 5


@pytest.mark.parametrize("end", [(0, 3), None])
@pytest.mark.parametrize("format_name", ["ColIdValueTextRowFormat", "ColIdValueBinaryRowFormat"])
def test_matrix_without_any_weight_is_all_zeros(tmp_path: Path, end: Any, format_name: str) -> None:
    weight = ([{}], 6, Layout(format_name, FLOAT_SPARSE, end))
    layers = {
        "in": {"type": "simpleInputLayer", "outputdim": 1, "transfunc": "identity"},
        "loss": {**LOSS, "inputlayer": "in", "lossfunc": "l2loss"},
    }
    engine = load(tmp_path, layers, {"in_weight": weight, "in_bias": ([{0: 0.5}], 1, TEXT)})
    (answer,) = engine.run([engine.parse("predict", b'{"instances": [[1, 2, 3, 4, 5, 6]]}')])
    assert isinstance(answer, bytes)
    assert json.loads(answer)["predictions"][0]["pred"] == "0.5"


@pytest.mark.parametrize(
    ("layers", "data", "reason"),
    [
        ({"emb": {**EMBEDDING, "outputdim": 2**24, "numfactors": 2}}, {}, "indexrange is 6"),
        ({"emb": {**EMBEDDING, "outputdim": [[[1]]]}}, {}, "'outputdim' is an array"),
        ({"emb": EMBEDDING}, {"indexrange": 0}, "indexrange is 0"),
        (
            {
                "emb": {**EMBEDDING, "outputdim": 2**22},
                "x": {"type": "BiInnerCross", "outputdim": 2**24, "inputlayer": "emb"},
            },
            {"indexrange": -1},
            "pairs",
        ),
        (
            {
                "emb": EMBEDDING,
                **{
                    f"c{n}": {
                        "type": "ConcatLayer",
                        "outputdim": 6 * 2 ** (n + 1),
                        "inputlayers": [f"c{n - 1}" if n else "emb"] * 2,
                    }
                    for n in range(21)
                },
            },
            {},
            "one instance would take more than",
        ),
    ],
)
def test_graph_cannot_claim_more_than_an_instance_may_take(
    tmp_path: Path, layers: dict[str, Any], data: dict[str, Any], reason: str
) -> None:
    last = list(layers)[-1]
    with pytest.raises(InvalidModelError, match=reason):
        load(tmp_path, {**layers, "loss": {**LOSS, "inputlayer": last}}, embed(), **data)


def test_centres_are_not_made_as_wide_as_indexrange_claims(tmp_path: Path) -> None:
    layers = {
        "in": {"type": "KmeansInputLayer", "outputdim": 1},
        "loss": {**LOSS, "inputlayer": "in", "lossfunc": "KmeansLoss"},
    }
    centre = ([{0: 1.0}], 2**60, Layout("ColIdValueTextRowFormat", DOUBLE_SPARSE, None))
    with pytest.raises(InvalidModelError, match="one instance would take"):
        load(tmp_path, layers, {"in_center": centre}, indexrange=2**60)


def test_doubles_beyond_float_become_infinite_without_a_warning(tmp_path: Path) -> None:
    weight = ([{0: 1e300}], 6, Layout("ColIdValueTextRowFormat", DOUBLE_SPARSE, (0, 6)))
    layers = {
        "in": {"type": "SimpleInputLayer", "outputdim": 1, "transfunc": "identity"},
        "loss": {**LOSS, "inputlayer": "in", "lossfunc": "HuberLoss"},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, layers, {"in_weight": weight, "in_bias": ([{0: 0.5}], 1, TEXT)})


def test_features_of_one_instance_are_bounded() -> None:
    reader = RequestReader(-1, "f4", False, feature_count=None, needs_features=True, most_features=3)
    instances = [{"sparseIndices": [*range(count)], "sparseValues": [1] * count} for count in (3, 4)]
    assert len(reader.read_instances(instances[:1]).batch) == 1
    with pytest.raises(InvalidInputError, match="has 4 features; up to 3") as refused:
        reader.read_instances(instances)
    assert refused.value.details["field"] == "instances[1]"


def test_batch_is_computed_in_parts_that_memory_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_angel(ANGEL_LR, Resources(), AngelOptions())
    instances = [{"sparseIndices": [*range(count)], "sparseValues": [1] * count} for count in (3, 0, 40, 5, 1, 2)]
    request = engine.parse("predict", json.dumps({"instances": instances}).encode())
    whole = engine.run([request])
    monkeypatch.setattr("airflow_provider_timl.runtimes.angel.engine._MOST_NUMBERS", 12)
    monkeypatch.setattr("airflow_provider_timl.runtimes.angel.layers._MOST_PRODUCTS", 7)
    assert engine.run([request]) == whole


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (["6", "10", "9"], "10"),
        (["6/angel", "data", "metadata"], "6/angel"),
        (["angel", "data", "metadata"], "angel"),
        (["v7", ""], ""),
        (["7", ""], "7"),
    ],
)
def test_newest_version_is_served_and_what_sona_saved(tmp_path: Path, made: list[str], expected: str) -> None:
    for name in made:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        if name not in {"data", "metadata"}:
            (folder / "graph.json").write_text("{}")
    assert find_model_folder(tmp_path) == tmp_path / expected


def test_saved_sona_folder_is_inspected(tmp_path: Path) -> None:
    copy_angel_model(tmp_path / "angel")
    (tmp_path / "metadata").mkdir()
    report = inspect_angel(tmp_path, Resources())
    assert report.framework == {
        "value_type": "DT_FLOAT",
        "layers": "simpleinputlayer, losslayer",
        "fc_weight_layout": "out_in",
    }


@pytest.mark.parametrize("separator", [",", "\t", " ", ";", "|", ":"])
def test_separator_is_that_of_the_file_or_the_one_that_is_given(tmp_path: Path, separator: str) -> None:
    layout = Layout("TextColumnFormat", DOUBLE_DENSE, (0, 3), separator=separator)
    write_matrix(tmp_path / "m", [to_row([1, 2, 3]), to_row([4, 5, 6])], 3, layout)
    for given in ("", separator):
        assert read_columns(tmp_path / "m", 2, given)[2].tolist() == [[1, 4], [2, 5], [3, 6]]
    with pytest.raises(InvalidModelError):
        read_columns(tmp_path / "m", 2, "#")


@pytest.mark.parametrize("separator", ["", "1", "-", ".", "e", ",,", "\n", "é"])
def test_separator_that_numbers_contain_is_no_option(separator: str) -> None:
    with pytest.raises(ValidationError):
        AngelOptions(text_separator=separator)


def test_given_separator_is_used(tmp_path: Path) -> None:
    folder = copy_angel_model(tmp_path / "lr")
    load_angel(folder, Resources(), AngelOptions(text_separator=","))
    with pytest.raises(InvalidModelError):
        load_angel(folder, Resources(), AngelOptions(text_separator=";"))


def test_rows_of_a_chunk_are_scored_together_with_their_own_errors() -> None:
    engine = load_angel(ANGEL_LR, Resources(), AngelOptions())
    rows = [([number], [1.0]) if number % 3 else ([500], [1.0]) for number in range(30)]
    scored = engine.score(["sparseIndices", "sparseValues"], rows)
    assert [isinstance(row, InvalidInputError) for row in scored] == [number % 3 == 0 for number in range(30)]
    alone = [engine.score(["sparseIndices", "sparseValues"], [row])[0] for row in rows]
    assert [str(row) for row in scored] == [str(row) for row in alone]
    refused = scored[0]
    assert isinstance(refused, InvalidInputError)
    assert refused.details["field"] == "sparseIndices[0]"
