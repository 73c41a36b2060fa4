"""One round after the other, one server after the other in each; what was measured, or why not."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.serving.commands import build_start
from benchmarks.serving.contenders import OURS, Contender
from benchmarks.serving.models import ROW_COUNTS, Case
from benchmarks.serving.processes import ContenderFailedError, Server, run_server

CLIENTS = (1, 32)
#: Rows of a request and clients, in the order in which they are measured: what takes longest to stop comes last.
CELLS = [(rows, clients) for rows in ROW_COUNTS for clients in CLIENTS]
Cell = tuple[int, int]
#: Between single and double precision.
_TOLERANCE, _SMALL = 1e-4, 1e-7
_WARM_UP_SECONDS = 1
#: The longest that a cell may take: 32 clients of a slow server wait 32 times as long as one.
_LONGEST_SECONDS = 20
_FEWEST_ANSWERS = 3


@dataclass
class Result:
    """Of one variant of one contender on one case, a value a round; ``figures`` by cell."""

    case: Case
    contender: Contender
    variant: str
    figures: dict[Cell, dict[int, load.Figures]] = field(default_factory=lambda: {cell: {} for cell in CELLS})
    rss_mb: dict[int, float] = field(default_factory=dict)
    cold_start_seconds: dict[int, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.contender.name} {self.variant}".strip()


@dataclass(frozen=True)
class Bench:
    """:param pythons: of each contender's environment, by name.
    :param seconds: of each cell.
    """

    folder: Path
    pythons: dict[str, Path]
    seconds: int

    def run_round(self, number: int, results: Sequence[Result], answers: dict[str, list[list[float]]]) -> None:
        for result in results:
            if is_pointless(result, results, number):
                continue
            started = time.monotonic()
            try:
                self._measure(number, result, answers)
            except ContenderFailedError as exc:
                result.failures.append(str(exc))
            words = result.failures[-1] if result.failures else "measured"
            seconds = time.monotonic() - started
            print(f"round {number + 1}: {result.case.name}: {result.title}: {words} ({seconds:.0f} s)", flush=True)

    def measure_engine(self, case: Case) -> dict[str, float]:
        """Rows a second without HTTP, by the names that ``engine_rate`` gives.

        :raises ContenderFailedError: the program failed.
        """
        body = self.folder / f"{case.name}.json"
        body.write_text(json.dumps(OURS.build(case.rows)))
        command = [sys.executable, "-m", "benchmarks.serving.engine_rate", case.runtime, str(case.folder), str(body)]
        done = subprocess.run([*command, str(self.seconds)], check=False, capture_output=True, text=True)
        if done.returncode:
            raise ContenderFailedError(done.stderr.strip().splitlines()[-1])
        rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return rates

    def _measure(self, number: int, result: Result, answers: dict[str, list[list[float]]]) -> None:
        case, contender = result.case, result.contender
        folder = self.folder / f"{case.name}-{result.title.replace(' ', '-')}-{number}"
        folder.mkdir()
        bodies = {count: json.dumps(contender.build(case.rows[:count])).encode() for count in ROW_COUNTS}
        start = build_start(contender, result.variant, case, self.pythons[contender.name], folder)
        with run_server(start.command, start.environment, start.port, folder) as server:
            result.cold_start_seconds[number] = server.wait_until_right(
                contender.path, bodies[1], lambda answer: is_right(result, answer, 1, answers)
            )
            many_ms = self._check_many(server, result, bodies[ROW_COUNTS[-1]], answers)
            scripts = {
                count: load.write_script(folder / f"{count}.lua", body, contender.headers)
                for count, body in bodies.items()
            }
            for figures, cell in self._load(server, scripts, many_ms, result):
                result.figures[cell][number] = figures
            result.rss_mb[number] = server.measure_rss_mb()

    def _check_many(self, server: Server, result: Result, body: bytes, answers: dict[str, list[list[float]]]) -> float:
        """How long the answer took, in milliseconds."""
        started = time.perf_counter()
        status, answer = server.post(result.contender.path, body)
        if status != 200:
            raise ContenderFailedError(f"it answers {status} to {ROW_COUNTS[-1]} rows: {answer[:200]!r}")
        taken_ms = (time.perf_counter() - started) * 1000
        content = json.loads(answer)
        if result.contender is OURS:
            answers.setdefault(result.case.name, read_numbers(result, content))
        if not is_right(result, content, ROW_COUNTS[-1], answers):
            raise ContenderFailedError(f"it answers {ROW_COUNTS[-1]} rows otherwise than ours: {answer[:200]!r}")
        return taken_ms

    def _load(
        self, server: Server, scripts: dict[int, Path], many_ms: float, result: Result
    ) -> Iterator[tuple[load.Figures, Cell]]:
        url = f"http://127.0.0.1:{server.port}{result.contender.path}"
        alone_ms = {ROW_COUNTS[-1]: many_ms}
        for count, clients in CELLS:
            longest = math.ceil(1.3 * max(clients, _FEWEST_ANSWERS) * alone_ms.get(count, 0) / 1000)
            seconds = min(max(self.seconds, longest), _LONGEST_SECONDS)
            try:
                if clients == CLIENTS[0]:
                    self._warm_up(url, scripts[count], CLIENTS[-1] if count == 1 else 1)
                figures = load.measure(url, scripts[count], clients, seconds)
            except load.LoadFailedError as exc:
                result.failures.append(f"{count} row(s), {clients} client(s): {exc}")
                continue
            alone_ms[count] = figures.p50_ms
            yield figures, (count, clients)

    @staticmethod
    def _warm_up(url: str, script: Path, clients: int) -> None:
        with suppress(load.LoadFailedError):  # slower than the warm-up lasts; the measurement tells
            load.measure(url, script, clients, _WARM_UP_SECONDS)


def read_numbers(result: Result, answer: Any) -> list[list[float]]:
    """The predictions of an answer as numbers.

    :raises ContenderFailedError: it has another form than the contender's.
    """
    try:
        return [result.case.read(prediction) for prediction in result.contender.read(answer)]
    except (KeyError, TypeError, IndexError, ValueError) as exc:
        raise ContenderFailedError(f"its answer has another form: {str(answer)[:200]}") from exc


def is_pointless(result: Result, results: Sequence[Result], number: int) -> bool:
    """It could not be measured before, or another variant of it was faster in every cell of the first round."""
    if result.failures and not any(result.figures.values()):
        return True
    others = [
        other
        for other in results
        if other.contender is result.contender and other.case is result.case and other is not result
    ]
    return number > 0 and any(
        all(
            0 in other.figures[cell]
            and other.figures[cell][0].requests_per_second > result.figures[cell][0].requests_per_second
            for cell in CELLS
            if 0 in result.figures[cell]
        )
        for other in others
    )


def is_right(result: Result, answer: Any, count: int, answers: dict[str, list[list[float]]]) -> bool:
    """Whether the predictions are those expected from elsewhere, and those of ours where we have answered."""
    numbers = read_numbers(result, answer)
    known = [result.case.expected, answers.get(result.case.name, [])]
    return len(numbers) == count and all(
        are_close(given, expected)
        for reference in known
        for given, expected in zip(numbers, reference, strict=False)  # the reference may have fewer rows, or more
    )


def are_close(given: Sequence[float], expected: Sequence[float]) -> bool:
    return len(given) == len(expected) and all(
        math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_SMALL) for a, b in zip(given, expected, strict=True)
    )
