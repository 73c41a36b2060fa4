"""The process that inspects one model: sets its own limits, parses, writes its answer as JSON to stdout, ends.

Usage: ``inspect_child MODEL_TYPE FOLDER MEMORY_MB LIMITS``, with LIMITS a JSON list of (resource, soft, hard). The
answer has one key: ``report``; ``refused`` and ``field``; or ``unavailable`` when what the inspection needs is not
installed. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from airflow_provider_timl.entities import InspectionReport, Resources
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError
from airflow_provider_timl.runtimes.contract import find_model_root, get_runtime_for
from airflow_provider_timl.runtimes.process_end import end_process

#: The status with which a JVM ends that ran out of memory; used for Python, too.
OUT_OF_MEMORY_STATUS = 3


def main() -> None:
    model_type, folder, memory_mb, limits = sys.argv[1:]
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for number, soft, hard in json.loads(limits):
        _set_limit(number, soft, hard)
    try:
        content = json.dumps(answer_for(Path(folder), model_type, int(memory_mb)))
    except MemoryError:
        end_process(OUT_OF_MEMORY_STATUS)
    with open(answer, "w") as sink:
        sink.write(content)
    end_process(0)


def answer_for(folder: Path, model_type: str, memory_mb: int) -> dict[str, Any]:
    try:
        return {"report": inspect_folder(folder, model_type, memory_mb).model_dump(mode="json")}
    except InvalidInputError as exc:
        return {"refused": exc.message, "field": exc.details.get("field")}
    except ExternalSystemError as exc:
        return {"unavailable": exc.message}


def inspect_folder(folder: Path, model_type: str, memory_mb: int) -> InspectionReport:
    """By the type's runtime.

    :raises InvalidModelError: refused.
    :raises ExternalSystemError: the runtime is known, but what it needs is not installed here.
    """
    program = get_runtime_for(model_type)
    missing = program.find_missing()
    if missing is not None:
        raise ExternalSystemError(
            f"models of type {model_type!r} cannot be inspected here: the package {missing!r} is not installed; "
            f"install airflow-provider-timl[{program.extra}] where the API server runs"
        )
    return program.inspect(find_model_root(folder), Resources(memory_mb=memory_mb))


def _set_limit(number: int, soft: int, hard: int) -> None:
    """No higher than the limit that is in force already."""
    _, present = resource.getrlimit(number)
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(number, (soft, hard))


if __name__ == "__main__":
    main()
