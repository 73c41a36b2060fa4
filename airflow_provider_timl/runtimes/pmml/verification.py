"""Checks the verification records that a PMML file brings against what the model answers here.

A number agrees when it is within ``precision`` of the expected one, relative to it; where the expected one is within
``zeroThreshold`` of zero, the number has to be, too. All else agrees when it is equal. An empty cell is a missing
input, or an output that is not checked; fields that are neither input nor answer are not checked.

:source: PMML 4.4.1, "Model Verification".
"""

from __future__ import annotations

import math
from typing import Any

from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError
from airflow_provider_timl.runtimes.pmml.document import PmmlDocument, VerificationField
from airflow_provider_timl.runtimes.pmml.engine import PmmlEngine
from airflow_provider_timl.runtimes.pmml.example import read_inputs


def verify(engine: PmmlEngine, document: PmmlDocument) -> list[str]:
    """Check all records that were read.

    :return: what was done, for the report; empty without records.
    :raises InvalidModelError: naming the record, the field, what is expected and what the model gives.
    """
    if not document.records:
        return []
    checked = _find_checked(engine, document)
    for number, record in enumerate(document.records, start=1):
        _verify_record(engine, document, checked, record, number)
    inputs = {field.name for field in engine.signature.inputs}
    known = {field.name for field in checked.values()} | inputs
    skipped = [field.name for field in document.verification_fields if field.name not in known]
    records = f"{len(document.records)} record{'s' if len(document.records) > 1 else ''}"
    return [f"verification ({records}{'; not checked: ' + ', '.join(skipped) if skipped else ''})"]


def _find_checked(engine: PmmlEngine, document: PmmlDocument) -> dict[str, VerificationField]:
    """The fields to compare, by the name under which the model answers them; a target is its prediction."""
    answers = [output.name for output in engine.signature.outputs]
    checked = {}
    for field in document.verification_fields:
        if field.name in answers:
            checked[field.name] = field
        elif field.name in document.target_names[:1] and engine.label is not None:
            checked[engine.label] = field
    return checked


def _verify_record(
    engine: PmmlEngine,
    document: PmmlDocument,
    checked: dict[str, VerificationField],
    record: dict[str, str],
    number: int,
) -> None:
    inputs = read_inputs(engine.signature.inputs, document, record)
    try:
        prediction = engine.predict_row([inputs.get(field.name) for field in engine.signature.inputs])
    except InvalidInputError as exc:
        raise InvalidModelError(f"verification record {number}: {exc.message}") from exc
    for name, field in checked.items():
        expected = record.get(field.column, "").strip()
        if expected and not agrees(field, expected, prediction[name]):
            raise InvalidModelError(
                f"verification record {number} of the file expects {field.name!r} to be {expected}; "
                f"the model gives {prediction[name]!r}"
            )


def agrees(field: VerificationField, expected: str, found: Any) -> bool:
    if found is None:
        return False
    if isinstance(found, bool):
        return expected.lower() == str(found).lower()
    wanted, actual = _to_number(expected), _to_number(found)
    if isinstance(found, str):
        return expected == found or (wanted is not None and wanted == actual)
    if wanted is None or actual is None:
        return False
    if abs(wanted) <= field.zero_threshold:
        return abs(actual) <= field.zero_threshold
    return abs(actual - wanted) <= field.precision * abs(wanted)


def _to_number(value: Any) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
