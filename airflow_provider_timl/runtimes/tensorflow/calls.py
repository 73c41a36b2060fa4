"""What requests of every kind become: one run of the graph, and how its results are told.

``run_calls`` joins calls that may share a run. Rows of a joined run do not see each other unless the model makes them:
``max_batch_rows`` of 1 is for those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from airflow_provider_timl.exceptions import TimlError
from airflow_provider_timl.runtimes.tensorflow.session import ModelSession
from airflow_provider_timl.runtimes.tensors.spec import Array

#: Waits for calls that have begun, and answers them, same order.
Finish = Callable[[], list[bytes | TimlError]]


@dataclass(frozen=True, eq=False)
class Call:
    """One run.

    :param feeds: names of tensors, each with its array of ``arrays``.
    :param fetches: names of tensors; without any, nothing is run.
    :param row_count: what batches and metrics are counted in.
    :param is_joinable: the graph's signature says that dimension 0 of all feeds and fetches is free.
    :param answer: makes the response of the values fetched; may raise ``TimlError``.
    """

    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    arrays: tuple[Array, ...]
    row_count: int
    is_joinable: bool
    answer: Callable[[Sequence[Array]], bytes]

    def find_group(self) -> Hashable | None:
        """Equal for calls that may be joined; ``None`` for one that may not."""
        if not self.is_joinable or any(len(array) != self.row_count for array in self.arrays if array.ndim):
            return None
        if not all(array.ndim for array in self.arrays) or not self.row_count:
            return None
        return self.feeds, self.fetches, tuple((array.dtype, array.shape[1:]) for array in self.arrays)


def run_calls(
    session: ModelSession, calls: Sequence[Call], most_rows: int, sizes: Sequence[int]
) -> list[bytes | TimlError]:
    """Answer each call, same order.

    :param most_rows: of a joined run.
    :param sizes: row counts that runs are padded up to, ascending; empty for none.
    """
    results: list[bytes | TimlError] = [TimlError("not run")] * len(calls)
    groups = _group(calls, most_rows)
    started = [_start_group(session, [calls[number] for number in numbers], sizes) for numbers in groups]
    for numbers, finish in zip(groups, started, strict=True):
        for number, result in zip(numbers, finish(), strict=True):
            results[number] = result
    return results


def run_call(session: ModelSession, call: Call) -> bytes | TimlError:
    """One call by itself."""
    return _start_call(session, call)()


def _start_call(session: ModelSession, call: Call) -> Callable[[], bytes | TimlError]:
    wait = session.start(call.feeds, call.fetches, call.arrays) if call.fetches else list

    def finish() -> bytes | TimlError:
        try:
            return call.answer(wait())
        except TimlError as exc:
            return exc

    return finish


def _group(calls: Sequence[Call], most_rows: int) -> list[list[int]]:
    """Numbers of the calls of each run, in the order of the first of each."""
    if len(calls) == 1:
        return [[0]]
    groups: list[list[int]] = []
    open_groups: dict[Hashable, tuple[list[int], int]] = {}
    for number, call in enumerate(calls):
        key = call.find_group()
        members, row_count = open_groups.get(key, ([], 0)) if key is not None else ([], 0)
        if row_count + call.row_count > most_rows:
            members, row_count = [], 0
        if not members:
            groups.append(members)
        members.append(number)
        if key is not None:
            open_groups[key] = members, row_count + call.row_count
    return groups


def _start_group(session: ModelSession, calls: Sequence[Call], sizes: Sequence[int]) -> Finish:
    """One run for all, unless they cannot be joined."""
    if (len(calls) > 1 or sizes) and all(call.find_group() is not None for call in calls):
        return _start_joined(session, calls, sizes)
    started = [_start_call(session, call) for call in calls]
    return lambda: [finish() for finish in started]


def _start_joined(session: ModelSession, calls: Sequence[Call], sizes: Sequence[int]) -> Finish:
    """When the run fails, or an output is not one value for each row, each call is run by itself, so that a bad request
    hurts no other."""
    ends = list(accumulate(call.row_count for call in calls))
    run_rows = choose_size(ends[-1], sizes)
    feeds = [_join(arrays, run_rows) for arrays in zip(*(call.arrays for call in calls), strict=True)]
    wait = session.start(calls[0].feeds, calls[0].fetches, feeds)

    def finish() -> list[bytes | TimlError]:
        try:
            outputs = wait()
        except TimlError:
            return [run_call(session, call) for call in calls]
        if any(output.ndim == 0 or len(output) != run_rows for output in outputs):
            return [run_call(session, call) for call in calls]
        parts = [[output[first:end] for output in outputs] for first, end in pairwise([0, *ends])]
        return [_answer(call, part) for call, part in zip(calls, parts, strict=True)]

    return finish


def _answer(call: Call, outputs: Sequence[Array]) -> bytes | TimlError:
    try:
        return call.answer(outputs)
    except TimlError as exc:
        return exc


def choose_size(row_count: int, sizes: Sequence[int]) -> int:
    """The smallest allowed size that holds the rows, or their own number when none does."""
    place = bisect_left(sizes, row_count)
    return sizes[place] if place < len(sizes) else row_count


def _join(arrays: Sequence[Array], row_count: int) -> Array:
    """One array of so many rows: those of all, then copies of the first."""
    parts = list(arrays)
    missing = row_count - sum(map(len, parts))
    if missing:
        parts.append(np.repeat(parts[0][:1], missing, axis=0))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
