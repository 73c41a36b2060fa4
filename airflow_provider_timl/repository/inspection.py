"""Inspects an uploaded model in a process of its own, with limits: the files are hostile until that says otherwise.

The child (``inspect_child``) gets a small environment and its own session, and may use so much memory, processor time
and file space. Whatever happens to it, here it ends as an ``InspectionReport`` or as an ``InvalidModelError``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_provider_timl.entities import InspectionReport
from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.settings import Settings

_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
#: A JVM reserves address space that it never uses; measured at 1.6 GB beside what it is allowed to use.
_RESERVED_MB = 3072
_MOST_OUTPUT_BYTES = 4 * 1024 * 1024
_MOST_FILE_BYTES = 64 * 1024 * 1024
_MOST_OPEN_FILES = 256
#: Inspections at a time: each may fill a core, and the API has other things to do.
_slots = threading.BoundedSemaphore(max(1, (os.cpu_count() or 2)))


def inspect_in_limited_process(folder: Path, model_type: str, *, settings: Settings) -> InspectionReport:
    """Inspect the model in ``folder``. Blocking: about a second for PMML, and longer while others are inspected.

    :raises InvalidModelError: refused, with the reason; or a limit was reached, with its name.
    """
    with _slots, tempfile.TemporaryDirectory(prefix="timl-inspect-") as working_folder:
        code, output = _run(folder, model_type, Path(working_folder), settings)
    if code == 0 and "report" in output:
        return InspectionReport.model_validate(output["report"])
    if "refused" in output:
        raise InvalidModelError(output["refused"], output.get("field"))
    raise InvalidModelError(_describe_end(code, settings))


def _run(folder: Path, model_type: str, working_folder: Path, settings: Settings) -> tuple[int | None, dict[str, Any]]:
    """Exit status (``None``: out of time) and what the child wrote into its answer file."""
    answer = working_folder / "answer.json"
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    limits = json.dumps(_list_limits(settings))
    module = "airflow_provider_timl.repository.inspect_child"
    process = subprocess.Popen(
        [sys.executable, "-m", module, model_type, str(folder), str(answer), limits],
        cwd=working_folder,
        env={**environment, "TMPDIR": str(working_folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code: int | None = process.wait(settings.inspection_timeout_seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _kill_group(process)
    return code, _read_answer(answer)


def _list_limits(settings: Settings) -> list[tuple[int, int]]:
    """What the child sets for itself before it reads anything."""
    address_space = (settings.inspection_memory_mb + _RESERVED_MB) * 2**20
    return [
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CPU, int(settings.inspection_timeout_seconds) * 2),
        (resource.RLIMIT_FSIZE, _MOST_FILE_BYTES),
        (resource.RLIMIT_NOFILE, _MOST_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # it ended, and so did all it started
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_answer(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as source:
            content = json.loads(source.read(_MOST_OUTPUT_BYTES))
    except (FileNotFoundError, ValueError):  # it died before it had written its answer
        return {}
    return content if isinstance(content, dict) else {}


def _describe_end(code: int | None, settings: Settings) -> str:
    if code is None:
        return f"inspecting the model took longer than {settings.inspection_timeout_seconds:g} s; refused"
    if code == -signal.SIGXCPU:
        return "inspecting the model used too much processor time; refused"
    ended = f"signal {-code}" if code < 0 else f"status {code}"
    return (
        f"the model's inspection ended with {ended}, most likely because it needs more than "
        f"{settings.inspection_memory_mb} MB of memory; refused"
    )
