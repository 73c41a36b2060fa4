"""The matrices of one model, as arrays in the model's own type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.angel.matrices import Keys, read_columns, read_rows

Array = NDArray[Any]
#: Sparse values that are written out in full may become so much more than they were in their files.
_MOST_GROWTH = 16
_LEAST_LIMIT = 2**24


@dataclass(frozen=True)
class Table:
    """Values by feature id.

    :param keys: the ids that have values, ascending; ``None`` when they are 0, 1, 2 ... and no other can be negative.
    :param values: shape (ids + 1, width); the last row is zeros, and stands for ids without values.
    """

    keys: Keys | None
    values: Array

    @classmethod
    def build(cls, keys: Keys, columns: Sequence[Array], value_type: np.dtype[Any], dimension: int) -> Table:
        """:param columns: of the table, each shape (ids,).
        :param dimension: ids that will be asked for are from 0 to before that, or any where it is -1.
        """
        is_dense = dimension >= 0 and len(keys) > 0 and keys[0] == 0 and keys[-1] == len(keys) - 1
        values = np.empty((len(keys) + 1, len(columns)), value_type)
        values[-1] = 0
        with np.errstate(over="ignore"):  # doubles of a model that computes in float
            for number, column in enumerate(columns):
                values[:-1, number] = column
        return cls(None if is_dense else keys.astype(np.int64), values)

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    def get(self, ids: Keys) -> Array:
        """:return: shape (len(ids), width)."""
        if self.keys is None:
            return self.values.take(ids, 0, mode="clip")
        count = len(self.keys)
        places = np.searchsorted(self.keys, ids)
        places[places == count] = 0
        found = self.keys[places] == ids if count else np.zeros(len(ids), bool)
        return self.values[np.where(found, places, count)]


class WeightReader:
    """Reads the matrices that layers ask for.

    :param value_type: ``f4`` or ``f8``, the type of the model's arithmetic.
    :param separator: between the fields of a text file's line; empty to take what stands after the first.
    """

    def __init__(self, folder: Path, value_type: str, separator: str) -> None:
        self._folder = folder
        self._type = np.dtype(value_type)
        self._separator = separator

    def read_vector(self, name: str, size: int) -> Array:
        """Row 0 of a matrix that has exactly ``size`` columns."""
        meta, ((keys, values),) = read_rows(self._find(name), 1, self._separator)
        is_within = not len(keys) or 0 <= keys[0] <= keys[-1] < size
        if not is_within or (meta.row_type.is_dense and len(keys) != size):
            raise InvalidModelError(f"{name} has {len(keys)} values in {meta.columns} columns; the graph needs {size}")
        self._check_growth(name, size, len(keys))
        vector = np.zeros(size, self._type)
        with np.errstate(over="ignore"):  # doubles of a model that computes in float
            vector[keys] = values
        return vector

    def read_table(self, name: str, rows: int, columns: int) -> Table:
        """Rows 0 to ``rows - 1`` by column id. ``columns``: how many there are, or -1."""
        meta, found = read_rows(self._find(name), rows, self._separator)
        for keys, _ in found:
            self._check_columns(name, keys, columns, meta.row_type.is_dense)
        first = found[0][0]
        if all(np.array_equal(keys, first) for keys, _ in found):
            return Table.build(first, [values for _, values in found], self._type, columns)
        union = np.unique(np.concatenate([keys for keys, _ in found]))
        self._check_growth(name, len(union) * rows, sum(len(keys) for keys, _ in found))
        return Table.build(union, [_spread(union, *records) for records in found], self._type, columns)

    def read_embedding(self, name: str, factors: int, columns: int) -> Table:
        meta, keys, values = read_columns(self._find(name), factors, self._separator)
        self._check_columns(name, keys, columns, meta.row_type.is_dense)
        return Table.build(keys, list(values.T), self._type, columns)

    def _find(self, name: str) -> Path:
        folder = self._folder / name
        if folder.is_symlink() or not folder.is_dir():
            raise InvalidModelError(f"the graph needs the matrix {name!r}; there is no such folder")
        return folder

    @staticmethod
    def _check_growth(name: str, size: int, stored: int) -> None:
        """What is written out in full is bounded by what was stored, not by what a file claims."""
        if size > max(_LEAST_LIMIT, _MOST_GROWTH * stored):
            raise InvalidModelError(f"{name} holds {stored} values; {size} are too many to fill up with zeros")

    @staticmethod
    def _check_columns(name: str, keys: Keys, columns: int, is_dense: bool) -> None:
        if columns < 0 or not len(keys):
            return
        if keys[-1] >= columns or (is_dense and len(keys) != columns):
            raise InvalidModelError(f"{name} has columns up to {keys[-1]}; indexrange says {columns}")


def _spread(union: Keys, keys: Keys, values: Array) -> Array:
    """Values of some keys among all."""
    spread = np.zeros(len(union), values.dtype)
    spread[np.searchsorted(union, keys)] = values
    return spread
