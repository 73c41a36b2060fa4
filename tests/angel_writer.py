"""Writes matrices as Angel's writers do, in each of the eight formats: what the reader is tried with."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "com.tencent.angel.model.output.format."
ROW_FORMATS = (
    "ColIdValueTextRowFormat",
    "RowIdColIdValueTextRowFormat",
    "ValueTextRowFormat",
    "ColIdValueBinaryRowFormat",
    "RowIdColIdValueBinaryRowFormat",
    "ValueBinaryRowFormat",
)
COLUMN_FORMATS = ("TextColumnFormat", "BinaryColumnFormat")
DOUBLE_DENSE, DOUBLE_SPARSE, DOUBLE_SPARSE_LONGKEY, FLOAT_DENSE, FLOAT_SPARSE, FLOAT_SPARSE_LONGKEY = 0, 3, 5, 7, 10, 12

Row = Mapping[int, float]


@dataclass(frozen=True)
class Layout:
    """How a matrix is cut up and written. ``bounds``: the columns at which a partition begins, and where the last ends;
    ``None`` cuts by hash into three."""

    format_name: str
    row_type: int
    bounds: tuple[int, ...] | None
    partitions_a_file: int = 1
    line_end: str = "\n"
    separator: str = ","

    @property
    def is_double(self) -> bool:
        return self.row_type < 7

    @property
    def is_by_column(self) -> bool:
        return self.format_name in COLUMN_FORMATS

    @property
    def has_long_keys(self) -> bool:
        return self.row_type % 7 in {2, 5, 6}


def write_matrix(folder: Path, rows: Sequence[Row], columns: int, layout: Layout, *, saved: int | None = None) -> None:
    """:param rows: values by column id; of those, ``saved`` are written (a checkpoint keeps more)."""
    folder.mkdir(parents=True)
    rows_saved = rows if saved is None else rows[:saved]
    partitions: dict[str, Any] = {}
    contents: dict[str, bytes] = {}
    for number, (first, end, part) in enumerate(_cut(rows_saved, layout)):
        name = str(number // layout.partitions_a_file * layout.partitions_a_file)
        before = contents.get(name, b"")
        encoded = _encode_columns(part, layout) if layout.is_by_column else _encode_rows(part, layout)
        contents[name] = before + encoded
        partitions[str(number)] = {
            "partId": number,
            "startRow": 0,
            "endRow": len(rows),
            "startCol": first,
            "endCol": end,
            "nnz": sum(map(len, part)),
            "saveRowNum": 0 if layout.is_by_column else len(part),
            "saveColNum": len(part[0]) if layout.is_by_column else 0,
            "saveColElemNum": len(part) if layout.is_by_column else 0,
            "fileName": name,
            "offset": len(before),
            "length": len(encoded),
            "rowMetas": {
                str(row): {"rowId": row, "offset": -1, "elementNum": len(values), "saveType": 0}
                for row, values in enumerate(part)
            },
        }
    meta = {
        "matrixId": 1,
        "matrixName": folder.name,
        "formatClassName": PACKAGE + layout.format_name,
        "rowType": layout.row_type,
        "row": len(rows),
        "col": columns,
        "blockRow": 1,
        "blockCol": -1,
        "options": {},
        "partMetas": partitions,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    write_meta(folder, meta)


def write_meta(folder: Path, meta: Any) -> None:
    content = json.dumps(meta).encode()
    (folder / "meta").write_bytes(struct.pack(">i", len(content)) + content)


def read_meta(folder: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((folder / "meta").read_bytes()[4:])
    return meta


def write_model(
    folder: Path, graph: Mapping[str, Any], matrices: Mapping[str, tuple[Sequence[Row], int, Layout]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.json").write_text(json.dumps(graph))
    for name, (rows, columns, layout) in matrices.items():
        write_matrix(folder / name, rows, columns, layout)


def to_row(values: Any) -> dict[int, float]:
    """A dense row."""
    return {column: float(value) for column, value in enumerate(np.asarray(values).ravel())}


def _cut(rows: Sequence[Row], layout: Layout) -> list[tuple[int, int, list[Row]]]:
    if layout.bounds is None:
        parts = [[{key: row[key] for key in row if key % 3 == rest} for row in rows] for rest in range(3)]
        return [(0, 0, list(part)) for part in parts]
    pairs = list(zip(layout.bounds, layout.bounds[1:], strict=False))
    return [
        (first, end, [{key: row[key] for key in row if first <= key < end} for row in rows]) for first, end in pairs
    ]


def _encode_rows(rows: Sequence[Row], layout: Layout) -> bytes:
    """By row; the columns of a sparse row in no order, those of others ascending."""
    is_dense = layout.row_type % 7 in {0, 1, 2}
    records = []
    for row, values in enumerate(rows):
        keys = sorted(values) if is_dense or layout.format_name.startswith("Value") else sorted(values, reverse=True)
        for key in keys:
            fields = [("row", row)] if layout.format_name.startswith("RowId") else []
            fields += [] if layout.format_name.startswith("Value") else [("column", key)]
            records.append([*fields, ("value", values[key])])
    return _encode(records, layout)


def _encode_columns(rows: Sequence[Row], layout: Layout) -> bytes:
    keys = sorted(rows[0], reverse=True)
    return _encode([[("column", key), *(("value", row[key]) for row in rows)] for key in keys], layout)


def _encode(records: Sequence[Sequence[tuple[str, float]]], layout: Layout) -> bytes:
    if "Text" in layout.format_name:
        lines = [layout.separator.join(_write(name, value, layout) for name, value in record) for record in records]
        return "".join(line + layout.line_end for line in lines).encode()
    codes = {"row": ">i", "column": ">q" if layout.has_long_keys else ">i", "value": ">d" if layout.is_double else ">f"}
    return b"".join(struct.pack(codes[name], value) for record in records for name, value in record)


def _write(name: str, value: float, layout: Layout) -> str:
    if name != "value":
        return str(value)
    number = value if layout.is_double else np.float32(value)
    if np.isnan(number) or np.isinf(number):
        return "NaN" if np.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return (
        np.format_float_scientific(number, trim="0")
        .replace("e-0", "E-")
        .replace("e-", "E-")
        .replace("e+0", "E")
        .replace("e+", "E")
    )
