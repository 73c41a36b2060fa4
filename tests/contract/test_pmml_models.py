"""The PMML engine on other kinds of models: trees with categories, regressions with replacements, clusterings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, TimlError
from airflow_provider_timl.runtimes.contract import RuntimeOptions
from airflow_provider_timl.runtimes.pmml.engine import PmmlEngine
from airflow_provider_timl.runtimes.pmml.program import inspect_pmml, load_pmml

FRAME = """<?xml version="1.0"?>
<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4"><Header><Application name="tests" version="1"/></Header>
{}</PMML>
"""
TREE = """
<DataDictionary>
  <DataField name="outlook" optype="categorical" dataType="string">
    <Value value="sunny"/><Value value="rain"/><Value value="unknown" property="missing"/>
  </DataField>
  <DataField name="humidity" optype="continuous" dataType="double">
    <Interval closure="closedClosed" leftMargin="0" rightMargin="100"/></DataField>
  <DataField name="windy" optype="categorical" dataType="boolean">
    <Value value="true"/><Value value="false"/></DataField>
  <DataField name="play" optype="categorical" dataType="string"><Value value="yes"/><Value value="no"/></DataField>
</DataDictionary>
<TreeModel functionName="classification" missingValueStrategy="defaultChild">
  <MiningSchema>
    <MiningField name="outlook"/><MiningField name="humidity" invalidValueTreatment="asMissing"/>
    <MiningField name="windy" missingValueReplacement="false"/><MiningField name="play" usageType="target"/>
  </MiningSchema>
  <Node id="0" score="yes" recordCount="10" defaultChild="1"><True/>
    <ScoreDistribution value="yes" recordCount="6"/><ScoreDistribution value="no" recordCount="4"/>
    <Node id="1" score="yes" recordCount="5"><SimplePredicate field="outlook" operator="equal" value="sunny"/>
      <ScoreDistribution value="yes" recordCount="4"/><ScoreDistribution value="no" recordCount="1"/></Node>
    <Node id="2" score="no" recordCount="4"><CompoundPredicate booleanOperator="and">
      <SimplePredicate field="outlook" operator="equal" value="rain"/>
      <SimplePredicate field="windy" operator="equal" value="true"/></CompoundPredicate>
      <ScoreDistribution value="yes" recordCount="1"/><ScoreDistribution value="no" recordCount="3"/></Node>
    <Node id="3" score="yes" recordCount="1"><SimplePredicate field="outlook" operator="equal" value="rain"/>
      <ScoreDistribution value="yes" recordCount="1"/><ScoreDistribution value="no" recordCount="0"/></Node>
  </Node>
</TreeModel>"""
REGRESSION = """
<DataDictionary>
  <DataField name="age" optype="continuous" dataType="integer"/>
  <DataField name="car" optype="categorical" dataType="string"><Value value="none"/><Value value="small"/></DataField>
  <DataField name="claims" optype="continuous" dataType="double"/>
</DataDictionary>
<RegressionModel functionName="regression">
  <MiningSchema>
    <MiningField name="age" missingValueReplacement="30"/><MiningField name="car" invalidValueTreatment="asIs"/>
    <MiningField name="claims" usageType="target"/>
  </MiningSchema>
  <RegressionTable intercept="132.37">
    <NumericPredictor name="age" coefficient="7.1"/>
    <CategoricalPredictor name="car" value="none" coefficient="41.1"/>
    <CategoricalPredictor name="car" value="small" coefficient="20.5"/>
  </RegressionTable>
</RegressionModel>"""
CLUSTERING = """
<DataDictionary>
  <DataField name="a" optype="continuous" dataType="double"/><DataField name="b" optype="continuous" dataType="double"/>
</DataDictionary>
<ClusteringModel functionName="clustering" modelClass="centerBased" numberOfClusters="2">
  <MiningSchema><MiningField name="a"/><MiningField name="b"/></MiningSchema>
  <Output><OutputField name="cluster" optype="categorical" dataType="string" feature="predictedValue"/></Output>
  <ComparisonMeasure kind="distance"><squaredEuclidean/></ComparisonMeasure>
  <ClusteringField field="a"/><ClusteringField field="b"/>
  <Cluster id="near"><Array type="real" n="2">0 0</Array></Cluster>
  <Cluster id="far"><Array type="real" n="2">9 9</Array></Cluster>
</ClusteringModel>"""

Load = Callable[[str], PmmlEngine]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_model(content: str) -> PmmlEngine:
        (tmp_path / "model.pmml").write_text(FRAME.format(content))
        return load_pmml(tmp_path, Resources(), RuntimeOptions())

    return load_model


def predict(engine: PmmlEngine, *instances: Any) -> list[dict[str, Any]]:
    (answer,) = engine.run([engine.parse("predict", json.dumps({"instances": instances}).encode())])
    if isinstance(answer, TimlError):
        raise answer
    predictions: list[dict[str, Any]] = json.loads(answer)["predictions"]
    return predictions


def test_tree_answers_label_and_probabilities(load: Load) -> None:
    tree = load(TREE)
    rainy = {"outlook": "rain", "humidity": 80, "windy": True}
    first, second = predict(tree, rainy, {**rainy, "windy": False})
    assert (first["play"], first["probability_no"]) == ("no", 0.75)
    assert (second["play"], second["probability_yes"]) == ("yes", 1.0)


def test_category_that_the_model_does_not_know_is_refused_with_those_it_knows(load: Load) -> None:
    with pytest.raises(InvalidInputError, match="'snow' is not one of 'sunny', 'rain'") as caught:
        predict(load(TREE), {"outlook": "snow", "humidity": 80, "windy": True})
    assert caught.value.details["field"] == "instances[0].outlook"


def test_field_with_a_replacement_may_be_absent_and_null_takes_the_default_child(load: Load) -> None:
    tree = load(TREE)
    assert [field.required for field in tree.signature.inputs] == [True, True, False]
    assert predict(tree, {"outlook": "rain", "humidity": 80})[0]["play"] == "yes"
    assert predict(tree, {"outlook": None, "humidity": 80, "windy": True})[0]["probability_yes"] == 0.8


def test_boolean_field_takes_booleans_only(load: Load) -> None:
    with pytest.raises(InvalidInputError, match="expected true or false"):
        predict(load(TREE), {"outlook": "rain", "humidity": 80, "windy": "true"})


def test_regression_without_outputs_answers_under_its_targets_name(load: Load) -> None:
    regression = load(REGRESSION)
    assert predict(regression, {"age": 40, "car": "none"}) == [{"claims": pytest.approx(132.37 + 284 + 41.1)}]
    assert predict(regression, {"age": None, "car": "small"}) == predict(regression, {"car": "small"})
    assert predict(regression, {"car": "small"}) == [{"claims": pytest.approx(132.37 + 213 + 20.5)}]


def test_integer_field_takes_whole_numbers_only(load: Load) -> None:
    regression = load(REGRESSION)
    assert predict(regression, {"age": 40.0, "car": "none"}) == predict(regression, {"age": 40, "car": "none"})
    for wrong in (40.5, "40", 2**70):
        with pytest.raises(InvalidInputError):
            predict(regression, {"age": wrong, "car": "none"})


def test_clustering_answers_its_own_output(load: Load) -> None:
    assert predict(load(CLUSTERING), {"a": 1, "b": 1}, {"a": 8, "b": 8}) == [{"cluster": "near"}, {"cluster": "far"}]


@pytest.mark.parametrize("content", [TREE, REGRESSION, CLUSTERING])
def test_inspection_gives_a_signature_and_an_example_that_runs(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.pmml").write_text(FRAME.format(content))
    report = inspect_pmml(tmp_path, Resources())
    assert report.signature is not None
    assert report.signature.example is not None
    engine = load_pmml(tmp_path, Resources(), RuntimeOptions())
    (prediction,) = predict(engine, *report.signature.example["instances"])
    assert list(prediction) == [field.name for field in report.signature.outputs]


def test_rows_of_a_table_are_scored_one_by_one(load: Load) -> None:
    results = load(TREE).score(
        ["humidity", "outlook", "other"], [[80.0, "sunny", 1], [80.0, "snow", 2], [None, "rain", 3], [1.0]]
    )
    assert [isinstance(result, InvalidInputError) for result in results] == [False, True, False, True]
    with pytest.raises(InvalidInputError, match="no such column"):
        load(TREE).score(["humidity"], [[1.0]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<DataDictionary/><GanModel/>", "unknown model element 'GanModel'"),
        ("<DataDictionary/>", "no model element"),
        (TREE + REGRESSION, "two models"),
        ("<DataDictionary/><TreeModel/>", "no MiningSchema"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_engine_sees_it(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "model.pmml").write_text(FRAME.format(content))
    with pytest.raises(InvalidModelError, match=words):
        inspect_pmml(tmp_path, Resources())
