"""How a contender's server is started for a case: command line, environment, and what must be done before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.serving.contenders import Contender
from benchmarks.serving.contenders.predictors import VARIABLE, Job
from benchmarks.serving.environments import ROOT, find_java_home
from benchmarks.serving.models import Case
from benchmarks.serving.processes import ContenderFailedError, choose_port

CPU = 2
_MEMORY_MB = 2048
_PREPARE_TIMEOUT_SECONDS = 120
_SERVER, _PY4J_SERVER = "airflow_provider_timl.runtimes.server", "benchmarks.py4j_server"


@dataclass(frozen=True)
class Start:
    command: list[str]
    environment: dict[str, str]
    port: int


def build_start(contender: Contender, variant: str, case: Case, python: Path, folder: Path) -> Start:
    """:raises ContenderFailedError: what must be done before failed."""
    port = choose_port()
    java_home = find_java_home(python)
    environment = {
        **os.environ,
        "JAVA_HOME": java_home,
        "PATH": f"{python.parent}{os.pathsep}{java_home}/bin{os.pathsep}{os.environ['PATH']}",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        # None of them has anything to tell anybody about this run.
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # or it leaves a token in the user's home
    }
    if contender.package is None:
        config = _build_config(contender, case, port)
        (folder / "server.json").write_text(json.dumps(config))
        program = _PY4J_SERVER if contender.options else _SERVER
        command = [sys.executable, "-m", program, "--config", str(folder / "server.json")]
        return Start(command, {**environment, "PYTHONPATH": str(ROOT)}, port)
    job = Job(case.runtime, str(case.folder), port, variant == "batching", str(folder))
    environment[VARIABLE] = json.dumps(asdict(job))
    command = [str(python), str(Path(__file__).with_name("contenders") / contender.script)]
    if contender.needs_preparation:
        _prepare([*command, "prepare"], environment, folder)
    return Start(command, environment, port)


def _prepare(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PREPARE_TIMEOUT_SECONDS,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["without a word"]
        raise ContenderFailedError(f"its model cannot be prepared: {lines[-1][:300]}")


def _build_config(contender: Contender, case: Case, port: int) -> dict[str, object]:
    return {
        "runtime": case.runtime,
        "model_path": str(case.folder),
        "model_version": 1,
        "model_names": ["m"],
        "listen": f"127.0.0.1:{port}",
        "cpu": CPU,
        "memory_mb": _MEMORY_MB,
        "drain_timeout_seconds": 1,
        "options": contender.options,
    }
