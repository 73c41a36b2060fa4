"""A process that saves models, as API servers beside each other do, and that can be killed at a chosen moment.

Usage: ``python -m tests.servers.save_process SETTINGS_FILE MODEL_NAME MODEL_TYPE FOLDER COUNT PAUSE``. Prints the
versions that it made as a JSON list. PAUSE is ``-``, or where it prints ``paused`` and waits to be killed: ``uploaded``
(the files are written), ``inspecting`` (the commit has begun), ``deleting`` (a version is gone, its files are not).
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_timl.artifacts import ArtifactStore, FileArtifactStore, open_store, put_folder
from airflow_provider_timl.database.sessions import Database
from airflow_provider_timl.entities import InspectionReport
from airflow_provider_timl.repository.inspection import inspect_in_limited_process
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.services.registry import find_services_using
from airflow_provider_timl.settings import Settings

ACTOR = "saver"


def main() -> None:
    settings_file, name, model_type, folder, count, pause = sys.argv[1:]
    values: dict[str, Any] = json.loads(Path(settings_file).read_text())
    settings = Settings(**{**values, "data_dir": Path(values["data_dir"])})
    store: ArtifactStore = PausingStore() if pause == "deleting" else open_store(settings.artifact_store)
    inspect = pause_inspection if pause == "inspecting" else partial(inspect_in_limited_process, settings=settings)
    database = Database(settings.database_url)
    repository = ModelRepository(database, settings, store, inspect, find_services_using)

    def save(_: int) -> int:
        upload = repository.begin_upload(model_name=name, model_type=model_type, actor=ACTOR)
        files = put_folder(store, upload.uri, Path(folder))
        if pause == "uploaded":
            wait_to_be_killed()
        made = repository.commit_upload(
            upload_id=upload.id, model_name=name, model_type=model_type, files=files, actor=ACTOR
        )
        if pause == "deleting":
            repository.delete_version(name=name, version=made.version, actor=ACTOR)
        return made.version

    with ThreadPoolExecutor(int(count)) as pool:
        print(json.dumps(list(pool.map(save, range(int(count))))), flush=True)
    database.dispose()


def pause_inspection(folder: Path, model_type: str) -> InspectionReport:
    wait_to_be_killed()
    raise AssertionError("not killed")


class PausingStore(FileArtifactStore):
    def delete(self, uri: str) -> None:
        wait_to_be_killed()


def wait_to_be_killed() -> None:
    print("paused", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
