"""What Angel Serving answers at ``/monitoring/prometheus/metrics``: JSON, whatever the path says.

Counted here since the server started, for each name and version that was asked for; a request without a version counts
as version 0. As protobuf writes JSON, 64-bit counts are strings and zeros are left out.

:source: Angel Serving 0.1.0, ``PredictionMetricSummary``. Its numbers are up to 30 s old; these are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

_BUCKETS_MS = (5, 10, 15)
_NOTHING = b"{\n}"


@dataclass
class _Counts:
    """Of successes: ``by_time`` up to 5, 10, 15 ms and above; ``total_ms`` in whole milliseconds each."""

    failed: int = 0
    total_ms: int = 0
    by_time: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_MS) + 1))

    def add(self, milliseconds: int) -> None:
        self.total_ms += milliseconds
        self.by_time[sum(milliseconds > end for end in _BUCKETS_MS)] += 1


class AngelMonitor:
    """Lives on the event loop, as who counts does."""

    path = "/monitoring/prometheus/metrics"

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str | None], _Counts] = {}

    def count(self, name: str, version: str | None, *, is_success: bool, seconds: float) -> None:
        counts = self._counts.setdefault((name, version), _Counts())
        if is_success:
            counts.add(int(seconds * 1000))
        else:
            counts.failed += 1

    def render(self) -> bytes:
        models: dict[str, Any] = {}
        for (name, version), counts in self._counts.items():
            versions = models.setdefault(name, {"versions": {}})["versions"]
            versions[version or "0"] = _describe(name, version, counts)
        return orjson.dumps({"models": models}) if models else _NOTHING


def _describe(name: str, version: str | None, counts: _Counts) -> dict[str, Any]:
    succeeded = sum(counts.by_time)
    described = {
        "model_name": name,
        "model_version": int(version or 0),
        "prediction_count_total": succeeded + counts.failed,
        "prediction_count_success": succeeded,
        "prediction_count_failed": counts.failed,
        "total_predict_time_ms": float(counts.total_ms),
        **{f"count_distribution{number}": count for number, count in enumerate(counts.by_time)},
    }
    return {key: _spell(key, value) for key, value in described.items() if value}


def _spell(key: str, value: Any) -> Any:
    return str(value) if "count" in key else value
