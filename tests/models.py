"""Small models of each type, made or copied for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

DATA = Path(__file__).parent / "data"
IRIS = DATA / "pmml_lr" / "LogisticRegressionIris.pmml"
ANGEL_LR = DATA / "angel" / "published" / "lr" / "6"


def write_pmml(folder: Path, text: str | None = None) -> Path:
    """The published iris model, or another document."""
    folder.mkdir(parents=True)
    (folder / "iris.pmml").write_text(IRIS.read_text() if text is None else text)
    return folder


def write_saved_model(folder: Path, graph: bytes = b"graph") -> Path:
    """What inspection by structure takes for a SavedModel: a schema version and one graph of opaque bytes."""
    variables = folder / "variables"
    variables.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01" + b"\x12" + bytes([len(graph)]) + graph)
    (variables / "variables.index").write_bytes(b"index")
    (variables / "variables.data-00000-of-00001").write_bytes(b"data")
    return folder


def copy_angel_model(folder: Path) -> Path:
    shutil.copytree(ANGEL_LR, folder)
    return folder
