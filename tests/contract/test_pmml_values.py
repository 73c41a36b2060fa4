"""Values in and out of PMML models: missing, invalid, moments, classes, targets, outputs, forms of requests."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_timl.exceptions import InvalidInputError
from tests.contract.test_pmml_kinds import load, predict
from tests.pmml_kinds import build_dictionary, build_schema, tree

ROW = {"a": 1, "b": 1}


def regression(body: str = "", schema: str | None = None, field: str = "") -> str:
    """y = a + 2.25."""
    first = f'<DataField name="a" optype="continuous" dataType="double">{field}</DataField>'
    dictionary = build_dictionary("b:continuous:double", "y:continuous:double").replace(
        "<DataDictionary>", f"<DataDictionary>{first}"
    )
    return f"""{dictionary}<RegressionModel functionName="regression">{schema or build_schema("a", "b")}{body}
      <RegressionTable intercept="2.25"><NumericPredictor name="a" coefficient="1"/></RegressionTable>
      </RegressionModel>"""


def treat(attributes: str) -> str:
    return (
        f'<MiningSchema><MiningField name="a" {attributes}/><MiningField name="b"/>'
        '<MiningField name="y" usageType="target"/></MiningSchema>'
    )


@pytest.mark.parametrize(
    ("attributes", "value", "answer"),
    [
        ("", None, None),
        ('missingValueReplacement="7"', None, 9.25),
        ('missingValueReplacement="7" missingValueTreatment="asMean"', -999, 9.25),
        ('missingValueTreatment="returnInvalid"', None, None),
        ("", 11, None),
        ('invalidValueTreatment="asIs"', 11, 13.25),
        ('invalidValueTreatment="asMissing" missingValueReplacement="4"', 11, 6.25),
        ('invalidValueTreatment="asValue" invalidValueReplacement="5"', 11, 7.25),
        ('outliers="asExtremeValues" lowValue="2" highValue="8"', 9, 10.25),
        ('outliers="asExtremeValues" lowValue="2" highValue="8"', 1, 4.25),
        ('outliers="asMissingValues" lowValue="2" highValue="8" missingValueReplacement="3"', 9, 5.25),
    ],
)
def test_mining_field_says_what_becomes_of_a_value(
    tmp_path: Path, attributes: str, value: float | None, answer: float | None
) -> None:
    interval = '<Interval closure="closedClosed" leftMargin="0" rightMargin="10"/>'
    engine = load(tmp_path, regression("", treat(attributes), f'{interval}<Value value="-999" property="missing"/>'))
    assert predict(engine, {"a": value, "b": 1}) == [{"y": answer}]
    if "missingValueReplacement" in attributes:
        assert predict(engine, {"b": 1}) == predict(engine, {"a": None, "b": 1})


def test_targets_limit_scale_and_round_a_regression(tmp_path: Path) -> None:
    targets = (
        '<Targets><Target field="y" rescaleConstant="10" rescaleFactor="3.1" castInteger="round" min="0" max="5"/>'
    )
    engine = load(tmp_path, regression(f"{targets}</Targets>"))
    answers = predict(engine, *({"a": a, "b": 0} for a in (1, 100, -100)))
    assert answers == [{"y": round(3.25 * 3.1 + 10)}, {"y": round(5 * 3.1 + 10)}, {"y": 10}]


def test_target_gives_its_default_where_the_model_has_no_answer(tmp_path: Path) -> None:
    engine = load(
        tmp_path, regression('<Targets><Target field="y"><TargetValue defaultValue="4.5"/></Target></Targets>')
    )
    assert predict(engine, {"a": None, "b": 1}) == [{"y": 4.5}]


def classify(dtype: str, yes: str, no: str) -> str:
    content = tree('missingValueStrategy="defaultChild"').replace('"string"', f'"{dtype}"')
    return content.replace('"yes"', f'"{yes}"').replace('"no"', f'"{no}"')


@pytest.mark.parametrize(
    ("dtype", "classes", "label"),
    [
        ("integer", ("1", "0"), 1),
        ("double", ("1.23456", "1000"), 1.23456),
        ("boolean", ("true", "false"), True),
        ("string", ("ja, «gut»", "n"), "ja, «gut»"),
    ],
)
@pytest.mark.parametrize("has_targets", [False, True])
def test_classes_keep_their_type_and_their_probabilities(
    tmp_path: Path, dtype: str, classes: tuple[str, str], label: Any, has_targets: bool
) -> None:
    content = classify(dtype, *classes)
    if has_targets:
        values = "".join(f'<TargetValue value="{value}" displayValue="shown {value}"/>' for value in classes)
        content = content.replace('<Node id="0"', f'<Targets><Target field="y">{values}</Target></Targets><Node id="0"')
    (prediction,) = predict(load(tmp_path, content), ROW | {"a": 0})
    assert prediction["y"] == label
    assert type(prediction["y"]) is type(label)
    assert [prediction[f"probability_{name}"] for name in classes] == pytest.approx([5 / 6, 1 / 6])


OUTPUTS = """<Output>
  <OutputField name="raw" feature="predictedValue" dataType="double" optype="continuous" isFinalResult="false"/>
  <OutputField name="twice" feature="transformedValue" dataType="double" optype="continuous">
    <Apply function="*"><FieldRef field="raw"/><Constant dataType="integer">2</Constant></Apply></OutputField>
  <OutputField name="advice" feature="decision" dataType="string" optype="categorical">
    <Apply function="if"><Apply function="greaterThan"><FieldRef field="raw"/><Constant>3</Constant></Apply>
    <Constant>high</Constant><Constant>low</Constant></Apply></OutputField>
  <OutputField name="ratio" feature="transformedValue" dataType="double" optype="continuous">
    <Apply function="/"><FieldRef field="a"/><FieldRef field="b"/></Apply></OutputField>
  <OutputField name="positive" feature="transformedValue" dataType="boolean" optype="categorical">
    <Apply function="greaterThan"><FieldRef field="a"/><Constant>0</Constant></Apply></OutputField>
  <OutputField name="off" feature="residual" dataType="double" optype="continuous"/></Output>"""


def test_outputs_of_all_features_are_answered_and_what_json_has_not_is_null(tmp_path: Path) -> None:
    engine = load(tmp_path, regression(OUTPUTS))
    assert predict(engine, {"a": 1, "b": 0, "y": 5}, {"a": 0, "b": 0}) == [
        {"twice": 6.5, "advice": "high", "ratio": None, "positive": True, "off": -1.75},
        {"twice": 4.5, "advice": "low", "ratio": None, "positive": False, "off": None},
    ]
    kinds = {field.name: field.dtype for field in engine.signature.outputs}
    assert kinds == {"twice": "double", "advice": "string", "ratio": "double", "positive": "boolean", "off": "double"}
    assert [(field.name, field.required) for field in engine.signature.inputs] == [
        ("a", True), ("b", True), ("y", False),
    ]  # fmt: skip


def test_integers_keep_all_their_64_bits(tmp_path: Path) -> None:
    echo = (
        '<Output><OutputField name="same" feature="transformedValue" dataType="integer" optype="continuous">'
        '<FieldRef field="a"/></OutputField></Output>'
    )
    engine = load(tmp_path, regression(echo).replace('name="a" optype="continuous" dataType="double"',
                                                     'name="a" optype="continuous" dataType="integer"'))  # fmt: skip
    largest = 2**63 - 1
    assert [row["same"] for row in predict(engine, *[{"a": largest - n, "b": 0} for n in range(20)])] == [
        largest - n for n in range(20)
    ]
    assert predict(engine, {"a": None, "b": 0})[0]["same"] is None


def moment(dtype: str) -> str:
    return f"""<DataDictionary><DataField name="a" optype="ordinal" dataType="{dtype}"/>
      <DataField name="y" optype="continuous" dataType="double"/></DataDictionary>
      <TransformationDictionary><DerivedField name="n" optype="continuous" dataType="integer">
      <Apply function="dateSecondsSinceMidnight"><FieldRef field="a"/></Apply></DerivedField></TransformationDictionary>
      <RegressionModel functionName="regression">{build_schema("a")}<RegressionTable intercept="0">
      <NumericPredictor name="n" coefficient="1"/></RegressionTable></RegressionModel>"""


@pytest.mark.parametrize(
    ("dtype", "value", "seconds"),
    [
        ("time", "03:30:03", 12603),
        ("dateTime", "1960-01-03T03:30:03", 12603),
        ("dateTime", "2024-02-29T03:30:03+02:00", 12603 - 7200),
        ("dateTime", "2024-02-29T03:30:03Z", 12603),
        ("date", "2024-02-29", 0),
        ("date", None, None),
    ],
)
def test_moments_are_text_of_iso_8601(tmp_path: Path, dtype: str, value: str | None, seconds: int | None) -> None:
    engine = load(tmp_path, moment(dtype))
    assert predict(engine, *[{"a": value}] * 10) == [{"y": seconds}] * 10
    for wrong in ("yesterday", 5, True):
        with pytest.raises(InvalidInputError, match="expected text like '"):
            predict(engine, {"a": wrong})


def test_table_may_hold_moments_of_python(tmp_path: Path) -> None:
    engine = load(tmp_path, moment("dateTime"))
    assert engine.score(["a"], [[datetime(1960, 1, 3, 3, 30, 3, 999_999)], [None]]) == [{"y": 12603.0}, {"y": None}]


def test_days_since_a_year_are_whole_numbers(tmp_path: Path) -> None:
    content = regression().replace('name="a" optype="continuous" dataType="double"',
                                   'name="a" optype="continuous" dataType="dateDaysSince[1960]"')  # fmt: skip
    assert predict(load(tmp_path, content), {"a": 5, "b": 0}) == [{"y": 7.25}]


def test_all_forms_of_request_give_the_same_answer(tmp_path: Path) -> None:
    engine = load(tmp_path, regression())
    bodies: list[dict[str, Any]] = [
        {"instances": [{"a": 1, "b": 2}, {"a": 2, "b": 2}]},
        {"instances": [{"values": {"a": 1, "b": 2}}, {"values": {"b": 2, "a": 2}}]},
        {"instances": [{"values": [1, 2]}, {"values": [2, 2]}]},
        {"instances": [[1, 2], [2.0, 2]], "signature_name": "serving_default"},
        {"inputs": {"a": [1, 2], "b": [2, 2]}},
        {"inputs": [[1, 2], [2, 2]]},
        {"inputs": [{"a": 1, "b": 2}, {"a": 2, "b": 2}]},
    ]
    answers = engine.run([engine.parse("predict", json.dumps(body).encode()) for body in bodies])
    assert [json.loads(answer) for answer in answers if isinstance(answer, bytes)] == [
        {"predictions": [{"y": 3.25}, {"y": 4.25}]}
    ] * len(bodies)
    with pytest.raises(InvalidInputError) as caught:
        engine.parse("predict", b'{"inputs": [{"a": 1, "b": 2}, {"a": "x", "b": 2}]}')
    assert caught.value.details["field"] == "inputs[1].a"


def test_status_gives_the_types_of_angel_serving_and_the_whole_signature(tmp_path: Path) -> None:
    engine = load(tmp_path, classify("integer", "1", "0"))
    assert engine.describe() == {"typeMap": {"a": "DT_DOUBLE", "b": "DT_DOUBLE"}}
    label = engine.signature.outputs[0]
    assert (label.name, label.dtype, label.values) == ("y", "integer", [1, 0])
