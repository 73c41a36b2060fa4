"""``airflow timl models …``"""

from __future__ import annotations

from argparse import Namespace

from airflow_provider_timl.cli.output import cli_command, print_entities, print_entity
from airflow_provider_timl.hooks.timl import TimlHook

_VERSION_COLUMNS = ("model", "version", "model_type", "source", "aliases", "created_at", "created_by")


@cli_command
def save_command(args: Namespace) -> None:
    hook = TimlHook(args.conn_id)
    version = hook.save_model(model_name=args.name, model_type=args.model_type, path=args.path, aliases=args.alias)
    print_entities(args, [version], _VERSION_COLUMNS)


@cli_command
def import_command(args: Namespace) -> None:
    hook = TimlHook(args.conn_id)
    version = hook.import_model(
        model_name=args.name, model_type=args.model_type, cos_path=args.cos_path, aliases=args.alias
    )
    print_entities(args, [version], _VERSION_COLUMNS)


@cli_command
def list_command(args: Namespace) -> None:
    columns = ("name", "model_type", "latest_version", "aliases", "created_at", "created_by")
    print_entities(args, TimlHook(args.conn_id).list_models(), columns)


@cli_command
def show_command(args: Namespace) -> None:
    model = TimlHook(args.conn_id).get_model(args.name)
    if args.output == "table":
        print_entities(args, model.versions, _VERSION_COLUMNS)
    else:
        print_entity(args, model)


@cli_command
def alias_command(args: Namespace) -> None:
    version = TimlHook(args.conn_id).set_alias(args.name, args.alias, args.version)
    print_entities(args, [version], _VERSION_COLUMNS)


@cli_command
def delete_command(args: Namespace) -> None:
    TimlHook(args.conn_id).delete_model_version(args.name, args.version)
    print(f"version {args.version} of {args.name} is deleted")
