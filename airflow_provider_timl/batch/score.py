"""The scoring program: ``python -m airflow_provider_timl.batch.score --config FILE.json``.

Scores one table file with one model version, a chunk of rows at a time, and writes the input's columns with the
prediction's behind them. Rows that the model refuses go to a quarantine file (row number, field, reason); one more than
allowed ends the program. Memory does not grow with the file. Progress goes to stderr, a summary as JSON to stdout.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_timl.batch.tables import Chunk, TableWriter, read_chunks
from airflow_provider_timl.entities import Resources, SignatureField
from airflow_provider_timl.exceptions import InvalidInputError, TimlError
from airflow_provider_timl.runtimes.contract import Engine, find_model_root, get_runtime
from airflow_provider_timl.runtimes.process_end import end_process

_PROGRESS_SECONDS = 5.0
_EXIT_REFUSED = 2


@dataclass(frozen=True)
class ScoreConfig:
    """:param most_errors: rows that may be refused before the file as a whole is."""

    runtime: str
    model_path: str
    input_file: str
    output_file: str
    quarantine_file: str
    chunk_rows: int = 8192
    memory_mb: int = 1024
    most_errors: int = 0
    options: dict[str, Any] = field(default_factory=dict)


class Quarantine:
    """Refused rows, up to a number."""

    def __init__(self, path: Path, most: int) -> None:
        self.count = 0
        self._path = path
        self._most = most

    def add(self, row_number: int, error: TimlError) -> None:
        """:raises InvalidInputError: it is one too many."""
        self.count += 1
        field = str(error.details.get("field", ""))
        with self._path.open("a", newline="") as sink:
            writer = csv.writer(sink)
            if self.count == 1:
                writer.writerow(("row_number", "field", "reason"))
            writer.writerow((row_number, field, error.message))
        if self.count > self._most:
            raise InvalidInputError(
                f"row {row_number}: {field}: {error.message} ({self.count} refused rows; {self._most} are allowed)"
            )


def score_file(config: ScoreConfig) -> dict[str, int]:
    """Score the file.

    :return: ``{"row_count", "error_count"}``; ``row_count`` are the rows written.
    """
    program = get_runtime(config.runtime)
    resources = Resources(memory_mb=config.memory_mb)
    engine = program.load(find_model_root(Path(config.model_path)), resources, program.parse_options(config.options))
    quarantine = Quarantine(Path(config.quarantine_file), config.most_errors)
    signature = engine.signature
    read_count, told_at = 0, time.monotonic()
    with TableWriter(Path(config.output_file), signature.outputs) as writer:
        for chunk in read_chunks(Path(config.input_file), signature.inputs, config.chunk_rows):
            kept, predictions = _score_chunk(engine, chunk, read_count, quarantine)
            writer.write(chunk, kept, _build_columns(chunk.columns, signature.outputs, predictions))
            read_count += len(chunk.rows)
            if time.monotonic() - told_at > _PROGRESS_SECONDS:
                print(f"{read_count} rows read, {quarantine.count} refused", file=sys.stderr, flush=True)
                told_at = time.monotonic()
    return {"row_count": read_count - quarantine.count, "error_count": quarantine.count}


def _score_chunk(
    engine: Engine[Any], chunk: Chunk, before: int, quarantine: Quarantine
) -> tuple[list[int], list[dict[str, Any]]]:
    """Indices of the rows that were accepted, and their predictions. Rows are numbered from 1."""
    kept, predictions = [], []
    for index, result in enumerate(engine.score(chunk.columns, chunk.rows)):
        if isinstance(result, TimlError):
            quarantine.add(before + index + 1, result)
        else:
            kept.append(index)
            predictions.append(result)
    return kept, predictions


def _build_columns(
    columns: Sequence[str], outputs: Sequence[SignatureField], predictions: list[dict[str, Any]]
) -> dict[str, list[Any]]:
    """Output columns by name; one that the input has already is called ``predicted_…``."""
    return {
        f"predicted_{field.name}" if field.name in columns else field.name: [row[field.name] for row in predictions]
        for field in outputs
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score one file with one version of a model.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the fields of ScoreConfig")
    config = ScoreConfig(**json.loads(parser.parse_args(arguments).config.read_text()))
    try:
        summary = score_file(config)
    except TimlError as exc:
        field = exc.details.get("field")
        print(f"{f'{field}: ' if field else ''}{exc.message}", file=sys.stderr)
        return _EXIT_REFUSED
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    end_process(main())
