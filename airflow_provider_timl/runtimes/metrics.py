"""What a model server counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class ServerMetrics:
    """:param get_depth: requests waiting or running, asked when the metrics are read."""

    def __init__(self, get_depth: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "timl_requests", "Prediction requests by status code.", ["code"], registry=self._registry
        )
        self._rows = Counter("timl_rows", "Rows in prediction requests that were answered.", registry=self._registry)
        self._seconds = Histogram(
            "timl_request_seconds",
            "From the whole request read to its answer written.",
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        Gauge("timl_requests_in_flight", "Requests waiting or running.", registry=self._registry).set_function(
            get_depth
        )
        self._by_code: dict[int, Counter] = {}

    def count(self, code: int, rows: int, seconds: float) -> None:
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._requests.labels(str(code))
        counter.inc()
        if rows:
            self._rows.inc(rows)
        self._seconds.observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self._registry)
