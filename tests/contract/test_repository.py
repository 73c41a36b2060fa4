"""The model repository on SQLite and on PostgreSQL. Models are inspected by structure, which takes no time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_provider_timl.artifacts import FileArtifactStore, list_folder, put_folder
from airflow_provider_timl.database.migrate import upgrade_database
from airflow_provider_timl.database.sessions import Database
from airflow_provider_timl.database.tables import EventRow, UploadRow, utc_now
from airflow_provider_timl.entities import FileDigest, InspectionReport, Lineage, ModelVersion
from airflow_provider_timl.exceptions import (
    ConflictError,
    ExternalSystemError,
    InvalidInputError,
    InvalidModelError,
    NotFoundError,
    TooLargeError,
)
from airflow_provider_timl.repository.inspect_child import inspect_folder
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.settings import Settings
from airflow_provider_timl.states import ModelSource
from tests.models import copy_angel_model, write_saved_model

ACTOR = "ann"
TASK = Lineage(dag_id="train", run_id="manual__1", task_id="save", map_index=3)
LATER = timedelta(days=2)


def inspect_here(folder: Path, model_type: str) -> InspectionReport:
    return inspect_folder(folder, model_type, memory_mb=512)


@dataclass
class Saving:
    """A repository with a folder store, and how the tests save into it."""

    root: Path
    settings: Settings
    database: Database
    users: list[str] = field(default_factory=list)
    store: FileArtifactStore = field(default_factory=FileArtifactStore)
    inspect: Callable[[Path, str], InspectionReport] = inspect_here

    @property
    def repository(self) -> ModelRepository:
        def find_users(session: Session, model: str, version: int) -> list[str]:
            return self.users

        return ModelRepository(self.database, self.settings, self.store, self.inspect, find_users)

    def write_model(self, graph: bytes = b"graph") -> Path:
        folder = self.root / "models" / graph.hex()
        return folder if folder.exists() else write_saved_model(folder, graph)

    def upload(self, name: str = "flowers", graph: bytes = b"graph") -> tuple[str, list[FileDigest]]:
        upload = self.repository.begin_upload(model_name=name, model_type="tensorflow", actor=ACTOR)
        return upload.id, put_folder(self.store, upload.uri, self.write_model(graph))

    def commit(self, upload: str, files: list[FileDigest], name: str = "flowers", **options: object) -> ModelVersion:
        return self.repository.commit_upload(
            upload_id=upload,
            model_name=name,
            model_type="tensorflow",
            files=files,
            actor=ACTOR,
            **options,  # type: ignore[arg-type]
        )

    def save(self, name: str = "flowers", graph: bytes = b"graph", **options: object) -> ModelVersion:
        return self.commit(*self.upload(name, graph), name=name, **options)

    def list_artifacts(self) -> set[str]:
        """Folders of the store that hold files."""
        found = list_folder(self.root / "artifacts")
        return {path.split("/")[2] for path in found}

    def list_uploads(self) -> list[str]:
        with self.database.read() as session:
            return list(session.scalars(select(UploadRow.id)))

    def list_actions(self) -> list[str]:
        with self.database.read() as session:
            return list(session.scalars(select(EventRow.action).order_by(EventRow.id)))


@pytest.fixture
def saving(empty_database_url: str, tmp_path: Path) -> Iterator[Saving]:
    upgrade_database(empty_database_url)
    database = Database(empty_database_url)
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=empty_database_url,
        artifact_store=(tmp_path / "artifacts").as_uri(),
        encryption_key="",
        max_model_bytes=100_000,
    )
    yield Saving(tmp_path, settings, database)
    database.dispose()


# --- saving


def test_saved_version_says_everything_about_itself(saving: Saving) -> None:
    made = saving.save(metrics={"auc": 0.9}, tags={"team": "a"}, aliases=["champion", "canary"], lineage=TASK)
    assert (made.version, made.source, made.created_by, made.lineage) == (1, ModelSource.SAVED, ACTOR, TASK)
    assert made.aliases == ["canary", "champion"]
    assert made.inspection == InspectionReport(
        model_type="tensorflow", checks=["structure"], framework={"tensorflow": "SavedModel"}
    )
    assert [file.path for file in made.files] == [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert saving.repository.get_version(name="flowers", version=1) == made
    assert saving.repository.resolve_version(name="flowers", alias="canary") == made
    assert saving.list_uploads() == []
    assert saving.list_actions() == ["save_version"]


def test_versions_count_up_and_are_listed_newest_first(saving: Saving) -> None:
    for graph in (b"a", b"b", b"c"):
        saving.save(graph=graph)
    saving.save("trees")
    model = saving.repository.get_model("flowers")
    assert [version.version for version in model.versions] == [3, 2, 1]
    assert model.latest_version == 3
    models, total = saving.repository.list_models(limit=1, offset=1)
    assert ([model.name for model in models], total) == (["trees"], 2)


def test_commit_repeated_after_a_lost_answer_returns_the_version_that_it_made(saving: Saving) -> None:
    upload, files = saving.upload()
    made = saving.commit(upload, files)
    assert saving.commit(upload, files) == made
    assert saving.list_artifacts() == {upload}


def test_retried_task_returns_the_version_that_it_made_and_leaves_no_second_copy(saving: Saving) -> None:
    made = saving.save(lineage=TASK)
    assert saving.save(lineage=TASK) == made
    assert saving.list_uploads() == []
    assert saving.list_artifacts() == {made.uri.rpartition("/")[2]}


@pytest.mark.parametrize(
    "other", [{"dag_id": "x"}, {"run_id": "x"}, {"task_id": "x"}, {"map_index": 4}], ids=lambda value: next(iter(value))
)
def test_another_task_instance_makes_another_version(saving: Saving, other: dict[str, object]) -> None:
    saving.save(lineage=TASK)
    assert saving.save(lineage=TASK.model_copy(update=other)).version == 2


def test_retried_task_with_other_content_makes_another_version(saving: Saving) -> None:
    saving.save(lineage=TASK)
    assert saving.save(lineage=TASK, graph=b"other").version == 2


def test_concurrent_commits_of_one_upload_make_one_version(saving: Saving) -> None:
    upload, files = saving.upload()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: saving.commit(upload, files), range(8)))
    assert {version.version for version in made} == {1}
    assert saving.list_artifacts() == {upload}
    assert saving.repository.get_model("flowers").latest_version == 1


def test_concurrent_retries_of_one_task_make_one_version(saving: Saving) -> None:
    uploads = [saving.upload() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda upload: saving.commit(*upload, lineage=TASK), uploads))
    assert {version.version for version in made} == {1}
    assert saving.list_uploads() == []
    assert saving.list_artifacts() == {made[0].uri.rpartition("/")[2]}


# --- refusals register nothing


def assert_nothing_registered(saving: Saving) -> None:
    with pytest.raises(NotFoundError):
        saving.repository.get_model("flowers")
    assert saving.save().version == 1


def test_wrong_digest_registers_nothing(saving: Saving) -> None:
    upload, files = saving.upload()
    changed = files[0].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(InvalidInputError, match=r"saved_model\.pb"):
        saving.commit(upload, [changed, *files[1:]])
    assert_nothing_registered(saving)


def test_extra_or_missing_file_registers_nothing_and_can_be_mended(saving: Saving) -> None:
    upload, files = saving.upload()
    with pytest.raises(InvalidInputError, match=r"variables\.index"):
        saving.commit(upload, files[:-1])
    with pytest.raises(InvalidInputError, match="assets/words"):
        saving.commit(upload, [*files, files[0].model_copy(update={"path": "assets/words"})])
    assert saving.commit(upload, files).version == 1


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd"])
def test_path_outside_registers_nothing(saving: Saving, path: str) -> None:
    upload, files = saving.upload()
    with pytest.raises(InvalidInputError, match="passwd"):
        saving.commit(upload, [files[0].model_copy(update={"path": path})])
    assert_nothing_registered(saving)


def test_model_that_inspection_refuses_registers_nothing(saving: Saving) -> None:
    (saving.write_model() / "saved_model.pb").write_bytes(b"no protocol buffer")
    with pytest.raises(InvalidModelError, match=r"saved_model\.pb"):
        saving.save()
    (saving.write_model() / "saved_model.pb").write_bytes(b"\x12\x00")
    assert_nothing_registered(saving)


def test_model_over_the_limit_is_refused_unread(saving: Saving) -> None:
    upload, files = saving.upload()
    with pytest.raises(TooLargeError):
        saving.commit(upload, [files[0].model_copy(update={"size_bytes": 100_001})])
    assert_nothing_registered(saving)


def test_metric_that_is_no_number_registers_nothing(saving: Saving) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(InvalidInputError) as refused:
            saving.save(metrics={"auc": value})
        assert refused.value.details == {"field": "metrics.auc"}
    assert_nothing_registered(saving)


@pytest.mark.parametrize("name", ["", "Iris", "../iris", "a b", "-a", "a" * 64, "a/b", "a\n"])
def test_name_that_is_none_is_refused(saving: Saving, name: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        saving.repository.begin_upload(model_name=name, model_type="pmml", actor=ACTOR)
    assert refused.value.details == {"field": "model_name"}


def test_alias_that_is_none_is_refused(saving: Saving) -> None:
    saving.save()
    for alias in ("", "1", "Champion", "a/b"):
        with pytest.raises(InvalidInputError):
            saving.save(aliases=[alias])
        with pytest.raises(InvalidInputError):
            saving.repository.set_alias(name="flowers", alias=alias, version=1, actor=ACTOR)


def test_type_of_a_model_never_changes(saving: Saving) -> None:
    saving.save()
    repository = saving.repository
    with pytest.raises(InvalidInputError, match="tensorflow"):
        repository.begin_upload(model_name="flowers", model_type="angel", actor=ACTOR)
    with pytest.raises(InvalidInputError, match="unknown model type"):
        repository.begin_upload(model_name="flowers", model_type="pickle", actor=ACTOR)


def test_type_is_checked_again_when_two_first_saves_meet(saving: Saving) -> None:
    angel = saving.repository.begin_upload(model_name="flowers", model_type="angel", actor=ACTOR)
    files = put_folder(saving.store, angel.uri, copy_angel_model(saving.root / "angel"))
    saving.save()
    with pytest.raises(InvalidInputError, match="tensorflow"):
        saving.repository.commit_upload(
            upload_id=angel.id, model_name="flowers", model_type="angel", files=files, actor=ACTOR
        )
    assert saving.repository.get_model("flowers").latest_version == 1


def test_upload_belongs_to_its_model(saving: Saving) -> None:
    upload, files = saving.upload()
    with pytest.raises(NotFoundError):
        saving.commit(upload, files, name="trees")
    with pytest.raises(NotFoundError):
        saving.commit("0" * 32, files)


# --- finding


def test_latest_is_the_highest_version_that_exists_and_numbers_are_not_used_again(saving: Saving) -> None:
    for graph in (b"a", b"b", b"c"):
        saving.save(graph=graph)
    saving.repository.delete_version(name="flowers", version=3, actor=ACTOR)
    assert saving.repository.resolve_version(name="flowers").version == 2
    assert saving.save(graph=b"d").version == 4


def test_what_is_not_there_is_named(saving: Saving) -> None:
    repository = saving.repository
    saving.save()
    for found, kind in (
        (lambda: repository.get_model("trees"), "model"),
        (lambda: repository.resolve_version(name="trees"), "model"),
        (lambda: repository.get_version(name="flowers", version=2), "version"),
        (lambda: repository.resolve_version(name="flowers", version=0), "version"),
        (lambda: repository.resolve_version(name="flowers", alias="champion"), "alias"),
        (lambda: repository.delete_alias(name="flowers", alias="champion", actor=ACTOR), "alias"),
    ):
        with pytest.raises(NotFoundError) as absent:
            found()
        assert absent.value.details["kind"] == kind
    with pytest.raises(InvalidInputError):
        repository.resolve_version(name="flowers", version=1, alias="champion")


def test_alias_moves_and_goes(saving: Saving) -> None:
    repository = saving.repository
    saving.save(graph=b"a", aliases=["champion"])
    saving.save(graph=b"b")
    assert repository.set_alias(name="flowers", alias="champion", version=2, actor=ACTOR).aliases == ["champion"]
    assert repository.get_model("flowers").aliases == {"champion": 2}
    assert repository.get_version(name="flowers", version=1).aliases == []
    repository.delete_alias(name="flowers", alias="champion", actor=ACTOR)
    assert repository.get_model("flowers").aliases == {}
    with pytest.raises(NotFoundError):
        repository.set_alias(name="flowers", alias="champion", version=9, actor=ACTOR)
    assert saving.list_actions() == ["save_version", "save_version", "set_alias", "delete_alias"]


def test_concurrent_moves_of_an_alias_leave_it_at_one_version(saving: Saving) -> None:
    for graph in (b"a", b"b"):
        saving.save(graph=graph)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda turn: saving.repository.set_alias(
                    name="flowers", alias="champion", version=turn % 2 + 1, actor=ACTOR
                ),
                range(16),
            )
        )
    assert saving.repository.resolve_version(name="flowers", alias="champion").version in {1, 2}


def test_tags_and_metrics_are_replaced_only_when_given(saving: Saving) -> None:
    saving.save(tags={"team": "a"}, metrics={"auc": 0.9})
    changed = saving.repository.update_version(name="flowers", version=1, actor=ACTOR, tags={"stage": "live"})
    assert (changed.tags, changed.metrics) == ({"stage": "live"}, {"auc": 0.9})
    changed = saving.repository.update_version(name="flowers", version=1, actor=ACTOR, metrics={})
    assert (changed.tags, changed.metrics) == ({"stage": "live"}, {})
    with pytest.raises(InvalidInputError):
        saving.repository.update_version(name="flowers", version=1, actor=ACTOR, metrics={"auc": float("nan")})


# --- deleting and collecting


def test_deleted_version_takes_its_files_along(saving: Saving) -> None:
    saving.save(graph=b"a")
    kept = saving.save(graph=b"b")
    saving.repository.delete_version(name="flowers", version=1, actor=ACTOR)
    assert saving.list_artifacts() == {kept.uri.rpartition("/")[2]}
    assert saving.list_uploads() == []
    with pytest.raises(NotFoundError):
        saving.repository.delete_version(name="flowers", version=1, actor=ACTOR)


def test_version_in_use_is_not_deleted_and_the_users_are_named(saving: Saving) -> None:
    saving.save(aliases=["champion"])
    saving.users += ["shop", "mail"]
    with pytest.raises(ConflictError, match="shop, mail"):
        saving.repository.delete_version(name="flowers", version=1, actor=ACTOR)
    saving.users.clear()
    with pytest.raises(ConflictError, match="champion"):
        saving.repository.delete_version(name="flowers", version=1, actor=ACTOR)
    saving.repository.delete_alias(name="flowers", alias="champion", actor=ACTOR)
    saving.repository.delete_version(name="flowers", version=1, actor=ACTOR)


def test_files_of_a_deleted_version_are_collected_later_when_the_store_is_away(saving: Saving) -> None:
    class AwayStore(FileArtifactStore):
        def delete(self, uri: str) -> None:
            raise ExternalSystemError("the store is away")

    saving.save()
    saving.store = AwayStore()
    saving.repository.delete_version(name="flowers", version=1, actor=ACTOR)
    assert len(saving.list_artifacts()) == 1
    assert saving.repository.collect_uploads(utc_now() + LATER) == 0
    saving.store = FileArtifactStore()
    assert saving.repository.collect_uploads(utc_now() + LATER) == 1
    assert saving.list_artifacts() == set()


def test_collector_takes_old_uploads_and_never_a_version(saving: Saving) -> None:
    made = saving.save()
    old, files = saving.upload()
    assert saving.repository.collect_uploads(utc_now()) == 0
    assert saving.repository.collect_uploads(utc_now() + LATER) == 1
    assert saving.list_artifacts() == {made.uri.rpartition("/")[2]}
    with pytest.raises(NotFoundError):
        saving.commit(old, files)


def test_upload_that_is_collected_while_it_is_inspected_makes_no_version(saving: Saving) -> None:
    """Otherwise there would be a version without files."""

    def collect_first(folder: Path, model_type: str) -> InspectionReport:
        report = inspect_here(folder, model_type)
        assert saving.repository.collect_uploads(utc_now() + LATER) == 1
        return report

    upload, files = saving.upload()
    saving.inspect = collect_first
    with pytest.raises(NotFoundError, match=upload):
        saving.commit(upload, files)
    saving.inspect = inspect_here
    assert_nothing_registered(saving)


def test_upload_whose_files_are_being_deleted_makes_no_version(saving: Saving) -> None:
    upload, files = saving.upload()

    class LateStore(FileArtifactStore):
        """A commit comes after the collector has chosen the upload, and before its files are gone."""

        def delete(self, uri: str) -> None:
            with pytest.raises(NotFoundError, match=upload):
                saving.commit(upload, files)
            super().delete(uri)

    saving.store = LateStore()
    assert saving.repository.collect_uploads(utc_now() + LATER) == 1
    saving.store = FileArtifactStore()
    assert_nothing_registered(saving)


# --- other processes


def start_saver(saving: Saving, count: int = 1, pause: str = "-", model: Path | None = None) -> subprocess.Popen[str]:
    settings_file = saving.root / "settings.json"
    settings_file.touch(mode=0o600)
    settings_file.write_text(json.dumps({**asdict(saving.settings), "data_dir": str(saving.settings.data_dir)}))
    folder = str(model or saving.write_model())
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.servers.save_process",
            *(str(settings_file), "flowers", "tensorflow", folder, str(count), pause),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_when_paused(process: subprocess.Popen[str]) -> None:
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "paused\n"
        process.kill()


@pytest.mark.parametrize("moment", ["uploaded", "inspecting"])
def test_save_that_is_killed_leaves_no_version_no_number_and_is_collected(saving: Saving, moment: str) -> None:
    kill_when_paused(start_saver(saving, pause=moment))
    assert len(saving.list_artifacts()) == 1
    assert_nothing_registered(saving)
    assert saving.repository.collect_uploads(utc_now() + LATER) == 1
    assert len(saving.list_artifacts()) == 1
    assert saving.repository.get_version(name="flowers", version=1).version == 1


def test_deletion_that_is_killed_is_finished_by_the_collector(saving: Saving) -> None:
    kill_when_paused(start_saver(saving, pause="deleting"))
    with pytest.raises(NotFoundError):
        saving.repository.get_version(name="flowers", version=1)
    assert len(saving.list_artifacts()) == 1
    assert saving.repository.collect_uploads(utc_now() + LATER) == 1
    assert saving.list_artifacts() == set()


def test_50_concurrent_saves_from_5_processes_get_50_consecutive_versions(saving: Saving) -> None:
    savers = [start_saver(saving, count=10) for _ in range(5)]
    versions: list[int] = []
    for saver in savers:
        output, _ = saver.communicate(timeout=240)
        assert saver.returncode == 0
        versions += json.loads(output)
    assert sorted(versions) == list(range(1, 51))
    model = saving.repository.get_model("flowers")
    assert [version.version for version in model.versions] == list(range(50, 0, -1))
    assert len({version.uri for version in model.versions}) == 50
    assert len(saving.list_artifacts()) == 50
    assert saving.list_actions() == ["save_version"] * 50
