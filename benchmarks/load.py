"""The load generator: wrk, with a body from a file, and what its report says.

wrk is a program of its own (Debian package ``wrk``) that costs a fraction of what the servers cost that it loads.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_SECONDS = 120
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


class LoadFailedError(Exception):
    """Not every request was answered with a 2xx; the message says what wrk counted."""


@dataclass(frozen=True)
class Figures:
    """What one run of the load generator says; latencies in milliseconds."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float


def require_wrk() -> None:
    if shutil.which("wrk") is None:
        sys.exit("the load generator wrk is not installed; on Debian: apt-get install wrk")


def write_script(path: Path, body: bytes, headers: Mapping[str, str]) -> Path:
    """The Lua script of a POST; the body goes to a file beside it, which takes any size and any bytes."""
    body_path = path.with_suffix(".body")
    body_path.write_bytes(body)
    lines = ['wrk.method = "POST"', f'wrk.body = io.open("{body_path}", "rb"):read("*a")']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def measure(url: str, script: Path, clients: int, seconds: int, headers: Mapping[str, str] | None = None) -> Figures:
    """Keep ``clients`` connections busy for ``seconds``.

    :raises LoadFailedError: an answer was no 2xx, a connection broke, or no request was answered at all.
    """
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", f"--timeout={_TIMEOUT_SECONDS}s", "--latency"]
    command += [part for name, value in (headers or {}).items() for part in ("-H", f"{name}: {value}")]
    done = subprocess.run([*command, "-s", str(script), url], check=False, capture_output=True, text=True)
    problem = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    if done.returncode or problem:
        raise LoadFailedError(problem[0] if problem else done.stderr.strip() or "wrk failed")
    figures = Figures(
        requests_per_second=float(_find(r"Requests/sec:\s+([\d.]+)", done.stdout)),
        p50_ms=_to_ms(_find(r"^ +50%\s+(\S+)", done.stdout)),
        p99_ms=_to_ms(_find(r"^ +99%\s+(\S+)", done.stdout)),
    )
    if not figures.requests_per_second:
        raise LoadFailedError(f"no answer in {seconds} s")
    return figures


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        sys.exit(f"wrk said something unexpected:\n{text}")
    return match[1]


def _to_ms(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)?", text)
    if match is None:
        sys.exit(f"wrk named a latency that is none: {text}")
    return float(match[1]) * _UNITS_MS[match[2] or "ms"]
