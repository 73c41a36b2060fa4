"""How fast an engine of ours is without HTTP: a program that is given a runtime, a model, and a request of 1,000 rows.

Prints rows a second of ``parse`` and ``run`` in turn, of ``run`` alone, and of the bare call underneath: the library's
own function on values that are ready.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.runtimes.contract import find_model_root, get_runtime
from airflow_provider_timl.runtimes.server import prepare_process
from benchmarks.serving.commands import CPU

_SAMPLES = 9
#: Of each call: a JVM that has just started is many times slower.
_WARM_UP_SECONDS = 1.5


def main() -> None:
    runtime, folder, body_path, seconds = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    prepare_process()
    program = get_runtime(runtime)
    engine = program.load(find_model_root(folder), Resources(cpu=CPU, memory_mb=2048), program.parse_options({}))
    body = body_path.read_bytes()
    request = engine.parse("predict", body)
    bare = _find_bare_call(runtime, engine, request)
    calls: dict[str, Callable[[], Any]] = {
        "parse_and_run": lambda: engine.run([engine.parse("predict", body)]),
        "run": lambda: engine.run([request]),
        "bare": bare,
    }
    rows = engine.count_rows(request)
    for call in calls.values():
        _sample(call, _WARM_UP_SECONDS)
    samples = [{name: _sample(call, seconds / _SAMPLES) for name, call in calls.items()} for _ in range(_SAMPLES)]
    print(json.dumps({name: statistics.median(sample[name] for sample in samples) * rows for name in calls}))
    engine.close()


def _sample(call: Callable[[], Any], seconds: float) -> float:
    """Calls a second, of as many as fit, at least one."""
    count, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or not count:
        call()
        count += 1
    return count / spent


def _find_bare_call(runtime: str, engine: Any, request: Any) -> Callable[[], Any]:
    """The engines' own members, because nothing public is without JSON."""
    if runtime == "pmml":
        rows = [engine._objects(row) for row in request.rows]
        return lambda: [engine._model.predict(row) for row in rows]
    if runtime == "angel":
        return lambda: engine._loss(engine._network.run(request.batch))
    return lambda: engine._session.run(request.feeds, request.fetches, request.arrays)


if __name__ == "__main__":
    main()
