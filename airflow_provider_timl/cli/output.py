"""Printing and failing, the same for every command."""

from __future__ import annotations

import functools
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from airflow_provider_timl.exceptions import TimlError

Command = Callable[[Namespace], None]


def cli_command(function: Command) -> Command:
    """An error of ours is one line and exit status 1; ``--verbose`` shows where it came from."""

    @functools.wraps(function)
    def run(args: Namespace) -> None:
        # without it, connections of the metadata database are invisible outside of a task
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        try:
            function(args)
        except TimlError as exc:
            if getattr(args, "verbose", False):
                raise
            field = exc.details.get("field")
            print(f"error: {f'{field}: ' if field else ''}{exc.message}", file=sys.stderr)
            sys.exit(1)

    return run


def print_entities(args: Namespace, entities: Sequence[BaseModel], columns: Sequence[str]) -> None:
    """As the API's JSON or YAML, or as a table of some columns."""
    rows = [entity.model_dump(mode="json") for entity in entities]
    if args.output == "table":
        _print_table([{column: row[column] for column in columns} for row in rows])
    else:
        _print_data(args.output, rows)


def print_entity(args: Namespace, entity: BaseModel) -> None:
    """One thing, whole."""
    row = entity.model_dump(mode="json")
    if args.output == "table":
        _print_table([{"field": field, "value": _shorten(value)} for field, value in row.items()])
    else:
        _print_data(args.output, row)


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("nothing found")
        return
    lines = [list(rows[0]), *([_shorten(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_data(kind: str, data: Any) -> None:
    if kind == "yaml":
        import yaml

        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")
    else:
        print(json.dumps(data, indent=2, ensure_ascii=False))


def _shorten(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
