"""Where a servable model stands in what a trainer left: the newest version, and below it what SONA calls ``angel``."""

from __future__ import annotations

import re
from pathlib import Path

_VERSION = re.compile("[0-9]+")
_GRAPH = "graph.json"
_SONA_FOLDER = "angel"


def find_model_folder(base: Path) -> Path:
    """The folder of ``graph.json``, or where it ought to be.

    Folders whose names are digits are versions, the largest number the newest; without any, the folder is a version
    itself. SONA writes ``angel`` beside its own ``metadata`` and ``data``.
    """
    versions = [entry for entry in base.iterdir() if _VERSION.fullmatch(entry.name) and _is_folder(entry)]
    folder = max(versions, key=lambda entry: (int(entry.name), entry.name), default=base)
    below = folder / _SONA_FOLDER
    return below if not (folder / _GRAPH).exists() and _is_folder(below) and (below / _GRAPH).exists() else folder


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
