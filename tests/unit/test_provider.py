"""How Airflow gets to know the provider: metadata, plugin, entry points, and what they may not import."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_provider_timl.cli.commands import get_cli_commands
from airflow_provider_timl.provider_info import get_provider_info

ROOT = Path(__file__).parents[2]
INFO = get_provider_info()


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_metadata_follows_airflows_schema() -> None:
    schema = json.loads(Path(airflow.__file__).with_name("provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


def test_everything_that_the_metadata_names_exists() -> None:
    paths = [kind["hook-class-name"] for kind in INFO["connection-types"]] + INFO["extra-links"] + INFO["cli"]
    for path in paths:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    for part in ("hooks", "operators", "triggers"):
        for module in INFO[part][0]["python-modules"]:
            importlib.import_module(module)


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("airflow_provider_timl.provider_info", ["airflow", "pydantic", "fastapi", "sqlalchemy"]),
        (
            "airflow_provider_timl.plugin",
            ["fastapi", "airflow_provider_timl.api.app", "airflow_provider_timl.entities"],
        ),
        ("airflow_provider_timl.cli.commands", ["pydantic", "airflow_provider_timl.hooks.timl", "fastapi"]),
        ("airflow_provider_timl.operators.services", ["jpype", "fastapi", "airflow_provider_timl.database"]),
        ("airflow_provider_timl.runtimes.server", ["airflow", "sqlalchemy", "boto3"]),
        ("airflow_provider_timl.batch.score", ["airflow", "sqlalchemy", "boto3"]),
        ("airflow_provider_timl.services.controller", ["airflow"]),
    ],
)
def test_import_brings_in_nothing_heavy(module: str, banned: list[str]) -> None:
    already = "import airflow.plugins_manager, airflow.cli.cli_config;" if "airflow" not in banned else ""
    code = (
        f"import sys; {already} before = set(sys.modules); import {module};"
        f"print([name for name in {banned!r} if name in set(sys.modules) - before])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_plugin_is_registered_once_by_its_entry_point_and_not_again_by_the_folder() -> None:
    assert [point.value for point in entry_points(group="airflow.plugins", name="timl")] == [
        "airflow_provider_timl.plugin:TimlPlugin"
    ]
    code = "import runpy; print('TimlPlugin' in runpy.run_path('plugins/timl_plugin.py'))"
    assert run_python(code).splitlines()[-1] == "False"


def test_folder_registers_the_plugin_where_the_package_does_not() -> None:
    code = (
        "import importlib.metadata as m, runpy; m.entry_points = lambda **_: ();"
        "print('TimlPlugin' in runpy.run_path('plugins/timl_plugin.py'))"
    )
    assert run_python(code).splitlines()[-1] == "True"


def test_every_command_leads_to_a_function() -> None:
    def walk(commands: object) -> int:
        count = 0
        for command in commands:  # type: ignore[attr-defined]
            if hasattr(command, "subcommands"):
                count += walk(command.subcommands)
            else:
                assert callable(command.func)
                count += 1
        return count

    assert walk(get_cli_commands()) > 20
