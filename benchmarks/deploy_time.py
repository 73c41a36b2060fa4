"""From a recorded deployment to the first authenticated 200 through the gateway, for a PMML model.

Run: ``python -m benchmarks.deploy_time [rounds]``. Beside it the part that nothing of ours can shorten: a bare JVM
that loads the same model and answers once.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.servers.stack import ACTOR, Stack, is_answering
from tests.waiting import wait_until

TARGET_SECONDS = 8.0
MODEL = Path(__file__).parents[1] / "tests" / "data" / "pmml_lr" / "LogisticRegressionIris.pmml"
FLOWER = {"instances": [{"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}]}
BARE = """
import sys
from airflow_provider_timl.entities import Resources
from airflow_provider_timl.runtimes.contract import RuntimeOptions, get_runtime
from pathlib import Path
engine = get_runtime("pmml").load(Path(sys.argv[1]), Resources(), RuntimeOptions())
engine.run([engine.parse("predict", b'{"instances": [{"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}]}')])
"""


def measure_deployment(stack: Stack, name: str) -> float:
    started = time.monotonic()
    stack.registry.create_service(name=name, model="iris", actor=ACTOR)
    wait_until(lambda: is_answering(lambda: stack.predict(name, FLOWER)), timeout_seconds=60)
    seconds = time.monotonic() - started
    stack.wait_until_in_sync(name)
    stack.registry.delete_service(name=name, actor=ACTOR)
    stack.wait_until_deleted(name)
    return seconds


def measure_bare_engine(folder: Path) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", BARE, str(folder)], check=True)
    return time.monotonic() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        model = root / "model"
        model.mkdir()
        (model / MODEL.name).write_bytes(MODEL.read_bytes())
        stack = Stack(root)
        try:
            stack.save_model("iris", model)
            stack.start_controller()
            measure_deployment(stack, "warm")
            pairs = [(measure_deployment(stack, f"iris-{n}"), measure_bare_engine(model)) for n in range(rounds)]
        finally:
            stack.stop()
    deployments, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"deployment to first 200: median {deployments:.2f} s of {rounds} (target <= {TARGET_SECONDS:.0f} s)")
    print(f"bare engine, process start to first answer: median {bare:.2f} s; ratio {deployments / bare:.1f}")


if __name__ == "__main__":
    main()
