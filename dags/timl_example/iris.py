"""Two kinds of iris by logistic regression, written as PMML with the standard library alone.

The first hundred flowers of the data set, setosa (-1) and versicolor (1), by the four measurements x1 to x4 (length and
width of sepal and petal, cm): the fields of the third-party model that the example imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

NAMESPACE = "http://www.dmg.org/PMML-4_4"
FIELDS = ("x1", "x2", "x3", "x4")
LABELS = (-1, 1)
FLOWERS = 100
TEST_SHARE = 0.3


@dataclass(frozen=True)
class TrainedModel:
    """The probability of label 1 is the logistic function of ``intercept`` + ``coefficients`` · (x1, x2, x3, x4)."""

    intercept: float
    coefficients: tuple[float, ...]
    accuracy: float


def train() -> TrainedModel:
    """Fit on 70 of the hundred flowers; the accuracy is that of the other 30."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    measurements, species = load_iris(return_X_y=True)
    measurements, labels = measurements[:FLOWERS], [LABELS[kind] for kind in species[:FLOWERS]]
    train_x, test_x, train_y, test_y = train_test_split(
        measurements, labels, test_size=TEST_SHARE, stratify=labels, random_state=0
    )
    fitted = LogisticRegression().fit(train_x, train_y)
    return TrainedModel(
        intercept=float(fitted.intercept_[0]),
        coefficients=tuple(float(coefficient) for coefficient in fitted.coef_[0]),
        accuracy=float(fitted.score(test_x, test_y)),
    )


def write_pmml(model: TrainedModel, file: Path) -> None:
    """Write a ``RegressionModel`` with the outputs ``probability(-1)`` and ``probability(1)``.

    :source: PMML 4.4, dmg.org/pmml/v4-4-1/Regression.html
    """
    root = ET.Element("PMML", version="4.4", xmlns=NAMESPACE)
    ET.SubElement(root, "Header", description="Iris setosa (-1) and versicolor (1)")
    add_dictionary(root)
    regression = ET.SubElement(
        root, "RegressionModel", functionName="classification", normalizationMethod="logit", targetFieldName="y"
    )
    schema = ET.SubElement(regression, "MiningSchema")
    ET.SubElement(schema, "MiningField", name="y", usageType="target")
    for name in FIELDS:
        ET.SubElement(schema, "MiningField", name=name)
    output = ET.SubElement(regression, "Output")
    for label in LABELS:
        probability = {"name": f"probability({label})", "feature": "probability", "value": str(label)}
        ET.SubElement(output, "OutputField", probability, optype="continuous", dataType="double")
    add_table(regression, "1", model.intercept, dict(zip(FIELDS, model.coefficients, strict=True)))
    add_table(regression, "-1", 0.0, {})
    ET.indent(root)
    ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def add_dictionary(root: ET.Element) -> None:
    dictionary = ET.SubElement(root, "DataDictionary", numberOfFields=str(1 + len(FIELDS)))
    target = ET.SubElement(dictionary, "DataField", name="y", optype="categorical", dataType="integer")
    for label in LABELS:
        ET.SubElement(target, "Value", value=str(label))
    for name in FIELDS:
        ET.SubElement(dictionary, "DataField", name=name, optype="continuous", dataType="double")


def add_table(regression: ET.Element, label: str, intercept: float, coefficients: Mapping[str, float]) -> None:
    table = ET.SubElement(regression, "RegressionTable", intercept=repr(intercept), targetCategory=label)
    for name, coefficient in coefficients.items():
        ET.SubElement(table, "NumericPredictor", name=name, coefficient=repr(coefficient))
