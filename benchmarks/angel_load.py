"""Reading a text partition of an Angel matrix, beside Arrow's CSV parser alone on the same file, interleaved.

Run: ``python -m benchmarks.angel_load [lines] [rounds]``. Prints seconds and peak memory of each, every run in a
process of its own, and the ratio that is the target (<= 1.5).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from airflow_provider_timl.runtimes.angel.weights import WeightReader
from tests.angel_writer import DOUBLE_DENSE, FLOAT_SPARSE, Layout, read_meta, write_matrix, write_meta

TARGET_RATIO = 1.5
LINES = 10_000_000
ROUNDS = 5
BLOCK = 1_000_000
#: A dense row in order, and a sparse one in the order of a hash table.
ROW_TYPES = {"dense, in order": DOUBLE_DENSE, "sparse, no order": FLOAT_SPARSE}


def write_partition(folder: Path, lines: int, row_type: int) -> None:
    """One row in one partition in ``ColIdValueTextRowFormat``."""
    write_matrix(folder, [{0: 0.5}], 1, Layout("ColIdValueTextRowFormat", row_type, (0, 1)))
    meta = read_meta(folder)
    meta["col"] = meta["partMetas"]["0"]["endCol"] = lines
    meta["partMetas"]["0"]["rowMetas"]["0"]["elementNum"] = lines
    write_meta(folder, meta)
    generator = np.random.default_rng(1)
    columns = np.arange(lines) if row_type == DOUBLE_DENSE else generator.permutation(lines)
    with (folder / "0").open("wb") as file:
        for first in range(0, lines, BLOCK):
            part = columns[first : first + BLOCK]
            table = pa.table({"column": part, "value": generator.normal(size=len(part)).astype("f4").astype("f8")})
            csv.write_csv(table, file, csv.WriteOptions(include_header=False))


def read_ours(folder: Path, row_type: int) -> None:
    lines = read_meta(folder)["col"]
    WeightReader(folder.parent, "f8" if row_type == DOUBLE_DENSE else "f4", "").read_table(folder.name, 1, lines)


def read_arrow(folder: Path, row_type: int) -> None:
    value = pa.float64() if row_type == DOUBLE_DENSE else pa.float32()
    csv.read_csv(
        folder / "0",
        read_options=csv.ReadOptions(column_names=["column", "value"]),
        convert_options=csv.ConvertOptions(column_types={"column": pa.int32(), "value": value}),
    )


READERS: dict[str, Callable[[Path, int], None]] = {"ours": read_ours, "arrow": read_arrow}


def run_one(name: str, folder: Path, row_type: int) -> None:
    """In the child: print what it took, without what the program itself takes."""
    before = read_peak_megabytes()
    started, cpu_started = time.perf_counter(), time.process_time()
    READERS[name](folder, row_type)
    cpu_seconds, seconds = time.process_time() - cpu_started, time.perf_counter() - started
    print(json.dumps([seconds, cpu_seconds, read_peak_megabytes() - before]))


def read_peak_megabytes() -> float:
    """Of this program alone; what ``getrusage`` says begins with the size of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure(name: str, folder: Path, row_type: int) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.angel_load", "--one", name, str(folder), str(row_type)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    taken: list[float] = json.loads(done.stdout)
    return taken


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    given = [int(argument) for argument in sys.argv[1:]]
    lines, rounds = given + [LINES, ROUNDS][len(given) :]
    for title, row_type in ROW_TYPES.items():
        with tempfile.TemporaryDirectory() as base:
            folder = Path(base) / "weights"
            write_partition(folder, lines, row_type)
            size = (folder / "0").stat().st_size / 2**20
            print(f"{lines} lines, {size:.0f} MiB, {title}")
            found: dict[str, list[list[float]]] = {name: [] for name in READERS}
            for _ in range(rounds):
                for name in READERS:
                    found[name].append(measure(name, folder, row_type))
            for name, runs in found.items():
                seconds, cpu_seconds, megabytes = map(statistics.median, zip(*runs, strict=True))
                print(f"  {name:6} {seconds:6.3f} s, {cpu_seconds:6.3f} s of CPU, {megabytes:5.0f} MiB at the peak")
            pairs = list(zip(found["ours"], found["arrow"], strict=True))
            wall, cpu = (statistics.median(ours[each] / arrow[each] for ours, arrow in pairs) for each in (0, 1))
            print(f"  ratio  {wall:6.2f}, {cpu:6.2f} of CPU (target: at most {TARGET_RATIO})")


if __name__ == "__main__":
    main()
