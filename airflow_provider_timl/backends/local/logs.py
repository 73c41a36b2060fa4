"""Logs of instances: one file each, below ``<data_dir>/logs/<service>``, kept after the instance is gone."""

from __future__ import annotations

import os
import re
from pathlib import Path

from airflow_provider_timl.backends.contract import InstanceSpec
from airflow_provider_timl.entities import LogChunk
from airflow_provider_timl.settings import Settings

_MOST_BYTES = 10 * 1024 * 1024
_MOST_FILES = 10
_VERSION = re.compile(r"-v(\d+)-[0-9a-f]+-\d+$")


class LocalLogs:
    """Reads what model servers wrote on this machine."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.data_dir / "logs"

    def read_logs(self, service: str, version: int | None, max_bytes: int) -> list[LogChunk]:
        """The end of each instance's log, newest first; ``version`` as a filter."""
        chunks = []
        for path in _list_newest_first(self._folder / service):
            match = _VERSION.search(path.stem)
            if match and version in (None, int(match[1])):
                chunks.append(LogChunk(instance=path.stem, version=int(match[1]), text=read_tail(path, max_bytes)))
        return chunks


def open_log(settings: Settings, spec: InstanceSpec) -> Path:
    """The log file that an instance appends to; a large one is put aside, and old ones of the service are removed."""
    folder = settings.data_dir / "logs" / spec.service
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{spec.id}.log"
    if path.exists() and path.stat().st_size > _MOST_BYTES:
        path.replace(path.with_suffix(".log.old"))
    for old in _list_newest_first(folder)[_MOST_FILES:]:
        old.unlink()
        old.with_suffix(".log.old").unlink(missing_ok=True)
    return path


def read_tail(path: Path, max_bytes: int) -> str:
    """The last lines of a file, at most so many bytes; empty when there is no such file."""
    try:
        with path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(0, size - max_bytes))
            text = source.read(max_bytes).decode(errors="replace")
    except FileNotFoundError:
        return ""
    return text if size <= max_bytes else text.partition("\n")[2]


def _list_newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
