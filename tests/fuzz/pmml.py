"""PMML documents and requests of named fields as fuzz targets. The JVM takes no part: bytes reach Python first."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress

from airflow_provider_timl.entities import SignatureField
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError
from airflow_provider_timl.runtimes.pmml.document import read_pmml
from airflow_provider_timl.runtimes.rows import RowReader
from tests.models import IRIS
from tests.pmml_kinds import CASES, FRAME

FIELDS = (
    SignatureField(name="x", dtype="double"),
    SignatureField(name="n", dtype="integer", required=False),
    SignatureField(name="c", dtype="string", values=["a", "b"]),
    SignatureField(name="b", dtype="boolean"),
    SignatureField(name="d", dtype="dateTime"),
)
READER = RowReader(FIELDS)
ROW = {"x": 1.5, "n": 3, "c": "a", "b": True, "d": "2000-01-01T00:00:00"}


def read_document(data: bytes) -> None:
    with suppress(InvalidModelError):
        read_pmml(io.BytesIO(data))


def list_documents() -> Iterator[bytes]:
    yield IRIS.read_bytes()
    yield from (FRAME.format(document).encode() for document, *_ in CASES.values())


def read_rows(data: bytes) -> None:
    try:
        request = READER.read(data)
    except InvalidInputError:
        return
    assert request.rows
    assert all(len(row) == len(FIELDS) for row in request.rows)


def list_rows() -> Iterator[bytes]:
    columns = {name: [value] for name, value in ROW.items()}
    forms = ([ROW], [list(ROW.values())], [{"values": ROW, "key": 7}], [{"values": list(ROW.values()), "key": "k"}])
    for body in (*({"instances": form} for form in forms), {"inputs": columns}, {"inputs": ROW}):
        yield json.dumps(body).encode()
