"""``airflow timl controller``, ``db upgrade`` and ``doctor``: for those who run the server side."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from airflow_provider_timl import config
from airflow_provider_timl.cli.output import cli_command, print_entities
from airflow_provider_timl.exceptions import TimlError
from airflow_provider_timl.settings import Settings

log = logging.getLogger("airflow_provider_timl.controller")


class Finding(BaseModel):
    """One thing that ``doctor`` looked at, and what to do when it is not in order."""

    check: str
    ok: bool
    detail: str


@cli_command
def controller_command(args: Namespace) -> None:
    """Runs until SIGTERM or Ctrl-C. Model servers and the gateway keep running, and are adopted by the next one."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = config.get_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _only_one(settings.data_dir / "controller.lock", stop) as is_ours:
        if is_ours and args.stop_all:
            backend = config.build_backend(settings)
            backend.start()
            backend.shut_down()
        elif is_ours:
            _run_controller(settings, stop)


def _run_controller(settings: Settings, stop: threading.Event) -> None:
    from airflow_provider_timl.database.migrate import upgrade_database
    from airflow_provider_timl.database.sessions import Database
    from airflow_provider_timl.services.controller import Controller

    upgrade_database(settings.database_url)
    database = Database(settings.database_url)
    repository = config.build_repository(settings, database)
    log.info("controller runs (pid %d), gateway at %s", os.getpid(), settings.gateway_url)
    Controller(database, settings, config.build_backend(settings), repository).run(stop)
    log.info("controller ended; services go on. `airflow timl controller --stop-all` ends them, too")


@contextmanager
def _only_one(path: Path, stop: threading.Event) -> Iterator[bool]:
    """Holds the lock of the controller; a second one stands by until the first has gone. False: told to stop before."""
    told = False
    with open(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+") as lock:
        while not stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    log.warning("another controller runs; standing by until it ends")
                told = True
                stop.wait(0.2)
            else:
                yield True
                return
        yield False


@cli_command
def upgrade_command(_: Namespace) -> None:
    from airflow_provider_timl.database.migrate import upgrade_database

    upgrade_database(config.get_settings().database_url)
    print("the database is at the newest version")


@cli_command
def doctor_command(args: Namespace) -> None:
    """Exit status 1 when something is not in order."""
    settings = config.get_settings()
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("envoy", _check_envoy),
        ("runtimes", _check_runtimes),
        ("encryption key", lambda: _check_encryption_key(settings)),
        ("database", lambda: _check_database(settings)),
        ("artifact store", lambda: _check_artifact_store(settings)),
        ("disk", lambda: _check_disk(settings)),
        ("gateway", lambda: _check_gateway(settings)),
        ("control plane", lambda: _check_control_plane(args.conn_id)),
    )
    findings = [_look(name, check) for name, check in checks]
    print_entities(args, findings, ("check", "ok", "detail"))
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def _look(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(check=name, ok=True, detail=check())
    except Exception as exc:  # whatever is wrong is what the doctor is there to tell
        return Finding(check=name, ok=False, detail=str(exc).splitlines()[0] if str(exc) else repr(exc))


def _check_envoy() -> str:
    from airflow_provider_timl.backends.local.gateway import find_envoy

    return str(find_envoy())


def _check_runtimes() -> str:
    from airflow_provider_timl.runtimes.contract import list_runtimes

    missing = {program.name: program.find_missing() for program in list_runtimes()}
    if not missing or all(missing.values()):
        raise TimlError("no runtime is installed; install `airflow-provider-timl[pmml]`")
    return ", ".join(f"{name} ({f'lacks {module}' if module else 'installed'})" for name, module in missing.items())


def _check_encryption_key(settings: Settings) -> str:
    from airflow_provider_timl.services.keys import KeyCipher

    KeyCipher(settings.encryption_key)
    return "usable"


def _check_database(settings: Settings) -> str:
    from airflow_provider_timl.database.migrate import find_missing_migrations

    if find_missing_migrations(settings.database_url):
        raise TimlError("not at the newest version; run `airflow timl db upgrade`")
    return "at the newest version"


def _check_artifact_store(settings: Settings) -> str:
    import io

    store = config.open_artifact_store(settings)
    uri = f"{settings.artifact_store.rstrip('/')}/doctor"
    store.put_file(uri, "probe", io.BytesIO(b"probe"))
    store.delete(uri)
    return f"{settings.artifact_store} can be written"


def _check_disk(settings: Settings) -> str:
    free_mb = shutil.disk_usage(settings.data_dir).free // 2**20
    if free_mb < 1024:
        raise TimlError(f"only {free_mb} MB are free below {settings.data_dir}")
    return f"{free_mb} MB free below {settings.data_dir}"


def _check_gateway(settings: Settings) -> str:
    import requests

    try:
        requests.get(settings.gateway_url, timeout=5)
    except requests.RequestException as exc:
        raise TimlError(f"{settings.gateway_url} does not answer; is `airflow timl controller` running?") from exc
    return f"{settings.gateway_url} answers"


def _check_control_plane(conn_id: str) -> str:
    from airflow_provider_timl.hooks.timl import TimlHook

    return f"logged in with {conn_id}; {len(TimlHook(conn_id).list_services())} service(s)"
