"""How runtimes are found, where a model stands in its artifact, and which options a runtime takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError
from airflow_provider_timl.runtimes.contract import find_model_root, get_runtime, get_runtime_for
from tests.models import copy_angel_model


def test_each_type_has_a_runtime_that_inspects_it() -> None:
    assert {kind: get_runtime_for(kind).name for kind in ("angel", "pmml")} == {"angel": "angel", "pmml": "pmml"}


def test_unknown_type_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidInputError, match=r"unknown model type 'gguf'; there are angel, .*pmml") as refused:
        get_runtime_for("gguf")
    assert refused.value.details["field"] == "model_type"


def test_unknown_runtime_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="gguf"):
        get_runtime("gguf")


def test_runtime_that_lacks_a_package_keeps_no_other_from_work() -> None:
    code = """
import sys
sys.modules["numpy"] = None  # as if it were not installed
from airflow_provider_timl.exceptions import ExternalSystemError
from airflow_provider_timl.runtimes.contract import get_runtime, list_runtimes
missing = {program.name: program.find_missing() for program in list_runtimes()}
assert (missing["pmml"], missing["angel"], missing["onnx"]) == (None, "numpy", "numpy"), missing
try:
    get_runtime("onnx").load()
except ExternalSystemError as exc:
    assert "needs the package 'numpy'" in exc.message
else:
    sys.exit("loaded")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_listing_runtimes_imports_no_engine_of_tensors() -> None:
    code = """
import sys
from airflow_provider_timl.runtimes.contract import list_runtimes
list_runtimes()
sys.exit("onnxruntime" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


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


@pytest.mark.parametrize(
    ("runtime", "given", "field"),
    [
        ("angel", {"fc_weight_layout": "sideways"}, "options.fc_weight_layout"),
        ("angel", {"layout": "in_out"}, "options.layout"),
        ("pmml", {"fc_weight_layout": "in_out"}, "options.fc_weight_layout"),
    ],
)
def test_wrong_option_is_refused_by_its_name(runtime: str, given: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        get_runtime(runtime).parse_options(given)
    assert refused.value.details["field"] == field
