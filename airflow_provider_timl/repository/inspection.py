"""Inspects an uploaded model in a process of its own, with limits: the files are hostile until that says otherwise.

The child (``inspect_child``) gets a small environment and its own session, and may use so much memory, processor time
and file space. Whatever happens to it, here it ends as an ``InspectionReport`` or as an ``InvalidModelError``, and
everything it started is killed.
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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from airflow_provider_timl.entities import InspectionReport
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidModelError
from airflow_provider_timl.repository.inspect_child import OUT_OF_MEMORY_STATUS
from airflow_provider_timl.settings import Settings

_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
#: Address space that a JVM reserves beside its heap and never uses: measured at 0.6 GB with two malloc arenas.
_RESERVED_MB = 1024
_MOST_ANSWER_BYTES = 4 * 1024 * 1024
_MOST_FILE_BYTES = 64 * 1024 * 1024
_MOST_OPEN_FILES = 256
_SHOWN_BYTES = 2000
_SHOWN_CHARACTERS = 300
#: Inspections at a time in this process: each fills a core, and the API has other things to do.
_slots = threading.BoundedSemaphore(max(1, os.cpu_count() or 1))


@dataclass(frozen=True)
class _End:
    """How a child ended: its status (``None``: out of time), its answer, and the last line that it printed."""

    status: int | None
    answer: dict[str, Any]
    last_line: str


def inspect_in_limited_process(folder: Path, model_type: str, *, settings: Settings) -> InspectionReport:
    """Inspect the model in ``folder``. Blocking: about a second for PMML, and longer while others are inspected.

    :raises InvalidModelError: refused, with the reason; or a limit was reached, with its name.
    :raises ExternalSystemError: what the inspection needs is not installed.
    """
    with _slots, tempfile.TemporaryDirectory(prefix="timl-inspect-") as working_folder:
        end = _run(folder, model_type, Path(working_folder), settings)
    if end.status == 0 and "unavailable" in end.answer:
        raise ExternalSystemError(str(end.answer["unavailable"]))
    if end.status == 0 and "refused" in end.answer:
        raise InvalidModelError(str(end.answer["refused"]), end.answer.get("field"))
    if end.status == 0 and "report" in end.answer:
        try:
            return InspectionReport.model_validate(end.answer["report"])
        except ValidationError as exc:
            raise InvalidModelError("the model's inspection gave no report that can be read; refused") from exc
    raise InvalidModelError(_describe(end, settings))


def _run(folder: Path, model_type: str, working_folder: Path, settings: Settings) -> _End:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    module = "airflow_provider_timl.repository.inspect_child"
    limits = json.dumps(_list_limits(settings))
    arguments = [model_type, str(folder.absolute()), str(settings.inspection_memory_mb), limits]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=working_folder,
            env={**environment, "TMPDIR": str(working_folder), "MALLOC_ARENA_MAX": "2"},
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=output,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(settings.inspection_timeout_seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _kill_group(process)
        return _End(status, _read_answer(answer), _read_last_line(output))


def _list_limits(settings: Settings) -> list[tuple[int, int, int]]:
    """What the child sets for itself before it reads anything: resource, soft and hard limit."""
    address_space = (settings.inspection_memory_mb + _RESERVED_MB) * 2**20
    processor_seconds = max(1, int(settings.inspection_timeout_seconds)) * 2  # a JVM compiles on a second core
    return [
        (resource.RLIMIT_AS, address_space, address_space),
        (resource.RLIMIT_CPU, processor_seconds, processor_seconds + 5),
        (resource.RLIMIT_FSIZE, _MOST_FILE_BYTES, _MOST_FILE_BYTES),
        (resource.RLIMIT_NOFILE, _MOST_OPEN_FILES, _MOST_OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
    ]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # it ended, and so did all it started
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_answer(file: IO[bytes]) -> dict[str, Any]:
    file.seek(0)
    try:
        content = json.loads(file.read(_MOST_ANSWER_BYTES))
    except (ValueError, RecursionError):  # it died before it had written its answer
        return {}
    return content if isinstance(content, dict) else {}


def _read_last_line(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _SHOWN_BYTES))
    lines = file.read(_SHOWN_BYTES).decode(errors="replace").split("\n")
    shown = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return shown[:_SHOWN_CHARACTERS]


def _describe(end: _End, settings: Settings) -> str:
    if end.status is None:
        return f"inspecting the model took longer than {settings.inspection_timeout_seconds:g} s; refused"
    if end.status == OUT_OF_MEMORY_STATUS:
        return f"inspecting the model needs more than {settings.inspection_memory_mb} MB of memory; refused"
    if end.status == -signal.SIGXCPU:
        return "inspecting the model took too much processor time; refused"
    ended = f"signal {-end.status}" if end.status < 0 else f"status {end.status}"
    return f"inspecting the model ended with {ended} ({end.last_line}); refused"
