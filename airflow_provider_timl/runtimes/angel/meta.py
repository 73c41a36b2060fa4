"""The ``meta`` file of a matrix: what it says of the partitions beside it. Claims, checked where the bytes are read.

:source: Angel, ``MatrixFilesMeta``, ``MatrixPartitionMeta``, ``RowPartitionMeta``, ``RowType``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.angel.strict_json import (
    get_int,
    get_long,
    get_object,
    get_plain_name,
    get_text,
    parse_object,
    read_bytes,
)

_MOST_PARTITIONS = 1_000_000
_KINDS = 7
_DOUBLE, _FLOAT = 0, 1
_DENSE_KINDS = frozenset({0, 1, 2})
_LONG_KEY_KINDS = frozenset({2, 5, 6})
_LAST_NUMERIC_ROW_TYPE = 27


@dataclass(frozen=True)
class RowType:
    """How the rows of a matrix, or a model, hold their numbers.

    :param value_type: ``f4`` or ``f8``.
    """

    value_type: str
    is_dense: bool
    has_long_keys: bool


@dataclass(frozen=True)
class PartitionMeta:
    """One partition. ``element_counts``: stored elements of each row by row id, ascending; columns end exclusively, and
    both ends are 0 when columns were partitioned by hash."""

    where: str
    file_name: str
    offset: int
    first_column: int
    end_column: int
    element_counts: dict[int, int]
    column_count: int
    values_a_column: int

    @property
    def is_hashed(self) -> bool:
        return self.first_column == self.end_column == 0

    @property
    def is_filled(self) -> bool:
        """Whether it has any bytes; where several are empty, all of them may begin at one offset."""
        return self.column_count > 0 or any(self.element_counts.values())


@dataclass(frozen=True)
class MatrixMeta:
    """``format_name`` is the last part of the Java class's name; ``columns`` is -1 where the writer did not know."""

    name: str
    format_name: str
    row_type: RowType
    rows: int
    columns: int
    partitions: tuple[PartitionMeta, ...]


def get_row_type(number: int, where: str) -> RowType:
    """:param number: ``7 * base + kind``, as Angel counts them.

    :raises InvalidModelError: rows of whole numbers or objects, which hold no weights; or no row type at all.
    """
    base, kind = divmod(number, _KINDS)
    if base not in {_DOUBLE, _FLOAT} or not 0 <= number <= _LAST_NUMERIC_ROW_TYPE:
        raise InvalidModelError(f"{where}: row type {number} holds no float or double values; weights need those")
    return RowType("f8" if base == _DOUBLE else "f4", kind in _DENSE_KINDS, kind in _LONG_KEY_KINDS)


def read_meta(folder: Path) -> MatrixMeta:
    """:raises InvalidModelError: with the file and the field."""
    where = f"{folder.name}/meta"
    content = read_bytes(folder / "meta", where)
    length = int.from_bytes(content[:4], "big", signed=True)
    if len(content) < 4 or not 2 <= length <= len(content) - 4:
        raise InvalidModelError(f"{where} is cut off: it has {len(content)} bytes and announces {length}")
    meta = parse_object(content[4 : 4 + length], where)
    partitions = get_object(meta, "partMetas", where)
    if not 0 < len(partitions) <= _MOST_PARTITIONS:
        raise InvalidModelError(f"{where} has {len(partitions)} partitions; from 1 to {_MOST_PARTITIONS} are read")
    rows = get_int(meta, "row", where, least=1)
    return MatrixMeta(
        name=folder.name,
        format_name=get_text(meta, "formatClassName", where).rpartition(".")[2],
        row_type=get_row_type(get_int(meta, "rowType", where), where),
        rows=rows,
        columns=get_long(meta, "col", where),
        partitions=tuple(_read_partitions(partitions, rows, where)),
    )


def _read_partitions(partitions: dict[str, Any], rows: int, where: str) -> Iterator[PartitionMeta]:
    for number, content in partitions.items():
        place = f"{where}, partition {number[:20]}"
        if not isinstance(content, dict):
            raise InvalidModelError(f"{place} is not an object")
        first, end = get_long(content, "startCol", place), get_long(content, "endCol", place)
        if first > end:
            raise InvalidModelError(f"{place}: startCol {first} is beyond endCol {end}")
        yield PartitionMeta(
            where=place,
            file_name=get_plain_name(content.get("fileName"), f"{place}: fileName"),
            offset=get_long(content, "offset", place, least=0),
            first_column=first,
            end_column=end,
            element_counts=_read_element_counts(get_object(content, "rowMetas", place), rows, place),
            column_count=get_int(content, "saveColNum", place),
            values_a_column=get_int(content, "saveColElemNum", place),
        )


def _read_element_counts(row_metas: dict[str, Any], rows: int, where: str) -> dict[int, int]:
    counts = {}
    for content in row_metas.values():
        if not isinstance(content, dict):
            raise InvalidModelError(f"{where}: a row is not an object")
        row = get_int(content, "rowId", where, below=rows)
        if row in counts:
            raise InvalidModelError(f"{where} has row {row} twice")
        counts[row] = get_long(content, "elementNum", where, least=0)
    return dict(sorted(counts.items()))
