"""Instances as arrays: what requests become, and what layers take.

Most requests hold one instance, and there the time goes into the calls of array functions rather than into numbers:
what not every model needs is made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(eq=False)
class Batch:
    """Instances, one after the other.

    :param counts: features of each.
    :param ids: feature ids, ascending within an instance, none twice; ``int64``.
    :param values: of the features, in the model's type.
    """

    counts: list[int]
    ids: NDArray[np.int64]
    values: Array

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Shape (instances + 1,): where the features of each begin, and where the last one's end."""
        starts = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=starts[1:])
        return starts

    @property
    def instance_numbers(self) -> NDArray[np.intp]:
        """The instance that each feature belongs to."""
        if len(self.counts) == 1:
            return np.zeros(len(self.ids), np.intp)
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def to_dense(self, dimension: int) -> Array:
        """:return: shape (instances, dimension)."""
        if len(self.ids) == len(self) * dimension:  # no id is twice in an instance, so all are there
            return self.values.reshape(-1, dimension)
        dense = np.zeros((len(self), dimension), self.values.dtype)
        dense[self.instance_numbers, self.ids] = self.values
        return dense

    def slice(self, first: int, end: int) -> Batch:
        """Instances ``first`` to ``end - 1``."""
        low, high = self.starts[first], self.starts[end]
        return Batch(self.counts[first:end], self.ids[low:high], self.values[low:high])


def join_batches(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return Batch(
        counts=list(chain.from_iterable([batch.counts for batch in batches])),
        ids=np.concatenate([batch.ids for batch in batches]),
        values=np.concatenate([batch.values for batch in batches]),
    )
