"""The code itself: its style, types, and the direction of its imports. ``script/lint`` runs these alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

CHECKS = {
    "rules": ["ruff", "check"],
    "format": ["ruff", "format", "--check"],
    "types": ["mypy"],
    "types of demo and scripts": ["mypy", "demo", "script"],
    "imports": ["lint-imports"],
}


@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS.keys())
def test_code_passes_the_check_of(command: list[str]) -> None:
    checked = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"{' '.join(command)}\n{checked.stdout}{checked.stderr}"
