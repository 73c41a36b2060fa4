"""Which folders are models of a type, and why others are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    assert check_structure(copy_angel_model(tmp_path / "c"), "angel") == {}


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


def test_angel_model_without_its_graph_is_refused(tmp_path: Path) -> None:
    model = copy_angel_model(tmp_path / "model")
    (model / "graph.json").unlink()
    assert "graph.json" in refuse(model, "angel")
