"""Instances as arrays: what requests become, and what layers take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Instances, one after the other.

    :param starts: shape (instances + 1,): where the features of each begin, and where the last one's end.
    :param ids: feature ids, ascending within an instance, none twice; ``int64``.
    :param values: of the features, in the model's type.
    """

    starts: NDArray[np.int64]
    ids: NDArray[np.int64]
    values: Array

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Features of each instance."""
        return np.diff(self.starts)

    @cached_property
    def instance_numbers(self) -> NDArray[np.int64]:
        """The instance that each feature belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    def to_dense(self, dimension: int) -> Array:
        """:return: shape (instances, dimension)."""
        if len(self.ids) == len(self) * dimension:  # no id is twice in an instance, so all are there
            return self.values.reshape(len(self), dimension)
        dense = np.zeros((len(self), dimension), self.values.dtype)
        dense[self.instance_numbers, self.ids] = self.values
        return dense

    def slice(self, first: int, end: int) -> Batch:
        """Instances ``first`` to ``end - 1``."""
        if first == 0 and end == len(self):
            return self
        low, high = self.starts[first], self.starts[end]
        return Batch(self.starts[first : end + 1] - low, self.ids[low:high], self.values[low:high])


def join_batches(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    counts = np.concatenate([batch.counts for batch in batches])
    return Batch(
        starts=np.concatenate([[0], np.cumsum(counts)]),
        ids=np.concatenate([batch.ids for batch in batches]),
        values=np.concatenate([batch.values for batch in batches]),
    )
