"""The report as Markdown: what was measured, beside what we want."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.load import Figures
from benchmarks.serving.contenders import OURS
from benchmarks.serving.models import ROW_COUNTS, Case
from benchmarks.serving.rounds import CELLS, CLIENTS, Cell, Result

#: One-row requests a second, ours to the quickest contender's.
LEAST_RATIO = {"pmml": 5.0, "tensorflow": 2.0}
#: Rows a second over HTTP to those of the engine without HTTP.
LEAST_SHARE = 0.5
#: A share beyond that says that the machine was busy with something else in one of the two, so nothing of ours.
_MOST_SHARE = 1.15
RATES = {"parse_and_run": "parse and run", "run": "run", "bare": "bare call"}
_WHY_MISSED = (
    "An Angel request says more than PMML's four fields (123 values, or 13 indices and as many values), and one row "
    "is a few dozen calls of NumPy, each of which costs more than its arithmetic, and twice as much when the processor "
    "comes from something else, as it does with one client. `py4j-json` is our own server, so little is left to differ "
    "in but Py4J itself."
)
_MANY = ROW_COUNTS[-1]
_NONE = "–"


@dataclass(frozen=True)
class Run:
    """Everything that a run gave.

    :param rates: rows a second of engines without HTTP, by case and by what was called, a value a round.
    :param excuses: why a contender or a type was not measured at all, by its name.
    :param versions: of what is installed, by name.
    """

    results: Sequence[Result]
    rates: dict[str, dict[str, list[float]]]
    excuses: dict[str, str]
    versions: dict[str, str]
    rounds: int
    seconds: int


def render(run: Run) -> str:
    cases = list({result.case.name: result.case for result in run.results}.values())
    parts = [_render_head(run), _render_targets(run, cases)]
    parts += [_render_case(run, case) for case in cases]
    parts += [_render_rates(run, cases), _render_failures(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _render_head(run: Run) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))
    return (
        "# Benchmarks\n\n"
        "Our model server beside what a user would otherwise take, each with one worker, over HTTP and JSON on "
        "loopback, loaded by wrk on the same machine. Written by `python -m benchmarks.serving --write`. Figures are "
        f"medians of {run.rounds} round(s) in which all were measured in turn, {run.seconds} s a cell; only ratios "
        "mean something elsewhere. All gave the same answers before they were measured.\n\n"
        f"Machine: {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}. Versions: {versions}.\n\n"
        "- PMML elsewhere is pypmml's `Model.predict` over Py4J with all rows as one JSON text, its quickest form. "
        "`py4j-json` and `py4j-dict` are no other servers: they are ours with pypmml's Py4J in it, in this form and in "
        "the one that its documentation shows first. `litserve-jpmml` has JPMML-Evaluator (AGPL) instead, in its "
        "worker's JVM.\n"
        "- TensorFlow elsewhere is the signature of `tf.saved_model.load`; at MLflow its own flavour.\n"
        "- `*`: with the framework's batching of concurrent requests, where that was the faster way. RSS counts memory "
        "that processes share once for each of them. Cold start: from the start of the process to the first right "
        "answer."
    )


def _render_targets(run: Run, cases: Sequence[Case]) -> str:
    rows = [*_check_contenders(run, cases), *_check_angel(run, cases), *_check_shares(run, cases)]
    return "## Targets\n\n" + _render_table(["what", "wanted", "measured", ""], rows) + f"\n\n{_WHY_MISSED}"


def _check_contenders(run: Run, cases: Sequence[Case]) -> Iterable[list[str]]:
    for case in cases:
        for clients in CLIENTS if case.name in LEAST_RATIO else ():
            cell = (ROW_COUNTS[0], clients)
            ratios = {name: find_ratio(run, case, name, cell) for name in list_names(run, case) if name != OURS.name}
            known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
            what = f"{case.name}, one row, {clients} client(s): ours /"
            frameworks = [name for name in known if not name.startswith("py4j")]
            if frameworks:
                name = min(frameworks, key=lambda each: known[each])
                yield _judge(f"{what} quickest other server ({name})", LEAST_RATIO[case.name], known[name])
            for name, ratio in known.items():
                if name not in frameworks:
                    yield _judge(f"{what} {name}", LEAST_RATIO[case.name], ratio)


def _check_angel(run: Run, cases: Sequence[Case]) -> Iterable[list[str]]:
    angels = [case for case in cases if case.runtime == "angel"]
    others = [case for case in cases if case.runtime != "angel"]
    for angel in angels:
        for clients in CLIENTS:
            cell = (ROW_COUNTS[0], clients)
            ours = find_best(run, angel, OURS.name, cell)
            rivals = [(case.name, find_best(run, case, OURS.name, cell)) for case in others]
            found = [(name, _compare(ours, rival, cell)) for name, rival in rivals if ours and rival]
            if found:
                name, ratio = min(found, key=lambda each: each[1])
                yield _judge(f"{angel.name}, one row, {clients} client(s): to our quickest ({name})", 1.0, ratio)


def _check_shares(run: Run, cases: Sequence[Case]) -> Iterable[list[str]]:
    for case in cases:
        for clients in CLIENTS:
            share = find_share(run, case, (_MANY, clients))
            if share is not None:
                what = f"{case.name}, {_MANY:,} rows, {clients} client(s): HTTP / engine's own rate"
                judged = _judge(what, LEAST_SHARE, share)
                yield judged if share <= _MOST_SHARE else [*judged[:-1], "unsteady run: HTTP cannot be the faster"]


def find_share(run: Run, case: Case, cell: Cell) -> float | None:
    """Of the engine's own rate that is left over HTTP; a median of rounds."""
    ours = find_best(run, case, OURS.name, cell)
    own = run.rates[case.name].get("parse_and_run", [])
    if ours is None or len(own) < run.rounds:
        return None
    return statistics.median(
        figures.requests_per_second * cell[0] / own[number] for number, figures in ours.figures[cell].items()
    )


def list_names(run: Run, case: Case) -> list[str]:
    return list(dict.fromkeys(result.contender.name for result in run.results if result.case is case))


def find_best(run: Run, case: Case, name: str, cell: Cell) -> Result | None:
    """The variant of a contender that is the quickest in this cell; ``None`` when none was measured there."""
    measured = [
        result
        for result in run.results
        if result.case is case and result.contender.name == name and result.figures[cell]
    ]
    return max(measured, key=lambda each: _take_median(each, cell).requests_per_second, default=None)


def find_ratio(run: Run, case: Case, name: str, cell: Cell) -> float | None:
    """Ours to the contender's: the median of the ratios of rounds."""
    ours, other = find_best(run, case, OURS.name, cell), find_best(run, case, name, cell)
    return _compare(ours, other, cell) if ours and other else None


def _compare(one: Result, other: Result, cell: Cell) -> float:
    rounds = one.figures[cell].keys() & other.figures[cell].keys()
    pairs = [(one.figures[cell][number], other.figures[cell][number]) for number in rounds]
    return statistics.median(a.requests_per_second / b.requests_per_second for a, b in pairs) if pairs else 0.0


def _take_median(result: Result, cell: Cell) -> Figures:
    runs = result.figures[cell].values()
    return Figures(
        statistics.median(each.requests_per_second for each in runs),
        statistics.median(each.p50_ms for each in runs),
        statistics.median(each.p99_ms for each in runs),
    )


def _judge(what: str, wanted: float, measured: float) -> list[str]:
    return [what, f"≥ {wanted:g}", f"{measured:.2f}", "met" if measured >= wanted else "**missed**"]


def _render_case(run: Run, case: Case) -> str:
    titles = [f"{rows:,} row(s), {clients} client(s)" for rows, clients in CELLS]
    lines, ratios = [], []
    for name in list_names(run, case):
        cells = [_render_cell(run, case, name, cell) for cell in CELLS]
        lines.append([name, *cells, *_render_costs(run, case, name)])
        ratio = [find_ratio(run, case, name, cell) for cell in CELLS]
        ratios.append([name, *(_NONE if each is None else f"{each:.1f}" for each in ratio)])
    figures = _render_table(["", *titles, "RSS MB", "cold start s"], lines)
    text = f"## {case.name}: {case.title}\n\nRequests/s, of many rows also rows/s; p50 / p99 in ms.\n\n{figures}"
    return (
        text if len(ratios) == 1 else f"{text}\n\nOurs to theirs, requests/s:\n\n{_render_table(['', *titles], ratios)}"
    )


def _render_cell(run: Run, case: Case, name: str, cell: Cell) -> str:
    best = find_best(run, case, name, cell)
    if best is None:
        return _NONE
    figures = _take_median(best, cell)
    rate = f"{figures.requests_per_second:,.{0 if figures.requests_per_second >= 100 else 1}f}"
    rows = f" = {figures.requests_per_second * cell[0]:,.0f} rows" if cell[0] > 1 else ""
    mark = "*" if best.variant == "batching" else ""
    return f"{rate}{mark}{rows}; {figures.p50_ms:.2f} / {figures.p99_ms:.2f}"


def _render_costs(run: Run, case: Case, name: str) -> list[str]:
    best = find_best(run, case, name, (ROW_COUNTS[0], CLIENTS[-1]))
    if best is None:
        return [_NONE, _NONE]
    cold = statistics.median(best.cold_start_seconds.values())
    return [f"{statistics.median(best.rss_mb.values()):,.0f}", f"{cold:.1f}"]


def _render_rates(run: Run, cases: Sequence[Case]) -> str:
    lines = [
        [case.name, *(f"{statistics.median(run.rates[case.name][name]):,.0f}" for name in RATES)]
        for case in cases
        if run.rates.get(case.name)
    ]
    text = (
        f"## Engines without HTTP\n\nRows/s of requests of {_MANY:,} rows in the engine's own process: its own rate is "
        "`parse` and `run`, from JSON to JSON; the bare call is the library's, on values that are ready.\n\n"
    )
    return text + _render_table(["", *RATES.values()], lines) if lines else ""


def _render_failures(run: Run) -> str:
    lines = [[name, reason] for name, reason in run.excuses.items()]
    lines += [
        [f"{each.title}, {each.case.name}", reason] for each in run.results for reason in dict.fromkeys(each.failures)
    ]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "## Not measured\n\n" + _render_table(["what", "why"], escaped) if lines else ""


def _render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
