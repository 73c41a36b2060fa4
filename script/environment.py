"""Owns the checkout's virtual environment ``.venv``: makes it, installs the package into it, runs a program with it.

    environment.py EXTRAS PROGRAM [ARGUMENTS ...]      EXTRAS as in ``all,dev``; PROGRAM as after ``python``

Needs Python alone. Installs by uv, which takes seconds where pip takes minutes, and by pip where there is no uv. Both
ask the index that pip is configured for, by file or environment. Nothing is installed while ``setup.cfg`` and the
Python are those of the last success.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "installed.json"
STATE = ROOT / ".timl"
PROGRESS_SECONDS = 5.0

#: What pip calls an option, and the environment variable by which uv takes the same.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "constraint": "UV_CONSTRAINT",
    "no-cache-dir": "UV_NO_CACHE",
}
LISTS_WITH_COMMAS = {"find-links"}


class EnvironmentFailedError(Exception):
    """The environment cannot be made; the message says what to do."""


def main() -> None:
    extras, program = sys.argv[1].split(","), sys.argv[2:]
    STATE.mkdir(mode=0o700, exist_ok=True)
    try:
        with (STATE / "environment.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ensure_environment(extras)
    except EnvironmentFailedError as error:
        sys.exit(f"\n{error}")
    # A program finds the commands of the environment (airflow, ruff, weed) by name.
    os.environ["PATH"] = f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["VIRTUAL_ENV"] = str(ENVIRONMENT)
    os.chdir(ROOT)
    os.execv(PYTHON, [str(PYTHON), *program])  # noqa: S606 - the program takes this one's place, and no shell is wanted


def ensure_environment(extras: Sequence[str]) -> None:
    """Make ``.venv`` hold the package, editable, with ``extras``; quick when it does."""
    if not is_working(PYTHON):
        make_environment()
    basis, present = compute_basis(), read_installed_extras()
    if set(extras) <= present.get(basis, set()):
        return
    wanted = sorted({*extras, *present.get(basis, set())})
    STAMP.unlink(missing_ok=True)
    get_log().unlink(missing_ok=True)
    install(wanted)
    STAMP.write_text(json.dumps({basis: wanted}))


def compute_basis() -> str:
    """Digest of all that an installation follows from, but the extras."""
    version = subprocess.run([PYTHON, "-VV"], capture_output=True, check=True).stdout
    parts = [(ROOT / "setup.cfg").read_bytes(), (ROOT / "pyproject.toml").read_bytes(), version, os.fsencode(ROOT)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_installed_extras() -> dict[str, set[str]]:
    """Extras of the last successful installation, by its basis; empty when there was none."""
    if not STAMP.exists():
        return {}
    return {basis: set(extras) for basis, extras in json.loads(STAMP.read_text()).items()}


def is_working(python: Path) -> bool:
    """Whether it runs and can install: a moved folder or an upgraded Python leaves an environment that does not."""
    command = [str(python), "-m", "pip", "--version"]
    return python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def make_environment() -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise EnvironmentFailedError(
            f"{sys.executable} could not make a virtual environment:\n{made.stdout}{made.stderr}\n"
            f"Install its 'venv' and 'ensurepip' modules (Debian, Ubuntu: apt-get install python{version}-venv), "
            "or choose another Python with PYTHON=/path/to/python3, and run this again."
        )


def install(extras: Sequence[str]) -> None:
    """Install by uv, or by pip when uv is not to be had."""
    started = time.monotonic()
    package = f"{ROOT}[{','.join(extras)}]"
    environment = dict(os.environ)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
    if run_with_progress([*pip, "uv"], "Installing uv", environment, started) == 0:
        environment |= build_uv_environment(read_pip_configuration(), os.environ)
        command = [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON), "--editable", package]
    else:
        print("uv cannot be installed; pip does the work, which takes some minutes.", flush=True)
        command = [*pip, "--editable", package]
    if run_with_progress(command, "Installing airflow-provider-timl and what it needs", environment, started):
        tail = "\n".join(get_log().read_text(errors="replace").splitlines()[-25:])
        raise EnvironmentFailedError(
            f"{tail}\n\nThe installation failed; the whole log is {get_log()}.\n"
            "It needs a package index: behind a proxy or with a mirror set PIP_INDEX_URL, PIP_CERT or PIP_PROXY (or "
            "pip's configuration file), and run this again. What has been installed is kept."
        )
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)


def read_pip_configuration() -> dict[str, str]:
    """pip's options by name, from its files and ``PIP_*`` variables, the stronger winning."""
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    strength = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listed.stdout.splitlines():
        match = re.fullmatch(r"(global|install|:env:)\.([a-z-]+)=('.*'|\".*\")", line)
        if match and strength[match[1]] >= found.get(match[2], (0, ""))[0]:
            found[match[2]] = (strength[match[1]], ast.literal_eval(match[3]))
    return {name: value for name, (_, value) in found.items()}


def build_uv_environment(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that make uv do as pip is told; those that are set already stay."""
    uv = {}
    for name, variable in UV_NAMES.items():
        words = pip.get(name, "").split()
        if words and variable not in environment:
            uv[variable] = ",".join(words) if name in LISTS_WITH_COMMAS else " ".join(words)
    # pip takes the best version of all indexes; uv of its own accord takes the first index that has the name.
    uv.setdefault("UV_INDEX_STRATEGY", environment.get("UV_INDEX_STRATEGY", "unsafe-best-match"))
    return uv


def get_log() -> Path:
    return STATE / "install.log"


def run_with_progress(command: Sequence[str], title: str, environment: Mapping[str, str], started: float) -> int:
    """Run a quiet command with its output in the log and a line now and then on ours; return its exit status."""
    with get_log().open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    print(f"{title} ...", flush=True)
    while True:
        try:
            return process.wait(PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"  ... {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
