"""Which folders are models of a type, and why others are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError
from airflow_provider_timl.repository.structure import check_structure, find_model_root
from tests.models import copy_angel_model, write_pmml, write_saved_model

Change = Callable[[Path], object]


def refuse(folder: Path, model_type: str) -> str:
    with pytest.raises(InvalidModelError) as refused:
        check_structure(folder, model_type)
    return refused.value.message


def test_each_type_is_recognised(tmp_path: Path) -> None:
    assert check_structure(write_pmml(tmp_path / "a"), "pmml") == {}
    assert check_structure(write_saved_model(tmp_path / "b"), "tensorflow") == {"tensorflow": "SavedModel"}
    assert check_structure(copy_angel_model(tmp_path / "c"), "angel") == {"angel": "graph.json"}


def test_unknown_type_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="pmml, tensorflow, angel"):
        check_structure(tmp_path, "onnx")


def test_one_numbered_folder_is_the_model(tmp_path: Path) -> None:
    model = copy_angel_model(tmp_path / "lr" / "6")
    assert find_model_root(tmp_path / "lr") == model
    assert find_model_root(model) == model


@pytest.mark.parametrize("other", ["7", "v6", "٣"])
def test_other_folders_are_no_numbered_folder(tmp_path: Path, other: str) -> None:
    base = tmp_path / "lr"
    (base / other).mkdir(parents=True)
    if other == "7":
        copy_angel_model(base / "6")
    assert find_model_root(base) == base


@pytest.mark.parametrize("names", [[], ["model.txt"], ["a.pmml", "b.PMML"], ["a.pmml", "sub/b.xml"]])
def test_pmml_is_exactly_one_file(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert "exactly one" in refuse(tmp_path, "pmml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\x08\x01", "holds no graph"),
        (b"\x12\x05gra", "is cut off"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "is cut off"),
        (b"\x12" + b"\xff" * 11, "is not a protocol buffer"),
        (b"\x12", "is cut off"),
        (b"\x07\x00", "is not a protocol buffer"),
        (b"\x12\x05graph\x1a\x01x", "is another protocol buffer"),
        (b"\x0a\x05graph", "is another protocol buffer"),
        (b"#!/bin/sh\nexit 0\n", "saved_model.pb"),
    ],
)
def test_saved_model_that_is_none_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    model = write_saved_model(tmp_path / "model")
    (model / "saved_model.pb").write_bytes(content)
    assert reason in refuse(model, "tensorflow")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "saved_model.pb").unlink(), "is not there"),
        (lambda folder: (folder / "variables" / "variables.index").unlink(), "variables.index"),
        (lambda folder: (folder / "variables" / "variables.data-00000-of-00001").unlink(), "one set of files"),
        (
            lambda folder: (folder / "variables" / "variables.data-00000-of-00001").rename(
                folder / "variables" / "variables.data-00000-of-00002"
            ),
            "lacks some of its 2 files",
        ),
    ],
)
def test_incomplete_saved_model_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    model = write_saved_model(tmp_path / "model")
    change(model)
    assert reason in refuse(model, "tensorflow")


def test_saved_model_without_variables_is_accepted(tmp_path: Path) -> None:
    model = write_saved_model(tmp_path / "model")
    for file in (model / "variables").iterdir():
        file.unlink()
    assert check_structure(model, "tensorflow")


def write_graph(content: bytes) -> Change:
    return lambda folder: (folder / "graph.json").write_bytes(content)


def write_meta(content: bytes) -> Change:
    return lambda folder: (folder / "input_weight" / "meta").write_bytes(content)


def with_length(content: bytes, length: int | None = None) -> bytes:
    return (len(content) if length is None else length).to_bytes(4, "big", signed=True) + content


def change_partitions(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "input_weight" / "meta"
        meta = json.loads(path.read_bytes()[4:])
        for partition in meta["partMetas"].values():
            change(partition)
        path.write_bytes(with_length(json.dumps(meta).encode()))

    return apply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "graph.json").unlink(), "graph.json"),
        (write_graph(b""), "not valid JSON"),
        (write_graph(b"\xff\xfe"), "not valid JSON"),
        (write_graph(b"[" * 100_000), "not valid JSON"),
        (write_graph(b"[]"), "not a JSON object"),
        (write_graph(b"{}"), "has no layers"),
        (write_graph(b'{"layers": []}'), "has no layers"),
        (write_graph(b'{"layers": 3}'), "has no layers"),
        (write_meta(b""), "is cut off"),
        (write_meta(b"\x7f\xff\xff\xff{}"), "is cut off"),
        (write_meta(with_length(b"{}", -1)), "is cut off"),
        (write_meta(with_length(b"nonsense")), "not valid JSON"),
        (write_meta(with_length(b"{}")), "names no partitions"),
        (write_meta(with_length(b'{"partMetas": {"0": 1}}')), "no plain name"),
        (change_partitions(lambda partition: partition.update(fileName="../../../etc/passwd")), "no plain name"),
        (change_partitions(lambda partition: partition.update(fileName="..")), "no plain name"),
        (change_partitions(lambda partition: partition.update(fileName="meta")), "no plain name"),
        (change_partitions(lambda partition: partition.update(fileName="a\0b")), "no plain name"),
        (change_partitions(lambda partition: partition.pop("fileName")), "not there"),
        (change_partitions(lambda partition: partition.update(fileName="99")), "not there"),
    ],
)
def test_broken_angel_model_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    model = copy_angel_model(tmp_path / "model")
    change(model)
    assert reason in refuse(model, "angel")


def test_angel_model_without_matrices_is_refused(tmp_path: Path) -> None:
    model = copy_angel_model(tmp_path / "model")
    for matrix in ("input_weight", "input_bias"):
        (model / matrix / "meta").unlink()
    assert "no matrix" in refuse(model, "angel")
