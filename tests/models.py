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


def copy_angel_model(folder: Path) -> Path:
    shutil.copytree(ANGEL_LR, folder)
    return folder


def write_angel_model(folder: Path, bias: int) -> Path:
    """The published model with another bias: quickly inspected, and of other content than those with another."""
    copy_angel_model(folder)
    (folder / "input_bias" / "0").write_text(f"0,{bias}\n")
    return folder
