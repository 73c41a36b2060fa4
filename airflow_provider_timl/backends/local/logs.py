"""Logs of instances: one file each, below ``<data_dir>/logs/<service>``, kept for a while after the instance."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from airflow_provider_timl.backends.contract import InstanceSpec
from airflow_provider_timl.backends.local.private_files import ensure_private_folder
from airflow_provider_timl.entities import LogChunk
from airflow_provider_timl.settings import Settings

_MOST_BYTES = 10 * 1024 * 1024
_MOST_ENDED = 10
_LAST_LINE_BYTES = 4000
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


def ensure_log(settings: Settings, spec: InstanceSpec) -> Path:
    """The log file that an instance appends to; its folder is there."""
    folder = settings.data_dir / "logs" / spec.service
    ensure_private_folder(folder)
    return folder / f"{spec.id}.log"


def limit_log(path: Path) -> None:
    """Put aside what a log holds when that is a lot. Who writes to it goes on: it appends to the emptied file."""
    if not path.exists() or path.stat().st_size <= _MOST_BYTES:
        return
    with path.open("rb") as source, open(os.open(_get_aside(path), os.O_CREAT | os.O_WRONLY, 0o600), "wb") as sink:
        sink.truncate()
        shutil.copyfileobj(source, sink)
    os.truncate(path, 0)


def remove_old_logs(settings: Settings, service: str, living: Collection[str]) -> None:
    """Keep the logs of living instances, and the newest ones of those that ended."""
    logs = _list_newest_first(settings.data_dir / "logs" / service)
    for path in [path for path in logs if path.stem not in living][_MOST_ENDED:]:
        path.unlink()
        _get_aside(path).unlink(missing_ok=True)


def read_tail(path: Path, max_bytes: int) -> str:
    """The last lines that were written, at most so many bytes; empty when there is no such file."""
    content = _read_end(path, max_bytes + 1)
    if len(content) <= max_bytes:
        content = _read_end(_get_aside(path), max_bytes + 1 - len(content)) + content
    if len(content) > max_bytes:  # begin with a whole line, if there is one
        cut = content[-max_bytes:]
        content = cut.partition(b"\n")[2] or cut
    return content.decode(errors="replace")


def read_last_line(path: Path) -> str:
    """The last thing that was written, for people who ask why it ended."""
    lines = read_tail(path, _LAST_LINE_BYTES).strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


def _get_aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _read_end(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as source:
            source.seek(max(0, source.seek(0, os.SEEK_END) - size))
            return source.read(size)
    except FileNotFoundError:
        return b""


def _list_newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
