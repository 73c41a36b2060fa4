"""Whether requests of a signature may be joined: tried when the model is loaded, not assumed.

A free first dimension may be a batch, but rows of one run can see each other, and a variable can count the runs.
"""

from __future__ import annotations

import numpy as np

from airflow_provider_timl.exceptions import TimlError
from airflow_provider_timl.runtimes.tensorflow.calls import Call
from airflow_provider_timl.runtimes.tensorflow.session import ModelSession
from airflow_provider_timl.runtimes.tensors.spec import Array

_TOLERANCE = 1e-3  # in half precision, rows are not the same to the last bit in runs of other sizes


def can_join(session: ModelSession, call: Call) -> bool:
    """Whether a call's rows and others like them have the same results together as alone."""
    if call.find_group() is None:
        return False
    first, second = call.arrays, tuple(map(_vary, call.arrays))
    together = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    try:
        alone = [session.run(call.feeds, call.fetches, arrays) for arrays in (first, second)]
        joined = session.run(call.feeds, call.fetches, together)
    except TimlError:
        return False
    return all(_is_joined(*outputs) for outputs in zip(joined, *alone, strict=True))


def _vary(array: Array) -> Array:
    """Other values of the same type and shape; strings stay, for any other could be none that the model takes."""
    if array.dtype == object:
        return array
    return ~array if array.dtype == bool else np.asarray(array + array.dtype.type(1), array.dtype)


def _is_joined(joined: Array, *alone: Array) -> bool:
    if any(part.ndim == 0 for part in alone) or len({part.shape[1:] for part in alone}) != 1:
        return False
    return _is_close(joined, np.concatenate(alone))


def _is_close(one: Array, two: Array) -> bool:
    if one.shape != two.shape:
        return False
    if one.dtype == object:
        return bool((one == two).all())
    kind = np.complex128 if one.dtype.kind == "c" else np.float64
    return np.allclose(one.astype(kind), two.astype(kind), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
