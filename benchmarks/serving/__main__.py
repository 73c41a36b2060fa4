"""The program: makes environments and models, measures in rounds, prints the report."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from airflow_provider_timl.runtimes.contract import list_runtimes
from benchmarks.load import require_wrk
from benchmarks.serving.contenders import CONTENDERS, OURS, Contender
from benchmarks.serving.environments import ROOT, NotInstalledError, ensure_environment, read_version
from benchmarks.serving.models import MAKERS, Case, NoModelError
from benchmarks.serving.processes import ContenderFailedError
from benchmarks.serving.report import Run, render
from benchmarks.serving.rounds import Bench, Result

PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
OUR_VERSIONS = ("airflow-provider-timl", "pypmml", "jpype1", "numpy", "tensorflow")


def main() -> None:
    arguments = parse_arguments()
    require_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the server is stopped that is running
    pythons, excuses, versions = prepare_contenders(arguments.against, arguments.environments)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), {**pythons, "ours": Path(sys.executable)}, arguments.seconds)
        cases = make_cases(arguments.types, bench.folder, excuses)
        results = list_results(cases, [each for each in CONTENDERS if each.name in pythons], arguments.types)
        rates: dict[str, dict[str, list[float]]] = {case.name: {} for case in cases}
        answers: dict[str, list[list[float]]] = {}
        rounds = 0
        for number in list_rounds(arguments.rounds, arguments.minutes * 60):
            for case in cases:  # its engine by itself directly after it, while the machine is as it was
                bench.run_round(number, [result for result in results if result.case is case], answers)
                measure_engine(bench, case, rates, excuses)
            rounds = number + 1
        text = render(Run(results, rates, excuses, versions, rounds, arguments.seconds))
    text = text.replace(str(Path.home()), "~").replace(temporary, "…")
    print(f"\n{text}")
    if arguments.write:
        PAGE.write_text(text)


def parse_arguments() -> argparse.Namespace:
    def split(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Compare model servers.")
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each cell")
    parser.add_argument("--minutes", type=float, default=25, help="no further round is begun that would not fit")
    parser.add_argument("--types", type=split, default=["pmml", "tensorflow", "angel"], help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--against", type=split, default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "timl-benchmarks")
    parser.add_argument("--write", action="store_true", help=f"the report to {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    for given, known in ((arguments.types, list(MAKERS)), (arguments.against, names)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return arguments


def list_rounds(count: int, seconds: float) -> Iterator[int]:
    """Numbers of rounds, until there were enough or another would not fit into the time."""
    started = time.monotonic()
    for number in range(count):
        spent = time.monotonic() - started
        if number and spent + spent / number > seconds:
            print(f"no time for round {number + 1}: {number} round(s) took {spent:.0f} s", flush=True)
            return
        yield number


def prepare_contenders(names: list[str], folder: Path) -> tuple[dict[str, Path], dict[str, str], dict[str, str]]:
    """Pythons by contender, why others have none, and versions."""
    pythons, excuses = {}, {}
    versions = {name: found for name in OUR_VERSIONS if (found := find_version(name))}
    for contender in CONTENDERS:
        if contender.name not in names:
            continue
        if contender.package is None:
            pythons[contender.name] = Path(sys.executable)
            continue
        print(f"environment of {contender.name} ...", flush=True)
        try:
            python = ensure_environment(folder / contender.name, [contender.package, *contender.models])
            versions[contender.name] = read_version(python, contender.package.split("[")[0])
            versions.setdefault(contender.models[0], read_version(python, contender.models[0]))
        except NotInstalledError as exc:
            excuses[contender.name] = f"not installed: {exc}"
        else:
            pythons[contender.name] = python
    return pythons, excuses, versions


def make_cases(types: list[str], folder: Path, excuses: dict[str, str]) -> list[Case]:
    """Those of our runtimes that are registered and installed. Angel is compared with our other types too."""
    missing = {program.name: program.find_missing() for program in list_runtimes()}
    wanted = [*types, *(name for name in ("pmml", "tensorflow") if "angel" in types and name not in types)]
    cases = []
    for name in sorted(wanted, key=list(MAKERS).index):
        runtime = "pmml" if name == "trees" else name
        if runtime not in missing or missing[runtime]:
            excuses[name] = f"our runtime {runtime!r} is not installed"
            continue
        try:
            cases += [make(folder / f"model-{make.__name__}", Path(sys.executable)) for make in MAKERS[name]]
        except NoModelError as exc:
            excuses[name] = f"no model: {exc}"
    return cases


def list_results(cases: list[Case], contenders: list[Contender], types: list[str]) -> list[Result]:
    """In the order of a round: of each case ours first, whose answers are the others' reference."""
    return [
        Result(case, contender, variant)
        for case in cases
        for contender in [OURS, *contenders]
        if case.name in contender.types and (contender is OURS or case.name in types)
        for variant in contender.variants
    ]


def measure_engine(bench: Bench, case: Case, rates: dict[str, dict[str, list[float]]], excuses: dict[str, str]) -> None:
    try:
        for name, rate in bench.measure_engine(case).items():
            rates[case.name].setdefault(name, []).append(rate)
    except ContenderFailedError as exc:
        excuses[f"engine of {case.name}"] = str(exc)


def find_version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


if __name__ == "__main__":
    main()
