"""Each kind of model that PMML has and PMML4S evaluates, against answers that Python computed on its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidModelError, TimlError
from airflow_provider_timl.runtimes.pmml.document import MODEL_ELEMENTS, read_pmml
from airflow_provider_timl.runtimes.pmml.engine import PmmlEngine
from airflow_provider_timl.runtimes.pmml.program import inspect_pmml
from tests.pmml_kinds import CASES, FRAME, TWO_CLASSES, TWO_NUMBERS, build_schema, build_segments, tree

MANY = 20


def load(folder: Path, content: str) -> PmmlEngine:
    """Without the rounds that warm a server's engine up."""
    path = folder / "model.pmml"
    path.write_text(FRAME.format(content))
    with path.open("rb") as source:
        return PmmlEngine(path, read_pmml(source), Resources())


def predict(engine: PmmlEngine, *instances: Any) -> list[dict[str, Any]]:
    (answer,) = engine.run([engine.parse("predict", json.dumps({"instances": instances}).encode())])
    if isinstance(answer, TimlError):
        raise answer
    predictions: list[dict[str, Any]] = json.loads(answer)["predictions"]
    return predictions


def test_every_accepted_model_element_has_a_case() -> None:
    contents = " ".join(content for content, _ in CASES.values())
    assert [element for element in MODEL_ELEMENTS if f"<{element} " not in contents] == []


@pytest.mark.parametrize("name", CASES)
def test_kind_of_model_answers_what_python_computes(tmp_path: Path, name: str) -> None:
    content, expectations = CASES[name]
    engine = load(tmp_path, content)
    for instance, expected in expectations:
        (prediction,) = predict(engine, instance)
        for key, value in expected.items():
            assert prediction[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)
        assert predict(engine, *[instance] * MANY) == [prediction] * MANY
        assert list(prediction) == [field.name for field in engine.signature.outputs]


@pytest.mark.parametrize("name", ["regression_softmax", "tree_sets", "boosted", "scorecard", "isolation_forest"])
def test_kind_of_model_passes_inspection_and_its_example_runs(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.pmml").write_text(FRAME.format(CASES[name][0]))
    report = inspect_pmml(tmp_path, Resources())
    assert report.checks == ["structure", "loaded", "example"]
    assert report.signature is not None
    assert report.signature.outputs != []


def test_requests_joined_to_one_batch_are_answered_each_with_its_own_key(tmp_path: Path) -> None:
    engine = load(tmp_path, CASES["tree_default"][0])
    bodies = [{"instances": [{"values": {"a": a, "b": 0}, "key": a}]} for a in range(MANY)]
    answers = engine.run([engine.parse("predict", json.dumps(body).encode()) for body in bodies])
    read = [json.loads(answer)["predictions"][0] for answer in answers if isinstance(answer, bytes)]
    assert [(prediction["key"], prediction["y"]) for prediction in read] == [
        (a, "yes" if a == 0 else "no") for a in range(MANY)
    ]


def test_transaction_of_one_request_is_not_seen_by_the_next(tmp_path: Path) -> None:
    engine = load(tmp_path, CASES["association"][0])
    both = predict(engine, {"transaction": "1", "item": "beer"}, {"transaction": "1", "item": "salsa"})
    assert [prediction["advice"] for prediction in both] == ["salsa", "salsa"]
    assert predict(engine, {"transaction": "1", "item": "salsa"})[0]["advice"] is None


SEGMENT_OUTPUT = '<Output><OutputField name="py" feature="probability" value="yes" dataType="double"/></Output>'


def wrap(method: str, predicate: str = "<True/>") -> str:
    """Two segments that name the probability of one class only."""
    model = tree('missingValueStrategy="defaultChild"').removeprefix(TWO_CLASSES)
    model = model.replace('<Node id="0"', f'{SEGMENT_OUTPUT}<Node id="0"')
    return f"""{TWO_CLASSES}<MiningModel functionName="classification">{build_schema("a", "b")}
      <Segmentation multipleModelMethod="{method}"><Segment id="1"><True/>{model}</Segment>
      <Segment id="2">{predicate}{model}</Segment></Segmentation></MiningModel>"""


@pytest.mark.parametrize("method", ["selectFirst", "modelChain", "average", "max"])
def test_segments_that_name_some_outputs_only_do_not_falsify_the_answer(tmp_path: Path, method: str) -> None:
    (prediction,) = predict(load(tmp_path, wrap(method)), {"a": 0.1, "b": 1})
    assert prediction["y"] == "yes"
    probabilities = [value for name, value in prediction.items() if name in {"py", "probability_yes"}]
    assert probabilities == [pytest.approx(5 / 6)]


def test_chain_whose_last_model_is_skipped_answers_by_the_one_before(tmp_path: Path) -> None:
    skipped = wrap("modelChain", '<SimplePredicate field="a" operator="greaterThan" value="5"/>')
    assert predict(load(tmp_path, skipped), {"a": 0.1, "b": 1})[0]["y"] == "yes"


def test_first_segment_that_fires_answers(tmp_path: Path) -> None:
    engine = load(tmp_path, build_segments("selectFirst", "", "classification"))
    predictions = predict(engine, {"a": 1, "b": 0}, {"a": -1, "b": 0})
    assert [prediction["y"] for prediction in predictions] == ["yes", None]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (build_segments("selectAll"), "multipleModelMethod='selectAll' is not supported"),
        (
            tree("").replace(
                '<SimplePredicate field="a" operator="lessOrEqual" value="0.5"/>',
                '<CompoundPredicate booleanOperator="xor"><True/><False/></CompoundPredicate>',
            ),
            "booleanOperator='xor' is not supported",
        ),
        (
            f"""{TWO_NUMBERS}<GeneralRegressionModel functionName="regression" modelType="CoxRegression"/>""",
            "modelType='CoxRegression' is not supported",
        ),
        (
            f"""<TransformationDictionary><DerivedField name="n" optype="continuous" dataType="integer">
            <Apply function="dateDaysSinceYear"/></DerivedField></TransformationDictionary>{TWO_NUMBERS}""",
            "function='dateDaysSinceYear' is not supported",
        ),
    ],
)
def test_what_pmml4s_computes_wrongly_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "model.pmml").write_text(FRAME.format(content))
    with pytest.raises(InvalidModelError, match=words):
        inspect_pmml(tmp_path, Resources())
