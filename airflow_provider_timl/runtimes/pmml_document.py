"""A PMML file as text: what is refused before the engine sees it, and the declarations that requests are checked by.

One pass of expat, without a tree: entities and document types are refused where they begin, depth and size are bounded.

:source: PMML 4.4.1, "General Structure", "Data Dictionary", "Mining Schema".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from airflow_provider_timl.exceptions import InvalidModelError

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
_OTHER_ELEMENTS = frozenset({"Header", "MiningBuildTask", "DataDictionary", "TransformationDictionary", "Extension"})
_VERSIONS = ("3.", "4.")
_NAMESPACE_PREFIX = "http://www.dmg.org/PMML-"
_DEEPEST = 1000
_CHUNK_BYTES = 1024 * 1024
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


@dataclass
class PmmlDocument:
    version: str = ""
    producer: str = ""
    model_element: str = ""
    data_fields: dict[str, DataField] = field(default_factory=dict)
    mining_fields: dict[str, MiningField] = field(default_factory=dict)
    output_names: set[str] = field(default_factory=set)


def find_pmml_file(folder: Path) -> Path:
    """The one PMML file of an artifact.

    :raises InvalidModelError: there is none, or more than one.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".pmml", ".xml"})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InvalidModelError(f"a PMML model is exactly one .pmml or .xml file; found {names}")
    return found[0]


def read_pmml(path: Path) -> PmmlDocument:
    """:raises InvalidModelError: not well-formed, with entities, or not PMML with a model that can be evaluated."""
    reader = _Reader()
    with path.open("rb") as source:
        reader.read(source)
    return reader.document


class _Reader:
    def __init__(self) -> None:
        self.document = PmmlDocument()
        self._path: list[str] = []
        self._field: DataField | None = None
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.EntityDeclHandler = self._refuse_doctype
        self._parser.ExternalEntityRefHandler = self._refuse_doctype

    def read(self, source: Any) -> None:
        try:
            while chunk := source.read(_CHUNK_BYTES):
                self._parser.Parse(chunk, False)
            self._parser.Parse(b"", True)
        except expat.ExpatError as exc:
            message = expat.ErrorString(exc.code)
            raise InvalidModelError(
                f"the file is not well-formed XML: {message} at line {exc.lineno}; is it complete?"
            ) from exc
        if not self.document.model_element:
            raise InvalidModelError("the file holds no model element such as TreeModel or RegressionModel")
        if not self.document.mining_fields:
            raise InvalidModelError(f"the {self.document.model_element} has no MiningSchema")

    def _refuse_doctype(self, *_: Any) -> NoReturn:
        raise InvalidModelError("the file declares a document type or entities, which a PMML file never needs; refused")

    def _start(self, qualified: str, attributes: dict[str, str]) -> None:
        namespace, _, name = qualified.rpartition(" ")
        self._path.append(name)
        depth = len(self._path)
        if depth > _DEEPEST:
            raise InvalidModelError(f"the file nests elements more than {_DEEPEST} deep")
        if depth == 1:
            self._start_root(namespace, name, attributes)
        elif depth == _MODEL_DEPTH:
            self._start_top(name)
        elif self._path[1] == "DataDictionary":
            self._start_data(name, attributes)
        elif self._path[1] == "Header" and name == "Application":
            self.document.producer = f"{attributes.get('name', '')} {attributes.get('version', '')}".strip()
        elif self._path[1:] == [self.document.model_element, "MiningSchema", "MiningField"]:
            self._start_mining_field(attributes)
        elif self._path[1:] == [self.document.model_element, "Output", "OutputField"]:
            self.document.output_names.add(attributes.get("name", ""))

    def _end(self, _name: str) -> None:
        self._path.pop()

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
        elif self._field is not None and name == "Value":
            if attributes.get("property", "valid") == "valid" and "value" in attributes:
                self._field.values.append(attributes["value"])
        elif self._field is not None and name == "Interval" and self._field.margins is None:
            self._field.margins = (_to_float(attributes.get("leftMargin")), _to_float(attributes.get("rightMargin")))

    def _start_mining_field(self, attributes: dict[str, str]) -> None:
        name = attributes.get("name", "")
        self.document.mining_fields[name] = MiningField(
            name=name,
            usage=attributes.get("usageType", "active"),
            replaces_missing="missingValueReplacement" in attributes,
            accepts_invalid=attributes.get("invalidValueTreatment", "returnInvalid") != "returnInvalid",
        )


def _to_float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError as exc:
        raise InvalidModelError(f"an Interval has the margin {text!r}, which is no number") from exc
