"""Verification records in a PMML file: the model has to give the answers that they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_timl.entities import InspectionReport, Resources
from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.pmml import document
from airflow_provider_timl.runtimes.pmml.document import VerificationField
from airflow_provider_timl.runtimes.pmml.program import inspect_pmml
from airflow_provider_timl.runtimes.pmml.verification import agrees
from tests.pmml_kinds import FRAME, tree

FIELDS = """<VerificationField field="a" column="data:a"/><VerificationField field="b"/>
  <VerificationField field="y" column="y"/>
  <VerificationField field="probability_yes" column="py" precision="1E-3" zeroThreshold="1E-6"/>"""
GOOD = "<row><data:a>0.5</data:a><b>1</b><y>yes</y><py>0.8333</py></row>"


def inspect(folder: Path, rows: str, fields: str = FIELDS) -> InspectionReport:
    verification = f"""<ModelVerification recordCount="2"><VerificationFields>{fields}</VerificationFields>
      <InlineTable xmlns:data="urn:data">{rows}</InlineTable></ModelVerification><Node id="0\""""
    content = tree('missingValueStrategy="defaultChild"').replace('<Node id="0"', verification)
    (folder / "model.pmml").write_text(FRAME.format(content))
    return inspect_pmml(folder, Resources())


def test_records_that_agree_are_reported_and_the_first_is_the_example(tmp_path: Path) -> None:
    report = inspect(tmp_path, GOOD + "<row><b>2</b><y>yes</y></row>")
    assert report.checks[-1] == "verification (2 records)"
    assert report.signature is not None
    assert report.signature.example == {"instances": [{"a": 0.5, "b": 1.0}]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (GOOD.replace("yes", "no"), "record 2 of the file expects 'y' to be no; the model gives 'yes'"),
        (
            GOOD.replace("0.8333", "0.83"),
            "record 2 .* expects 'probability_yes' to be 0.83; the model gives 0.8",
        ),
        (GOOD.replace(">1<", ">one<"), "field 'b' has the value 'one', which is no double"),
    ],
)
def test_record_that_disagrees_refuses_the_model(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(InvalidModelError, match=words):
        inspect(tmp_path, GOOD + row)


def test_fields_that_are_no_answer_are_named_and_not_checked(tmp_path: Path) -> None:
    fields = FIELDS + '<VerificationField field="weight"/>'
    report = inspect(tmp_path, GOOD.replace("<b>", "<weight>7</weight><b>"), fields)
    assert report.checks[-1] == "verification (1 record; not checked: weight)"


def test_no_more_records_than_the_limit_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MOST_RECORDS", 3)
    report = inspect(tmp_path, GOOD * 3 + GOOD.replace("yes", "no"))
    assert report.checks[-1] == "verification (3 records)"


@pytest.mark.parametrize(
    ("expected", "found", "agree"),
    [
        ("100", 100.00009, True),
        ("100", 100.00011, False),
        ("-100", -99.99991, True),
        ("0", 1e-17, True),
        ("0", 1e-15, False),
        ("1e-17", -1e-16, True),
        ("1.0", "1", True),
        ("a", "b", False),
        ("true", True, True),
        ("1", None, False),
        ("NaN", 1.0, False),
        ("a", 1.0, False),
    ],
)
def test_rule_of_agreement(expected: str, found: object, agree: bool) -> None:
    assert agrees(VerificationField("y", "y", 1e-6, 1e-16), expected, found) is agree
