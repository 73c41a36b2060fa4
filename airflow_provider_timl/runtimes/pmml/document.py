"""A PMML file as text: what is refused before the engine sees it, and the declarations that requests are checked by.

One pass of expat, without a tree: entities and document types are refused where they begin; depth, the number of fields
and of verification records are bounded.

:source: PMML 4.4.1, "General Structure", "Data Dictionary", "Mining Schema", "Model Verification".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn
from xml.parsers import expat

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.pmml.encoding import find_encoding, read_characters

#: What PMML4S evaluates.
MODEL_ELEMENTS = frozenset({
    "AnomalyDetectionModel",
    "AssociationModel",
    "ClusteringModel",
    "GeneralRegressionModel",
    "MiningModel",
    "NaiveBayesModel",
    "NearestNeighborModel",
    "NeuralNetwork",
    "RegressionModel",
    "RuleSetModel",
    "Scorecard",
    "SupportVectorMachineModel",
    "TreeModel",
})  # fmt: skip
MOST_RECORDS = 10_000
_OTHER_ELEMENTS = frozenset({"Header", "MiningBuildTask", "DataDictionary", "TransformationDictionary", "Extension"})
_VERSIONS = ("3.", "4.")
_NAMESPACE_PREFIX = "http://www.dmg.org/PMML-"
_ARRAYS = frozenset({"Array", "Indices", "INT-Entries", "REAL-Entries"})
#: What PMML4S 1.5.8 takes but computes wrongly, so that the model would give wrong answers without a word.
_MISCOMPUTED = {
    ("CompoundPredicate", "booleanOperator", "xor"): "it is never true",
    ("Apply", "function", "dateDaysSinceYear"): "it counts from the time of day at which it is called",
    ("Apply", "function", "dateSecondsSinceYear"): "it counts from the time of day at which it is called",
    ("GeneralRegressionModel", "modelType", "CoxRegression"): "it takes the first baseline cell at any time",
    ("Segmentation", "multipleModelMethod", "selectAll"): "the segments' answers get lost",
}
_MISCOMPUTED_ELEMENTS = frozenset(element for element, _, _ in _MISCOMPUTED)
_TARGETS = frozenset({"target", "predicted"})
_DEEPEST = 1000
_MOST_FIELDS = 100_000
_MODEL_DEPTH = 2


@dataclass
class DataField:
    """A field of the data dictionary. ``values``: its valid categories as written; ``margins``: its first interval."""

    name: str
    optype: str
    dtype: str
    values: list[str] = field(default_factory=list)
    margins: tuple[float | None, float | None] | None = None


@dataclass(frozen=True)
class MiningField:
    """How the model uses a field. ``replaces_missing``: it says what takes the place of an absent value."""

    name: str
    usage: str
    replaces_missing: bool
    accepts_invalid: bool


@dataclass(frozen=True)
class VerificationField:
    """A field of the verification records and how near a number has to be."""

    name: str
    column: str
    precision: float
    zero_threshold: float


@dataclass
class PmmlDocument:
    """``records``: of each verification record what stands in its columns, the first ``MOST_RECORDS`` of them.
    ``wraps_arrays``: an array of numbers goes over several lines."""

    encoding: str = "utf-8"
    version: str = ""
    producer: str = ""
    model_element: str = ""
    data_fields: dict[str, DataField] = field(default_factory=dict)
    mining_fields: dict[str, MiningField] = field(default_factory=dict)
    output_names: set[str] = field(default_factory=set)
    verification_fields: list[VerificationField] = field(default_factory=list)
    records: list[dict[str, str]] = field(default_factory=list)
    wraps_arrays: bool = False

    @property
    def target_names(self) -> list[str]:
        return [name for name, mining in self.mining_fields.items() if mining.usage in _TARGETS]


def find_pmml_file(folder: Path) -> Path:
    """The one PMML file of an artifact.

    :raises InvalidModelError: there is none, or more than one.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".pmml", ".xml"})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InvalidModelError(f"a PMML model is exactly one .pmml or .xml file; found {names}")
    return found[0]


def read_pmml(source: BinaryIO) -> PmmlDocument:
    """:raises InvalidModelError: not well-formed, with entities, or not PMML with a model that can be evaluated."""
    reader = _Reader()
    reader.read(source)
    return reader.document


class _Reader:
    def __init__(self) -> None:
        self.document = PmmlDocument()
        self._path: list[str] = []
        self._field: DataField | None = None
        self._text: list[str] = []
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.EntityDeclHandler = self._refuse_doctype
        self._parser.ExternalEntityRefHandler = self._refuse_doctype

    def read(self, source: BinaryIO) -> None:
        self.document.encoding = find_encoding(source)
        try:
            for text in read_characters(source, self.document.encoding):
                self._parser.Parse(text, False)
            self._parser.Parse("", True)
        except expat.ExpatError as exc:
            message = expat.ErrorString(exc.code)
            raise InvalidModelError(
                f"the file is not well-formed XML: {message} at line {exc.lineno}; is it complete?"
            ) from exc
        except UnicodeError as exc:  # half a pair of surrogates, which UTF-8 cannot carry
            raise InvalidModelError("the file holds characters that XML does not allow") from exc
        if not self.document.model_element:
            raise InvalidModelError("the file holds no model element such as TreeModel or RegressionModel")
        if not self.document.mining_fields:
            raise InvalidModelError(f"the {self.document.model_element} has no MiningSchema")

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise InvalidModelError("the file declares a document type or entities, which a PMML file never needs; refused")

    def _start(self, qualified: str, attributes: dict[str, str]) -> None:
        namespace, _, name = qualified.rpartition(" ")
        self._path.append(name)
        depth = len(self._path)
        if depth > _DEEPEST:
            raise InvalidModelError(f"the file nests elements more than {_DEEPEST} deep")
        if name in _ARRAYS:
            self._collect_text()
        elif name in _MISCOMPUTED_ELEMENTS:
            _refuse_miscomputed(name, attributes)
        if depth == 1:
            self._start_root(namespace, name, attributes)
        elif depth == _MODEL_DEPTH:
            self._start_top(name)
        elif self._path[1] == "DataDictionary":
            self._start_data(name, attributes)
        elif self._path[1] == "Header" and name == "Application":
            self.document.producer = f"{attributes.get('name', '')} {attributes.get('version', '')}".strip()
        elif self._path[1] == self.document.model_element:
            self._start_in_model(name, self._path[2:], attributes)

    def _start_in_model(self, name: str, path: list[str], attributes: dict[str, str]) -> None:
        if path == ["MiningSchema", "MiningField"]:
            self._start_mining_field(attributes)
        elif path == ["Output", "OutputField"]:
            self.document.output_names.add(attributes.get("name", ""))
        elif path == ["ModelVerification", "VerificationFields", "VerificationField"]:
            self.document.verification_fields.append(_read_verification_field(attributes))
        elif path == ["ModelVerification", "InlineTable", "row"]:
            if len(self.document.records) < MOST_RECORDS:
                self.document.records.append({})
            else:
                self._parser.CharacterDataHandler = None
        elif path[:3] == ["ModelVerification", "InlineTable", "row"]:
            self._collect_text()

    def _collect_text(self) -> None:
        self._text.clear()
        self._parser.CharacterDataHandler = self._text.append

    def _end(self, qualified: str) -> None:
        name = qualified.rpartition(" ")[2]
        if self._parser.CharacterDataHandler is not None:
            self._parser.CharacterDataHandler = None
            self._end_text(name, "".join(self._text))
        self._path.pop()

    def _end_text(self, name: str, text: str) -> None:
        if name in _ARRAYS:
            self.document.wraps_arrays = self.document.wraps_arrays or "\n" in text
        elif self.document.records:
            self.document.records[-1].setdefault(name, text)

    def _start_root(self, namespace: str, name: str, attributes: dict[str, str]) -> None:
        version = attributes.get("version", "")
        if name != "PMML" or (namespace and not namespace.startswith(_NAMESPACE_PREFIX)):
            raise InvalidModelError(f"the root element is {name!r}, not PMML")
        if not version.startswith(_VERSIONS):
            raise InvalidModelError(f"PMML version {version!r} is not supported; 3.x and 4.x are")
        self.document.version = version

    def _start_top(self, name: str) -> None:
        if name in MODEL_ELEMENTS:
            if self.document.model_element:
                raise InvalidModelError(f"the file holds two models, {self.document.model_element} and {name}")
            self.document.model_element = name
        elif name not in _OTHER_ELEMENTS:
            known = ", ".join(sorted(MODEL_ELEMENTS))
            raise InvalidModelError(f"unknown model element {name!r}; supported are {known}")

    def _start_data(self, name: str, attributes: dict[str, str]) -> None:
        if name == "DataField" and "name" in attributes:
            optype, dtype = attributes.get("optype", "continuous"), attributes.get("dataType", "string")
            self._field = DataField(attributes["name"], optype, dtype)
            self.document.data_fields[self._field.name] = self._field
            if len(self.document.data_fields) > _MOST_FIELDS:
                raise InvalidModelError(f"the DataDictionary has more than {_MOST_FIELDS} fields")
        elif self._field is not None and name == "Value":
            if attributes.get("property", "valid") == "valid" and "value" in attributes:
                self._field.values.append(attributes["value"])
        elif self._field is not None and name == "Interval" and self._field.margins is None:
            margin = _read_number(attributes, "an Interval")
            self._field.margins = (margin("leftMargin", None), margin("rightMargin", None))

    def _start_mining_field(self, attributes: dict[str, str]) -> None:
        name = attributes.get("name", "")
        if name in self.document.mining_fields:
            raise InvalidModelError(f"the MiningSchema names the field {name!r} twice")
        self.document.mining_fields[name] = MiningField(
            name=name,
            usage=attributes.get("usageType", "active"),
            replaces_missing="missingValueReplacement" in attributes,
            accepts_invalid=attributes.get("invalidValueTreatment", "returnInvalid") != "returnInvalid",
        )


def _refuse_miscomputed(name: str, attributes: dict[str, str]) -> None:
    for attribute, value in attributes.items():
        reason = _MISCOMPUTED.get((name, attribute, value))
        if reason is not None:
            raise InvalidModelError(f"{attribute}={value!r} is not supported: in PMML4S {reason}")


def _read_verification_field(attributes: dict[str, str]) -> VerificationField:
    name = attributes.get("field", "")
    number = _read_number(attributes, f"the VerificationField {name!r}")
    return VerificationField(
        name=name,
        column=attributes.get("column", name).rpartition(":")[2],
        precision=number("precision", 1e-6) or 0.0,
        zero_threshold=number("zeroThreshold", 1e-16) or 0.0,
    )


def _read_number(attributes: dict[str, str], what: str) -> Callable[[str, float | None], float | None]:
    def read(name: str, default: float | None) -> float | None:
        text = attributes.get(name)
        try:
            number = default if text is None else float(text)
        except ValueError as exc:
            raise InvalidModelError(f"{what} has the {name} {text!r}, which is no number") from exc
        return None if number is None or math.isnan(number) else number

    return read
