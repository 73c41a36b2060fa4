"""What the developer's scripts do before there is an environment."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "script"


@pytest.fixture
def environment() -> ModuleType:
    spec = spec_from_file_location("environment", SCRIPT / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_python(python: str) -> subprocess.CompletedProcess[str]:
    command = f'set -eu; . "{SCRIPT}/find_python.sh"; echo "$python"'
    return subprocess.run(
        ["sh", "-c", command], env={**os.environ, "PYTHON": python}, capture_output=True, text=True, check=False
    )


def test_the_wanted_python_is_taken() -> None:
    assert find_python(sys.executable).stdout.strip() == sys.executable


def test_a_python_that_does_not_run_is_refused_with_what_to_do() -> None:
    refused = find_python("/bin/false")
    assert refused.returncode == 1
    assert "PYTHON=/path/to/python3" in refused.stderr


def test_uv_is_told_what_pip_is_told(environment: ModuleType) -> None:
    pip = {"index-url": "https://one/simple", "extra-index-url": "https://two https://three", "find-links": "/a /b"}
    assert environment.build_uv_environment({**pip, "cert": "/ca.pem"}, {}) == {
        "UV_DEFAULT_INDEX": "https://one/simple",
        "UV_INDEX": "https://two https://three",
        "UV_FIND_LINKS": "/a,/b",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_what_uv_is_told_already_stays(environment: ModuleType) -> None:
    told = environment.build_uv_environment({"cert": "/ca.pem"}, {"SSL_CERT_FILE": "/mine.pem"})
    assert "SSL_CERT_FILE" not in told


def test_variables_of_pip_are_stronger_than_its_files(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://file/simple\ntimeout = 7\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable/simple")
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    configuration = environment.read_pip_configuration()
    assert configuration["index-url"] == "https://variable/simple"
    assert configuration["timeout"] == "7"
