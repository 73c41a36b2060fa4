"""Tables in files, a bounded number of rows at a time: CSV and Parquet.

CSV keeps its text: what comes in goes out to the letter, and values are converted for the model only, so that one bad
cell is one bad row and not a bad file. An empty cell is a missing value.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet  # makes pa.parquet

from airflow_provider_timl.entities import SignatureField
from airflow_provider_timl.exceptions import InvalidInputError

SUFFIXES = (".csv", ".parquet")
_ARROW_TYPES = {
    "double": pa.float64(),
    "float": pa.float64(),
    "real": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    **dict.fromkeys(("float16", "bfloat16"), pa.float64()),
    **{f"int{size}": pa.int64() for size in (8, 16, 32)},
    **{f"uint{size}": pa.int64() for size in (8, 16, 32)},
    "uint64": pa.uint64(),
}


@dataclass(frozen=True)
class Chunk:
    """Some rows. ``rows`` are values for the model, in the order of ``columns``; ``source`` is what they came from."""

    columns: list[str]
    rows: Sequence[Sequence[Any]]
    source: Any


class Writer(Protocol):
    """Writes rows of the input with their predictions behind them."""

    def write(self, chunk: Chunk, kept: Sequence[int], outputs: dict[str, list[Any]]) -> None:
        """:param kept: indices of the chunk's rows that were predicted; ``outputs`` has a value for each."""

    def close(self) -> None: ...


def read_chunks(path: Path, inputs: Sequence[SignatureField], row_count: int) -> Iterator[Chunk]:
    """Chunks of at most ``row_count`` rows, in order.

    :raises InvalidInputError: the file is not what its name says.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, row_count)
    if path.suffix == ".csv":
        return _read_csv(path, {field.name: field.dtype for field in inputs}, row_count)
    raise InvalidInputError(f"{path.name} is neither .csv nor .parquet", field="input_path")


class TableWriter:
    """Opens the writer that a file's suffix asks for; closed at the end of the ``with`` block."""

    def __init__(self, path: Path, outputs: Sequence[SignatureField]) -> None:
        self._writer: Writer = (_ParquetWriter if path.suffix == ".parquet" else _CsvWriter)(path, outputs)

    def __enter__(self) -> Writer:
        return self._writer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _read_csv(path: Path, dtypes: dict[str, str], row_count: int) -> Iterator[Chunk]:
    with path.open(newline="", encoding="utf-8-sig") as source:
        reader = csv.reader(source, strict=True)
        try:
            columns = next(reader, [])
            if not columns or len(set(columns)) != len(columns):
                raise InvalidInputError(f"{path.name} needs a first line of distinct column names", field="input_path")
            types = [dtypes.get(column, "string") for column in columns]
            texts: list[list[str]] = []
            for line in reader:
                texts.append(line)
                if len(texts) == row_count:
                    yield _build_csv_chunk(columns, types, texts)
                    texts = []
            if texts:
                yield _build_csv_chunk(columns, types, texts)
        except (csv.Error, UnicodeDecodeError) as exc:
            message = f"{path.name} cannot be read as CSV at line {reader.line_num}: {exc}"
            raise InvalidInputError(message, field="input_path") from exc


def _build_csv_chunk(columns: list[str], types: list[str], texts: list[list[str]]) -> Chunk:
    return Chunk(columns, [[_convert(text, dtype) for text, dtype in zip(line, types)] for line in texts], texts)  # noqa: B905


def _convert(text: str, dtype: str) -> Any:
    """The value that the model takes; text that is none stays text, and the model's own check names it."""
    if not text:
        return None
    try:
        if dtype in {"double", "float"}:
            return float(text)
        if dtype == "integer":
            return int(text)
    except ValueError:
        return text
    return {"true": True, "false": False}.get(text.lower(), text) if dtype == "boolean" else text


def _read_parquet(path: Path, row_count: int) -> Iterator[Chunk]:
    try:
        with pa.parquet.ParquetFile(path) as source:
            for batch in source.iter_batches(batch_size=row_count):
                rows = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
                yield Chunk(batch.schema.names, rows, batch)
    except pa.ArrowException as exc:
        raise InvalidInputError(f"{path.name} cannot be read as Parquet: {exc}", field="input_path") from exc


class _CsvWriter:
    def __init__(self, path: Path, outputs: Sequence[SignatureField]) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._has_header = False

    def write(self, chunk: Chunk, kept: Sequence[int], outputs: dict[str, list[Any]]) -> None:
        if not self._has_header:
            self._writer.writerow([*chunk.columns, *outputs])
            self._has_header = True
        predictions = zip(*outputs.values(), strict=True)
        self._writer.writerows(
            [*chunk.source[index], *map(_to_cell, prediction)]
            for index, prediction in zip(kept, predictions, strict=True)
        )

    def close(self) -> None:
        self._file.close()


def _to_cell(value: Any) -> Any:
    """A list is its JSON: what a cell that holds one is read as."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


class _ParquetWriter:
    def __init__(self, path: Path, outputs: Sequence[SignatureField]) -> None:
        self._path = path
        self._types = [_build_arrow_type(field) for field in outputs]
        self._writer: Any = None

    def write(self, chunk: Chunk, kept: Sequence[int], outputs: dict[str, list[Any]]) -> None:
        table = pa.Table.from_batches([chunk.source]).take(pa.array(kept, pa.int64()))
        for (name, values), dtype in zip(outputs.items(), self._types, strict=True):
            table = table.append_column(name, pa.array(values, dtype))
        if self._writer is None:
            self._writer = pa.parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _build_arrow_type(field: SignatureField) -> Any:
    """Lists within lists, one for each dimension of the field."""
    dtype = _ARROW_TYPES.get(field.dtype, pa.string())
    for _ in field.shape:
        dtype = pa.list_(dtype)
    return dtype
