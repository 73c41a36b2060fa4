"""Files and folders of this backend: readable by this user only, written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from airflow_provider_timl.exceptions import ConflictError


def ensure_private_folder(folder: Path) -> None:
    """Have the folder, for us alone.

    :raises ConflictError: the path is taken by somebody else: in a shared temporary folder that may be an attack.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConflictError(f"{folder} is not a folder of this user; remove it, or choose another [timl] data_dir")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)


def write_private_file(path: Path, text: str) -> None:
    """Replace the file by rename. Survives a power cut."""
    partial = path.with_name(f"{path.name}.partial")
    with open(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    partial.replace(path)


def ensure_private_file(path: Path, text: str) -> bool:
    """Have the file hold the text; whether it had to be written."""
    if path.exists() and path.read_text(errors="replace") == text:
        return False
    write_private_file(path, text)
    return True
