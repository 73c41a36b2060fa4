"""Fuzz one target with atheris, guided by what of our code each input reaches.

Run: ``python -m tests.fuzz.run angel_reader -runs=20000``. Further arguments are libFuzzer's (``-max_total_time=600``).
Ends with ``Done <number of inputs> runs``, or with 77 and the input that raised, took over 10 s, or over 2 GiB.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["airflow_provider_timl.runtimes"]):
    from tests.fuzz.targets import TARGETS

LIMITS = (
    "-timeout=10",
    "-len_control=0",
    "-reduce_inputs=0",
    "-rss_limit_mb=2048",
    "-max_len=16384",
    "-print_final_stats=1",
)


def main() -> None:
    name, *arguments = sys.argv[1:]
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="timl-seeds-") as seeds:
        for number, content in enumerate(target.seeds()):
            (Path(seeds) / str(number)).write_bytes(content)
        atheris.Setup(
            [sys.argv[0], *LIMITS, f"-artifact_prefix={tempfile.gettempdir()}/", *arguments, seeds], target.run
        )
        atheris.Fuzz()  # does not come back


if __name__ == "__main__":
    main()
