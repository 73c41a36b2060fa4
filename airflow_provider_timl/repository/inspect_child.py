"""The process that inspects one model: sets its own limits, parses, writes its answer as JSON, ends.

Usage: ``inspect_child MODEL_TYPE FOLDER ANSWER_FILE LIMITS``, with LIMITS a JSON list of (resource, bytes or seconds).
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from airflow_provider_timl.entities import InspectionReport
from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError
from airflow_provider_timl.repository.structure import check_structure, find_model_root
from airflow_provider_timl.runtimes.contract import get_runtime


def main() -> None:
    model_type, folder, answer, limits = sys.argv[1:]
    for number, limit in json.loads(limits):
        resource.setrlimit(number, (limit, limit))
    try:
        content: dict[str, Any] = {"report": inspect_folder(Path(folder), model_type).model_dump(mode="json")}
    except InvalidInputError as exc:
        content = {"refused": exc.message, "field": exc.details.get("field")}
    Path(answer).write_text(json.dumps(content))
    sys.stdout.flush()
    os._exit(0)  # a JVM may take its time to end, and nothing is left to do


def inspect_folder(folder: Path, model_type: str) -> InspectionReport:
    """By the type's runtime where there is one, else by structure alone.

    :raises InvalidModelError: refused.
    """
    root = find_model_root(folder)
    framework = check_structure(root, model_type)
    try:
        program = get_runtime(model_type)
    except NotFoundError:
        return InspectionReport(model_type=model_type, checks=["structure"], framework=framework)
    return program.inspect(root)


if __name__ == "__main__":
    main()
