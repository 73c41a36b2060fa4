"""``airflow timl services …``"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from airflow_provider_timl.cli.output import cli_command, print_entities, print_entity
from airflow_provider_timl.entities import Service
from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError
from airflow_provider_timl.hooks.timl import TimlHook

_VERSION_COLUMNS = ("version", "state", "ready_instances", "instances", "traffic_percent", "runtime", "reason")


@cli_command
def list_command(args: Namespace) -> None:
    columns = ("name", "model", "model_type", "state", "in_sync", "revision", "host")
    print_entities(args, TimlHook(args.conn_id).list_services(), columns)


@cli_command
def show_command(args: Namespace) -> None:
    _print_service(args, TimlHook(args.conn_id).get_service(args.service))


@cli_command
def deploy_command(args: Namespace) -> None:
    hook = TimlHook(args.conn_id)
    _print_service(
        args,
        hook.deploy_service(
            service_name=args.service, model_name=args.model, **_read_specification(args), **_read_wait(args)
        ),
    )


@cli_command
def add_version_command(args: Namespace) -> None:
    hook = TimlHook(args.conn_id)
    service = hook.add_version(service_name=args.service, **_read_specification(args), **_read_wait(args))
    _print_service(args, service)


@cli_command
def remove_version_command(args: Namespace) -> None:
    hook = TimlHook(args.conn_id)
    service = hook.remove_version(service_name=args.service, version=args.version, **_read_wait(args))
    _print_service(args, service)


@cli_command
def traffic_command(args: Namespace) -> None:
    hook = TimlHook(args.conn_id)
    traffic = dict(_parse_split(text) for text in args.traffic)
    _print_service(args, hook.shift_traffic(service_name=args.service, traffic=traffic, **_read_wait(args)))


@cli_command
def rollback_command(args: Namespace) -> None:
    hook = TimlHook(args.conn_id)
    revision = args.revision
    if revision is None:
        revisions = hook.list_revisions(args.service)
        if len(revisions) < 2:
            raise NotFoundError("revision", f"before the first of service {args.service}")
        revision = revisions[1].number
    _print_service(args, hook.rollback_service(service_name=args.service, revision=revision, **_read_wait(args)))


@cli_command
def revisions_command(args: Namespace) -> None:
    columns = ("number", "action", "created_by", "created_at")
    print_entities(args, TimlHook(args.conn_id).list_revisions(args.service), columns)


@cli_command
def test_command(args: Namespace) -> None:
    body = _read_body(args.body) if args.body else None
    answer = TimlHook(args.conn_id).test_service(service_name=args.service, body=body, version=args.version)
    print_entity(args, answer)
    if answer.status != 200:
        raise SystemExit(1)


@cli_command
def key_command(args: Namespace) -> None:
    print(TimlHook(args.conn_id).get_access_key(args.service, args.key))


@cli_command
def logs_command(args: Namespace) -> None:
    chunks = TimlHook(args.conn_id).get_logs(args.service, args.version)
    if args.output != "table":
        print_entities(args, chunks, ())
        return
    for chunk in chunks:
        print(f"==> {chunk.instance} <==\n{chunk.text}")


@cli_command
def delete_command(args: Namespace) -> None:
    TimlHook(args.conn_id).delete_service(service_name=args.service, wait=args.wait, timeout_seconds=args.timeout)
    print(f"service {args.service} is {'deleted' if args.wait else 'being deleted'}")


def _print_service(args: Namespace, service: Service) -> None:
    if args.output != "table":
        print_entity(args, service)
        return
    state = f"{service.state}{'' if service.in_sync else ' (not in sync)'}"
    print(f"{service.name}: {state}, model {service.model}, revision {service.revision}")
    print(f"gateway {service.gateway_url}, host {service.host}")
    print_entities(args, service.versions, _VERSION_COLUMNS)


def _read_specification(args: Namespace) -> dict[str, Any]:
    resources = {"cpu": args.cpu, "gpu": args.gpu}
    if args.memory_mb is not None:
        resources["memory_mb"] = args.memory_mb
    return {
        "version": args.version,
        "instances": args.instances,
        "runtime": args.runtime,
        "options": dict(map(_parse_option, args.option or ())),
        "resources": resources,
    }


def _read_wait(args: Namespace) -> dict[str, Any]:
    return {"wait": args.wait, "timeout_seconds": args.timeout}


def _read_body(path: str) -> dict[str, Any]:
    try:
        body = json.loads(Path(path).read_text())
    except (OSError, ValueError) as exc:
        raise InvalidInputError(f"{path} cannot be read as JSON: {exc}", field="--body") from exc
    if not isinstance(body, dict):
        raise InvalidInputError(f"{path} is not a JSON object", field="--body")
    return body


def _parse_option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as JSON where it is JSON, else as text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise InvalidInputError(f"{text!r} is not NAME=VALUE", field="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _parse_split(text: str) -> tuple[int, float]:
    version, _, percent = text.partition("=")
    try:
        return int(version), float(percent)
    except ValueError as exc:
        raise InvalidInputError(f"{text!r} is not VERSION=PERCENT", field="traffic") from exc
