"""A whole platform without Airflow: database, repository, registry, and a controller process with its real backend.

The test process plays the API's part; the controller is a process of its own so that it can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
from cryptography.fernet import Fernet

from airflow_provider_timl.artifacts import open_store, put_folder
from airflow_provider_timl.backends.local.logs import LocalLogs
from airflow_provider_timl.database.migrate import upgrade_database
from airflow_provider_timl.database.sessions import Database
from airflow_provider_timl.entities import ModelVersion, Service
from airflow_provider_timl.exceptions import NotFoundError
from airflow_provider_timl.repository.inspection import inspect_in_limited_process
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.services.registry import ServiceRegistry, find_services_using
from airflow_provider_timl.settings import Settings
from airflow_provider_timl.states import ServiceState
from tests.waiting import wait_until

PREDICT_PATH = "/v1/models/m:predict"
ACTOR = "tester"
START_SECONDS = 60.0


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_repository(settings: Settings, database: Database) -> ModelRepository:
    return ModelRepository(
        database,
        settings,
        open_store(settings.artifact_store),
        partial(inspect_in_limited_process, settings=settings),
        find_services_using,
    )


class Stack:
    """:param root: an empty folder of the test; everything lives below it."""

    def __init__(self, root: Path, database_url: str | None = None) -> None:
        self.settings = Settings(
            data_dir=root / "data",
            database_url=database_url or f"sqlite:///{root / 'timl.db'}",
            artifact_store=f"file://{root / 'artifacts'}",
            encryption_key=Fernet.generate_key().decode(),
            gateway_port=find_free_port(),
            drain_timeout_seconds=10,
        )
        upgrade_database(self.settings.database_url)
        self.database = Database(self.settings.database_url)
        self.repository = build_repository(self.settings, self.database)
        self.registry = ServiceRegistry(self.database, self.repository, self.settings, LocalLogs(self.settings))
        self._settings_file = root / "settings.json"
        values = {**asdict(self.settings), "data_dir": str(self.settings.data_dir)}
        self._settings_file.touch(mode=0o600)
        self._settings_file.write_text(json.dumps(values))
        self._log = root / "controller.log"
        self._controller: subprocess.Popen[bytes] | None = None

    @property
    def controller_log(self) -> str:
        return self._log.read_text()

    def start_controller(self) -> None:
        command = [sys.executable, "-m", "tests.servers.controller_process", str(self._settings_file)]
        with self._log.open("ab") as log:
            self._controller = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill_controller(self) -> None:
        """As a power cut would: nothing of the controller's own is run any more."""
        assert self._controller is not None
        self._controller.send_signal(signal.SIGKILL)
        self._controller.wait()
        self._controller = None

    def stop(self) -> None:
        """End the controller, every instance and the gateway, and make sure that nothing is left."""
        if self._controller is not None:
            self._controller.send_signal(signal.SIGTERM)
            self._controller.wait(30)
        command = [sys.executable, "-m", "tests.servers.controller_process", str(self._settings_file), "--stop-all"]
        subprocess.run(command, check=True, timeout=60)
        self.database.dispose()
        wait_until(lambda: not self.list_processes(), timeout_seconds=10)

    def list_processes(self, *words: str) -> list[psutil.Process]:
        """Processes of this stack whose command line holds every word."""
        return list_processes(str(self.settings.data_dir), *words)

    def save_model(self, name: str, folder: Path, model_type: str = "pmml") -> ModelVersion:
        upload = self.repository.begin_upload(model_name=name, model_type=model_type, actor=ACTOR)
        files = put_folder(open_store(upload.uri), upload.uri, folder)
        return self.repository.commit_upload(
            upload_id=upload.id, model_name=name, model_type=model_type, files=files, actor=ACTOR
        )

    def wait_until_in_sync(self, name: str, timeout_seconds: float = START_SECONDS) -> Service:
        def check() -> Service | None:
            service = self.registry.get_service(name)
            if service.state is ServiceState.FAILED:
                raise self.registry.build_failure(name)
            return service if service.in_sync else None

        return wait_until(check, timeout_seconds=timeout_seconds)

    def wait_until_deleted(self, name: str) -> None:
        def is_deleted() -> bool:
            try:
                self.registry.get_service(name)
            except NotFoundError:
                return True
            return False

        wait_until(is_deleted, timeout_seconds=START_SECONDS)

    def get_secret(self, name: str) -> str:
        return self.registry.get_key_secret(name, self.registry.list_keys(name)[0].id).secret

    def build_headers(self, name: str, version: int | None = None) -> dict[str, str]:
        headers = {"Host": self.registry.get_service(name).host, "Authorization": self.get_secret(name)}
        return {**headers, "X-TIML-Version": str(version)} if version else headers

    def predict(
        self, name: str, body: Any, version: int | None = None, *, path: str = PREDICT_PATH
    ) -> tuple[int, dict[str, Any], str | None]:
        """Status, body and the version that answered."""
        return post(self.settings.gateway_port, self.build_headers(name, version), body, path=path)


def post(
    port: int, headers: dict[str, str], body: Any, *, path: str = PREDICT_PATH
) -> tuple[int, dict[str, Any], str | None]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        content = {"Content-Type": "application/json", **headers}
        connection.request("POST", path, json.dumps(body), content)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.getheader("X-TIML-Served-By")
    finally:
        connection.close()


def list_processes(*words: str) -> list[psutil.Process]:
    """Living processes whose command line holds every word."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and all(word in line for word in words):
            found.append(process)
    return found


def is_answering(predict: Callable[[], tuple[int, Any, Any]]) -> bool:
    """Whether a request is answered with 200; a refused connection is a no."""
    try:
        return predict()[0] == 200
    except OSError:
        return False
