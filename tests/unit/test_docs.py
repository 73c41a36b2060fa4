"""The documents against the code: what exists is described, and what is described exists."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand
from airflow.sdk import BaseHook, BaseOperator
from fastapi.routing import APIRoute

from airflow_provider_timl import exceptions
from airflow_provider_timl.api.app import create_app
from airflow_provider_timl.cli.commands import get_cli_commands
from airflow_provider_timl.operators.task import TimlOperator
from airflow_provider_timl.provider_info import get_provider_info

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tests" / "data" / "README.md"])
INFO = get_provider_info()
#: Described once, above the tables of the commands.
COMMON_FLAGS = {"--conn-id", "--output", "--verbose", "--wait", "--timeout"}
SPECIFICATION_FLAGS = {"--version", "--instances", "--cpu", "--memory-mb", "--gpu", "--runtime", "--option"}


def read_rows(page: str) -> dict[str, list[str]]:
    """Further cells of each table row of a reference page, by the text of its first cell without backquotes."""
    rows = {}
    for line in (REFERENCE / page).read_text().splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows[first.replace("`", "")] = [cell.replace("`", "") for cell in others]
    return rows


def test_every_option_is_described_with_its_default_and_no_other() -> None:
    options = INFO["config"]["timl"]["options"]
    rows = read_rows("configuration.md")
    assert rows.keys() == options.keys()
    fixed = {name: option["default"] for name, option in options.items() if option["default"] is not None}
    assert {name: rows[name][0] for name in fixed} == fixed


def list_commands(commands: list[CLICommand], path: str) -> Iterator[tuple[str, ActionCommand]]:
    for command in commands:
        if isinstance(command, GroupCommand):
            yield from list_commands(list(command.subcommands), f"{path} {command.name}")
        else:
            yield f"{path} {command.name}", command


def describe_argument(argument: Arg) -> str:
    """As the page writes it: a flag, or the name of what stands there."""
    long = [flag for flag in argument.flags if flag.startswith("--")]
    return long[0] if long else str(argument.flags[0]).upper()


def test_every_command_is_described_with_its_arguments_and_no_other() -> None:
    commands = dict(list_commands(get_cli_commands(), "airflow"))
    rows = read_rows("commands.md")
    described = {re.match(r"(airflow [a-z -]*[a-z])(?= |$)", row)[1].strip(): row for row in rows}  # type: ignore[index]
    assert described.keys() == commands.keys()
    for name, command in commands.items():
        wanted = {describe_argument(argument) for argument in command.args} - COMMON_FLAGS
        if "[specification]" in described[name]:
            assert wanted >= SPECIFICATION_FLAGS
            wanted -= SPECIFICATION_FLAGS
        text = described[name].replace("VERSION=PERCENT", "TRAFFIC")
        assert not [each for each in wanted if each not in text], name


def list_public_classes(kind: type, base: type) -> list[type]:
    """Our public classes of the modules that the provider's metadata names, that are of that base."""
    key = "hooks" if kind is BaseHook else "operators"
    modules = [import_module(name) for group in INFO[key] for name in group["python-modules"]]
    found = [each for module in modules for each in vars(module).values() if inspect.isclass(each)]
    ours = [each for each in found if issubclass(each, base) and each.__module__ in {m.__name__ for m in modules}]
    return sorted({each for each in ours if not each.__name__.startswith("_")}, key=lambda each: each.__name__)


OPERATORS = list_public_classes(BaseOperator, TimlOperator)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda each: each.__name__)
def test_every_operator_is_described_with_its_parameters(operator: type) -> None:
    page = (REFERENCE / "operators.md").read_text()
    module = page[page.index(f"## `{operator.__module__}`") :].split("\n## ")[0]
    assert f"### `{operator.__name__}`" in module
    common = module.split("\n### ")[0]
    section = module[module.index(f"### `{operator.__name__}`") :].split("\n### ", 1)[0]
    for parameter, templated in list_parameters(operator).items():
        mark = r" \*t\*" if templated else r"(?! \*t\*)"
        assert re.search(f"`{parameter}`{mark}", common + section), parameter


def list_parameters(operator: type) -> dict[str, bool]:
    """Whether it is templated, by name; without those of every operator."""
    classes = [each for each in operator.__mro__ if issubclass(each, TimlOperator) and each is not TimlOperator]
    names = [name for each in classes for name in inspect.signature(each.__init__).parameters]  # type: ignore[misc]
    return {name: name in operator.template_fields for name in names if name not in {"self", "kwargs"}}  # type: ignore[attr-defined]


def test_no_operator_is_described_that_does_not_exist() -> None:
    headings = re.findall(r"^### `(\w+)`", (REFERENCE / "operators.md").read_text(), re.MULTILINE)
    assert sorted(headings) == [operator.__name__ for operator in OPERATORS]


@pytest.mark.parametrize("hook", list_public_classes(BaseHook, BaseHook), ids=lambda each: each.__name__)
def test_every_method_of_a_hook_is_described(hook: type) -> None:
    page = (REFERENCE / "hooks.md").read_text()
    section = page[page.index(f"## `{hook.__module__}.{hook.__name__}`") :].split("\n## ")[0]
    inherited = set(dir(BaseHook)) | {"get_conn", "test_connection", "get_client_type"}
    methods = [name for name in vars(hook) if not name.startswith("_") and inspect.isroutine(getattr(hook, name))]
    assert not [name for name in methods if name not in inherited and f"`{name}`" not in section]


def test_every_api_route_is_described_and_no_other() -> None:
    routes = {
        f"{method} {route.path.removeprefix('/api/v1').replace('{path:path}', '{path}')}"
        for route in create_app().routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods
    }
    assert read_rows("api.md").keys() == routes


def test_every_error_is_described_with_reason_status_and_retry() -> None:
    classes = [each for each in vars(exceptions).values() if inspect.isclass(each)]
    errors = [each for each in classes if issubclass(each, exceptions.TimlError)]
    expected = {each.__name__: [each.reason, str(each.status), "yes" if each.retryable else "no"] for each in errors}
    assert {name: cells[:3] for name, cells in read_rows("errors.md").items()} == expected


def test_readme_begins_with_the_two_commands_and_they_exist() -> None:
    block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    commands = [line.split()[0] for line in block[1].splitlines()]
    assert commands == ["script/demo", "script/test"]
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_links_of_a_document_lead_to_something(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text())
    assert not [target for target in targets if not (document.parent / target).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_paths_that_a_document_names_exist(document: Path) -> None:
    """Of modules, tests, scripts, DAGs: in backquotes, from the root or from the package. The demo makes ``.timl``."""
    named = re.findall(r"`((?!\.timl)(?:[\w.-]+/)+[\w.-]*\.(?:py|md|json|cfg|toml|yml))`", document.read_text())
    places = (ROOT, ROOT / "airflow_provider_timl", document.parent)
    assert not [path for path in named if not any((place / path).exists() for place in places)]


def list_cuttings() -> list[tuple[Path, str, str, str]]:
    """Document, source, name of the region, and the code that the document shows."""
    marked = re.compile(r"<!-- cut from (\S+): (\w+) -->\n```python\n(.*?)```", re.DOTALL)
    return [(document, *match.groups()) for document in DOCUMENTS for match in marked.finditer(document.read_text())]  # type: ignore[misc]


@pytest.mark.parametrize("cutting", list_cuttings(), ids=lambda each: f"{each[0].name}:{each[2]}")
def test_code_in_a_document_is_that_of_the_dag_that_runs(cutting: tuple[Path, str, str, str]) -> None:
    _, source, name, shown = cutting
    region = re.search(rf"# \[START {name}\]\n(.*?)^ *# \[END {name}\]", (ROOT / source).read_text(), re.DOTALL | re.M)
    assert region is not None
    assert shown == textwrap.dedent(region[1])
