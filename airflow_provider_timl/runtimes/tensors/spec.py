"""What a model takes and gives, as arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    :param dtype: of NumPy; ``object`` for strings, whose elements are ``bytes``; ``ml_dtypes.bfloat16`` for bfloat16.
    :param shape: with the batch's dimension; ``None`` in it is any size, ``None`` in its place any rank.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class TensorSignature:
    """One way to call a model, as TensorFlow's ``SignatureDef``."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
