"""Waiting for something to become true, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE_SECONDS = 0.02


def wait_until(check: Callable[[], T | None], *, timeout_seconds: float) -> T:
    """Call ``check`` until it returns something true, and return that.

    :raises AssertionError: it was false until the time was over.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (result := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {result!r} after {timeout_seconds} s: {check}")
        time.sleep(_PAUSE_SECONDS)
    return result
