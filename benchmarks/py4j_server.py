"""The comparison: our server with an engine that calls pypmml's own ``Model.predict`` (Py4J, a socket to another JVM).

Everything but the call is the same program. ``python -m benchmarks.py4j_server --config FILE.json``. The option
``form`` says how rows cross: ``dict``, the first that its documentation shows, one call a row; or ``json``, its
quickest, one call a request with all rows as a JSON text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import uvloop
from pypmml import Model

from airflow_provider_timl.entities import Signature, SignatureField
from airflow_provider_timl.runtimes.contract import Batching
from airflow_provider_timl.runtimes.rows import RowReader, RowRequest
from airflow_provider_timl.runtimes.server import serve
from airflow_provider_timl.runtimes.server_config import ServerConfig


class Py4jEngine:
    """pypmml as its own documentation uses it."""

    batching = Batching()

    def __init__(self, path: Path, form: str) -> None:
        self._model = Model.fromFile(str(path))
        fields = [SignatureField(name=str(name), dtype="double") for name in self._model.inputNames]
        self._names = [field.name for field in fields]
        self._reader = RowReader(fields)
        self._predict = {"dict": self._predict_dicts, "json": self._predict_json}[form]
        self.signature = Signature(inputs=fields, outputs=[])

    def describe(self) -> dict[str, Any]:
        return {}

    def describe_metadata(self) -> dict[str, Any]:
        return {}

    def parse(self, _verb: str, body: bytes) -> RowRequest:
        return self._reader.read(body)

    def count_rows(self, request: RowRequest) -> int:
        return len(request.rows)

    def run(self, batch: Sequence[RowRequest]) -> list[bytes]:
        return [orjson.dumps({"predictions": self._predict(self._name(request.rows))}) for request in batch]

    def close(self) -> None:
        Model.close()

    def _name(self, rows: list[list[Any]]) -> list[dict[str, Any]]:
        return [dict(zip(self._names, row, strict=True)) for row in rows]

    def _predict_dicts(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [dict(self._model.predict(row)) for row in rows]

    def _predict_json(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = orjson.loads(self._model.predict(orjson.dumps(rows).decode()))
        return answers


def main() -> None:
    config = ServerConfig.from_json_file(Path(sys.argv[2]))
    (path,) = Path(config.model_path).glob("*.pmml")
    engine = Py4jEngine(path, config.options.get("form", "dict"))
    uvloop.run(serve(config, engine, has_rpc=False))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
