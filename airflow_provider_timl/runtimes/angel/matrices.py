"""The partition files of a matrix: eight formats, decoded by NumPy and Arrow, each in one pass.

A row is its column ids, ascending, and their values. The rows beyond those that are asked for, which hold an
optimizer's state, are not read. Binary files are big-endian without padding; text is read by its lines, since the
lengths in ``meta`` are those before a conversion of line ends.

:source: Angel, ``com.tencent.angel.model.output.format``.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.angel.meta import MatrixMeta, PartitionMeta, read_meta
from airflow_provider_timl.runtimes.angel.strict_json import open_regular

_NEWLINE = 10
_PIECE_BYTES = 16 * 1024 * 1024
#: No line is longer.
_BLOCK_BYTES = 4 * 1024 * 1024
_MOST_GAPS = 4
_MOST_VALUES_A_COLUMN = 65_536
#: A line of more than one field begins with a whole number, so what follows that is the separator.
_FIRST_FIELD = re.compile(rb"[+-]?[0-9]{1,20}([\t -,/:-@\\^_`|~])")
Bytes = NDArray[np.uint8]
Keys = NDArray[Any]
Values = NDArray[Any]
#: Column ids, as wide as they are stored, and their values: shape (records,), or (records, width) by column.
Records = tuple[Keys, Values]


@dataclass(frozen=True)
class Format:
    """:param fields: of a record, in order: ``row``, ``column``, ``value``."""

    is_text: bool
    is_by_column: bool
    fields: tuple[str, ...]


FORMATS = {
    "ColIdValueTextRowFormat": Format(True, False, ("column", "value")),
    "RowIdColIdValueTextRowFormat": Format(True, False, ("row", "column", "value")),
    "ValueTextRowFormat": Format(True, False, ("value",)),
    "ColIdValueBinaryRowFormat": Format(False, False, ("column", "value")),
    "RowIdColIdValueBinaryRowFormat": Format(False, False, ("row", "column", "value")),
    "ValueBinaryRowFormat": Format(False, False, ("value",)),
    "TextColumnFormat": Format(True, True, ("column", "value")),
    "BinaryColumnFormat": Format(False, True, ("column", "value")),
}


def read_rows(folder: Path, count: int, separator: str) -> tuple[MatrixMeta, list[Records]]:
    """Rows 0 to ``count - 1`` of a matrix that is stored by row.

    :raises InvalidModelError: with the file and the reason.
    """
    meta = read_meta(folder)
    _check_format(meta, is_by_column=False)
    stored = {row for partition in meta.partitions for row in partition.element_counts}
    absent = next((row for row in range(count) if row not in stored), None)
    if absent is not None:
        raise InvalidModelError(f"{folder.name} has no row {absent}; the graph needs {count}")
    records = _PartitionReader(folder, meta, count, separator).read()
    return meta, [_sort(meta, row, *records.pop(row)) for row in range(count)]


def read_columns(folder: Path, width: int, separator: str) -> tuple[MatrixMeta, Keys, Values]:
    """Column ids, ascending, and the first ``width`` values of each: shape (columns, width).

    :raises InvalidModelError: with the file and the reason.
    """
    meta = read_meta(folder)
    _check_format(meta, is_by_column=True)
    records = _PartitionReader(folder, meta, width, separator).read()
    return meta, *_sort(meta, None, *records[0])


def _check_format(meta: MatrixMeta, *, is_by_column: bool) -> None:
    found = FORMATS.get(meta.format_name)
    if found is None or found.is_by_column is not is_by_column:
        usable = ", ".join(name for name, known in FORMATS.items() if known.is_by_column is is_by_column)
        raise InvalidModelError(f"{meta.name}/meta: format {meta.format_name[:80]!r} is not read here; {usable} are")


def _sort(meta: MatrixMeta, row: int | None, keys: Keys, values: Values) -> Records:
    """By column id. No id twice; a dense row has every column."""
    where = meta.name if row is None else f"{meta.name}, row {row}"
    if not np.all(keys[1:] > keys[:-1]):
        keys, values = _order(keys, values)
        if np.any(keys[1:] == keys[:-1]):
            raise InvalidModelError(f"{where} has a column twice")
    if meta.row_type.is_dense:
        is_whole = len(keys) > 0 and keys[0] == 0 and keys[-1] == len(keys) - 1
        if not is_whole or len(keys) != meta.columns:
            raise InvalidModelError(f"{where} is dense and has {len(keys)} of its {meta.columns} columns")
    return keys, values


def _order(keys: Keys, values: Values) -> Records:
    """By key. Keys that leave few gaps, as those of hash tables do, are put in their places, which sorting is slow for.

    :return: with a key that is there twice still twice.
    """
    first = int(keys.min())
    span = int(keys.max()) - first + 1
    if span <= _MOST_GAPS * len(keys):
        places = keys - keys.dtype.type(first) if first else keys
        is_there = np.zeros(span, bool)
        is_there[places] = True
        if np.count_nonzero(is_there) == len(keys):
            spread = np.empty((span, *values.shape[1:]), values.dtype)
            spread[places] = values
            if span == len(keys):
                return np.arange(first, first + span, dtype=keys.dtype), spread
            return (np.flatnonzero(is_there) + first).astype(keys.dtype), spread[is_there]
    order = np.argsort(keys, kind="stable")
    return keys[order], values[order]


class _PartitionReader:
    """:param count: rows, or values a column, that are wanted of each partition.
    :param separator: between the fields of a line; empty to take what stands after the first.
    """

    def __init__(self, folder: Path, meta: MatrixMeta, count: int, separator: str) -> None:
        self._folder = folder
        self._meta = meta
        self._format = FORMATS[meta.format_name]
        self._count = count
        self._separator = separator
        self._types = {
            "row": np.dtype("i4"),
            "column": np.dtype("i8" if meta.row_type.has_long_keys else "i4"),
            "value": np.dtype(meta.row_type.value_type),
        }
        self._width = self._get_width() if self._format.is_by_column else 1

    def read(self) -> dict[int, Records]:
        """The records of each wanted row, in no order of columns; by column, all are row 0's."""
        by_row: dict[int, list[Records]] = {}
        for row, records in self._read_partitions():
            by_row.setdefault(row, []).append(records)
        return {
            row: _join(by_row.pop(row, [])) or self._decode_nothing()
            for row in ([0] if self._format.is_by_column else range(self._count))
        }

    def _read_partitions(self) -> Iterator[tuple[int, Records]]:
        by_file: dict[str, list[PartitionMeta]] = {}
        for partition in self._meta.partitions:
            by_file.setdefault(partition.file_name, []).append(partition)
        for name, partitions in by_file.items():
            with open_regular(self._folder / name, f"{self._meta.name}/{name}") as file:
                size = os.fstat(file.fileno()).st_size
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            for partition, end in _find_ends(partitions, size):
                if self._format.is_text and partition.offset and content[partition.offset - 1] != _NEWLINE:
                    raise InvalidModelError(f"{partition.where} begins at {partition.offset}, within a line")
                yield from self._read_partition(partition, np.frombuffer(content, np.uint8)[partition.offset : end])

    def _read_partition(self, partition: PartitionMeta, data: Bytes) -> Iterator[tuple[int, Records]]:
        """:param data: from its offset to the next partition in the file, which this one cannot reach into."""
        counts = self._count_records(partition)
        columns = [*self._format.fields[:-1], *["value"] * self._width]
        decode = self._decode_text if self._format.is_text else self._decode_binary
        fields = decode(data, sum(counts.values()), columns, partition.where)
        rows = fields[0] if "row" in columns else None
        keys = fields[columns.index("column")] if "column" in columns else _number_columns(partition, counts)
        values = np.stack(fields[1 : 1 + self._count], axis=1) if self._format.is_by_column else fields[-1]
        self._check_keys(keys, partition)
        first = 0
        for row, count in counts.items():
            place = slice(first, first + count)
            if rows is not None and np.any(rows[place] != row):
                raise InvalidModelError(f"{partition.where}: a record is of another row than the meta says")
            yield row, (keys[place], values[place])
            first += count

    def _decode_nothing(self) -> Records:
        shape = (0, self._count) if self._format.is_by_column else (0,)
        return np.empty(0, self._types["column"]), np.empty(shape, self._types["value"])

    def _count_records(self, partition: PartitionMeta) -> dict[int, int]:
        """Records of each wanted row; by column, all are row 0's."""
        if self._format.is_by_column:
            return {0: partition.column_count}
        wanted = {row: number for row, number in partition.element_counts.items() if row < self._count}
        width = partition.end_column - partition.first_column
        is_dense = self._meta.row_type.is_dense and not partition.is_hashed
        if is_dense and any(number != width for number in wanted.values()):
            raise InvalidModelError(f"{partition.where}: a dense row has other than {width} elements")
        return wanted

    def _get_width(self) -> int:
        """Values that are stored of each column, the same in all partitions."""
        meta = self._meta
        width, *others = {partition.values_a_column for partition in meta.partitions if partition.is_filled} or {0}
        if others or width > min(meta.rows, _MOST_VALUES_A_COLUMN):
            raise InvalidModelError(
                f"{meta.name}/meta: columns have {[width, *others][:5]} values, of {meta.rows} rows"
            )
        if width < self._count and any(partition.is_filled for partition in meta.partitions):
            raise InvalidModelError(f"{meta.name}/meta: a column has {width} values; the graph needs {self._count}")
        return width

    def _check_keys(self, keys: Keys, partition: PartitionMeta) -> None:
        if not len(keys):
            return
        first, last = int(keys.min()), int(keys.max())
        low, high = (first, last + 1) if partition.is_hashed else (partition.first_column, partition.end_column)
        if not low <= first <= last < high:
            raise InvalidModelError(f"{partition.where}: columns {first} to {last} are not within {low} and {high}")
        if (first < 0 and not self._meta.row_type.has_long_keys) or (0 < self._meta.columns <= last):
            raise InvalidModelError(f"{partition.where}: columns {first} to {last} are not of {self._meta.columns}")

    def _decode_binary(self, data: Bytes, count: int, columns: list[str], where: str) -> list[Any]:
        names = [f"{name}{number}" for number, name in enumerate(columns)]
        types = [self._types[name].newbyteorder(">") for name in columns]
        record = np.dtype(list(zip(names, types, strict=True)))
        if count * record.itemsize > len(data):
            raise InvalidModelError(f"{where}: {len(data)} bytes cannot hold {count} records of {record.itemsize}")
        records = data[: count * record.itemsize].view(record)
        return [records[name].astype(records[name].dtype.newbyteorder("=")) for name in names]

    def _decode_text(self, data: Bytes, count: int, columns: list[str], where: str) -> list[Any]:
        if count * 2 * len(columns) > len(data) + 1:  # a digit and a separator each, but for the last line's end
            raise InvalidModelError(f"{where}: {len(data)} bytes cannot hold {count} lines of {len(columns)} fields")
        fields = [np.empty(count, self._types[name]) for name in columns]
        if count == 0:
            return fields
        separator = self._separator or _guess_separator(data, where) if len(columns) > 1 else ","
        first = start = 0
        while first < count:  # by pieces, so that their fields are still near when they are put in their places
            lines, ends = _take_lines(data[start : start + _PIECE_BYTES], count - first)
            if not len(lines):
                is_over = start == len(data)
                found = f"{first} lines; the meta says {count}" if is_over else f"a line of over {_BLOCK_BYTES} bytes"
                raise InvalidModelError(f"{where} has {found}")
            try:
                table = self._parse(lines, columns, separator)
            except pa.ArrowInvalid as exc:
                raise InvalidModelError(f"{where}, after line {first}: {str(exc)[:200]}") from exc
            if table.num_rows != ends:  # Arrow ends a line at a lone carriage return, too
                raise InvalidModelError(f"{where}, after line {first}: {table.num_rows} lines in place of {ends}")
            for field, column in zip(fields, table.columns, strict=True):
                np.concatenate(column.chunks, out=field[first : first + ends])
            first += ends
            start += len(lines)
        return fields

    def _parse(self, lines: Bytes, columns: list[str], separator: str) -> pa.Table:
        """:raises pyarrow.ArrowInvalid: a line has other fields."""
        types = {f"{name}{number}": pa.from_numpy_dtype(self._types[name]) for number, name in enumerate(columns)}
        return csv.read_csv(
            pa.BufferReader(pa.py_buffer(lines)),
            csv.ReadOptions(column_names=[*types], block_size=_BLOCK_BYTES),
            csv.ParseOptions(delimiter=separator, quote_char=False, escape_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=types, null_values=[]),
        )


def _join(records: list[Records]) -> Records | None:
    if len(records) < 2:
        return records[0] if records else None
    keys, values = zip(*records, strict=True)
    return np.concatenate(keys), np.concatenate(values)


def _find_ends(partitions: list[PartitionMeta], size: int) -> Iterator[tuple[PartitionMeta, int]]:
    """Each partition of a file that holds records, with where the next one begins: ``length`` is not to be trusted."""
    filled = sorted((partition for partition in partitions if partition.is_filled), key=lambda each: each.offset)
    ends = [*(partition.offset for partition in filled), size][1:]
    for partition, end in zip(filled, ends, strict=True):
        if partition.offset >= end:
            raise InvalidModelError(f"{partition.where} begins at {partition.offset}, and what follows at {end}")
        yield partition, end


def _number_columns(partition: PartitionMeta, counts: Mapping[int, int]) -> Keys:
    """Column ids where the format stores none: the values stand in the order of the columns."""
    if not counts:
        return np.empty(0, np.int64)
    return np.concatenate([partition.first_column + np.arange(number, dtype=np.int64) for number in counts.values()])


def _guess_separator(data: Bytes, where: str) -> str:
    match = _FIRST_FIELD.match(data[:64].tobytes())
    if match is None:
        raise InvalidModelError(f"{where}: its first line does not begin with a whole number and a separator")
    return match[1].decode()


def _take_lines(piece: Bytes, most: int) -> tuple[Bytes, int]:
    """The whole lines at the beginning of a piece, ``most`` of them at most, and how many they are. Only the last of a
    file may lack its end."""
    if len(piece) == _PIECE_BYTES:
        tail = piece[-_BLOCK_BYTES:].tobytes()
        last = tail.rfind(b"\n")
        piece = piece[: len(piece) - len(tail) + last + 1] if last >= 0 else piece[:0]
    is_end = piece == _NEWLINE
    ends = int(np.count_nonzero(is_end))
    if ends >= most:
        return piece[: np.flatnonzero(is_end)[most - 1] + 1], most
    return piece, ends + (len(piece) > 0 and not is_end[-1])
