"""The controller as a process, with settings from a file: ``python -m tests.servers.controller_process FILE``."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from airflow_provider_timl.artifacts import fetch_artifact, open_store
from airflow_provider_timl.backends.local.backend import LocalBackend
from airflow_provider_timl.database.sessions import Database
from airflow_provider_timl.services.controller import Controller
from airflow_provider_timl.settings import Settings
from tests.servers.stack import build_repository


def main() -> None:
    values = json.loads(Path(sys.argv[1]).read_text())
    settings = Settings(**{**values, "data_dir": Path(values["data_dir"])})
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    store = open_store(settings.artifact_store)
    backend = LocalBackend(settings, partial(fetch_artifact, store))
    if "--stop-all" in sys.argv:
        backend.start()
        backend.shut_down()
        return
    database = Database(settings.database_url)
    controller = Controller(database, settings, backend, build_repository(settings, database))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    controller.run(stop)


if __name__ == "__main__":
    main()
