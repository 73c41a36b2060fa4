"""The model repository as the API sees it. Thread-safe; starts nothing but the inspection it waits for.

A version is a row. Files are written below a fresh URI before it (``begin_upload``), checked and inspected, and are the
version's own from the moment the row is committed; nothing is moved. So a save that is killed leaves at most an upload
without a version, which ``collect_uploads`` removes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from airflow_provider_timl.artifacts import ArtifactStore, compute_artifact_digest, fetch_artifact, put_folder
from airflow_provider_timl.cos_paths import parse_cos_path
from airflow_provider_timl.database.sessions import Database, record_event
from airflow_provider_timl.database.tables import AliasRow, ModelRow, ModelVersionRow, UploadRow
from airflow_provider_timl.entities import (
    FileDigest,
    InspectionReport,
    Lineage,
    Model,
    ModelDetail,
    ModelVersion,
    Upload,
)
from airflow_provider_timl.exceptions import (
    ConflictError,
    ExternalSystemError,
    InvalidInputError,
    NotFoundError,
    TimlError,
)
from airflow_provider_timl.repository import checks, rows
from airflow_provider_timl.repository.imports import download_model
from airflow_provider_timl.settings import Settings
from airflow_provider_timl.states import ModelSource

log = logging.getLogger(__name__)

Inspect = Callable[[Path, str], InspectionReport]
FindUsers = Callable[[Session, str, int], list[str]]


class ModelRepository:
    """:param inspect: inspects the model in a folder; raises ``InvalidModelError`` to refuse it.
    :param find_users: names of the services that use a version; they keep it from being deleted.
    """

    def __init__(
        self, database: Database, settings: Settings, store: ArtifactStore, inspect: Inspect, find_users: FindUsers
    ) -> None:
        self._database = database
        self._settings = settings
        self._store = store
        self._inspect = inspect
        self._find_users = find_users

    def begin_upload(self, *, model_name: str, model_type: str, actor: str) -> Upload:
        """A fresh place for the files of a new version.

        :raises InvalidInputError: unknown type, or another one than the model has.
        """
        checks.check_model_name(model_name)
        checks.check_type_name(model_type)
        upload_id = uuid4().hex
        uri = f"{self._settings.artifact_store.rstrip('/')}/models/{model_name}/{upload_id}"
        with self._database.write() as session:
            checks.check_type_of(session.get(ModelRow, model_name), model_type)
            session.add(UploadRow(id=upload_id, model=model_name, uri=uri, created_by=actor))
        return Upload(id=upload_id, uri=uri, conn_id=self._settings.artifact_conn_id)

    def commit_upload(
        self,
        *,
        upload_id: str,
        model_name: str,
        model_type: str,
        files: Sequence[FileDigest],
        actor: str,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        aliases: Sequence[str] = (),
        lineage: Lineage | None = None,
        source_uri: str | None = None,
        source: ModelSource = ModelSource.SAVED,
    ) -> ModelVersion:
        """Verify and inspect what was uploaded, and make it the next version. Idempotent: a repeated commit of the same
        upload, or of the same content by the same task instance, answers the version that is there.

        Blocking: reads every byte, and inspects for about a second (longer while others are inspected).

        :raises InvalidInputError: files are not what their digests say.
        :raises InvalidModelError: inspection refused the model; there is no version.
        :raises NotFoundError: no such upload, or it was collected because it was not committed in time.
        """
        checks.check_type_name(model_type)
        checks.check_files(files, self._settings.max_model_bytes)
        checks.check_metrics(metrics or {})
        checks.check_aliases(aliases)
        digest = compute_artifact_digest(files)
        key = _build_idempotency_key(upload_id, lineage, digest)
        uri = self._find_upload_uri(upload_id, model_name)
        existing = self._find_by_key(model_name, key)
        if existing is not None:
            return self._answer_existing(existing, uri)
        if uri is None:
            raise NotFoundError("upload", f"{upload_id} of model {model_name}")
        report = self._inspect_upload(uri, model_type, files)
        row = ModelVersionRow(
            model=model_name,
            model_type=model_type,
            uri=uri,
            digest=digest,
            files=[file.model_dump() for file in files],
            inspection=report.model_dump(mode="json"),
            metrics=dict(metrics or {}),
            tags=dict(tags or {}),
            source=source.value,
            source_uri=source_uri,
            lineage=lineage.model_dump() if lineage else None,
            idempotency_key=key,
            created_by=actor,
        )
        try:
            with self._database.write() as session:
                rows.insert_version(session, row, upload_id, aliases)
                return rows.to_model_version(row, rows.list_aliases(session, model_name))
        except IntegrityError:  # the same commit was made by someone faster
            existing = self._find_by_key(model_name, key)
            if existing is None:
                raise
            return self._answer_existing(existing, uri)

    def import_model(
        self,
        *,
        model_name: str,
        model_type: str,
        source_uri: str,
        s3_client: Any,
        actor: str,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        aliases: Sequence[str] = (),
        lineage: Lineage | None = None,
    ) -> ModelVersion:
        """Copy a model from COS, unpack it, and make it the next version of a model. Idempotent like a commit.

        :param source_uri: a file, a prefix, or an archive (``.zip``, ``.tar.gz``); see ``cos_paths``.
        :raises NotFoundError: nothing is at ``source_uri``.
        :raises ExternalSystemError: COS refused or did not answer; says what to check.
        """
        path = parse_cos_path(source_uri)
        checks.check_metrics(metrics or {})
        checks.check_aliases(aliases)
        upload = self.begin_upload(model_name=model_name, model_type=model_type, actor=actor)
        try:
            with tempfile.TemporaryDirectory(prefix="timl-import-") as folder:
                model_folder = download_model(s3_client, path, Path(folder), self._settings)
                files = put_folder(self._store, upload.uri, model_folder)
            return self.commit_upload(
                upload_id=upload.id,
                model_name=model_name,
                model_type=model_type,
                files=files,
                actor=actor,
                metrics=metrics,
                tags=tags,
                aliases=aliases,
                lineage=lineage,
                source=ModelSource.IMPORTED,
                source_uri=str(path),
            )
        except TimlError:
            self._discard(upload.uri)  # nobody else knows of it
            raise

    def get_model(self, name: str) -> ModelDetail:
        with self._database.read() as session:
            return rows.to_model_detail(session, rows.get_model_row(session, name))

    def list_models(self, limit: int, offset: int) -> tuple[list[Model], int]:
        """Models by name, and how many there are."""
        with self._database.read() as session:
            query = select(ModelRow).order_by(ModelRow.name).limit(limit).offset(offset)
            models = rows.to_models(session, session.scalars(query).all())
            return models, session.scalar(select(func.count()).select_from(ModelRow)) or 0

    def get_version(self, *, name: str, version: int) -> ModelVersion:
        with self._database.read() as session:
            return _answer(session, rows.get_version_row(session, name, version))

    def resolve_version(self, *, name: str, version: int | None = None, alias: str | None = None) -> ModelVersion:
        """The version of that number, or that the alias points to, or else the latest.

        :raises NotFoundError: there is none.
        """
        if version is not None and alias is not None:
            raise InvalidInputError("give either a version or an alias", field="alias")
        with self._database.read() as session:
            rows.get_model_row(session, name)
            if alias is not None:
                version = rows.list_aliases(session, name).get(alias)
                if version is None:
                    raise NotFoundError("alias", f"{alias} of model {name}")
            elif version is None:
                version = rows.find_latest_version(session, name)
                if version is None:
                    raise NotFoundError("version", f"of model {name}")
            return _answer(session, rows.get_version_row(session, name, version))

    def update_version(
        self,
        *,
        name: str,
        version: int,
        actor: str,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> ModelVersion:
        """Replace the tags or the metrics; ``None`` leaves them."""
        checks.check_metrics(metrics or {})
        with self._database.write() as session:
            row = rows.get_version_row(session, name, version)
            row.tags = dict(tags) if tags is not None else row.tags
            row.metrics = dict(metrics) if metrics is not None else row.metrics
            record_event(session, actor, "update_version", f"model:{name}", version=version)
            return _answer(session, row)

    def delete_version(self, *, name: str, version: int, actor: str) -> None:
        """Delete a version and its files; its number is not used again.

        :raises ConflictError: a service or an alias uses it; says which.
        """
        with self._database.write() as session:
            rows.get_model_row(session, name, lock=True)
            row = rows.get_version_row(session, name, version)
            users = self._find_users(session, name, version)
            if users:
                raise ConflictError(f"version {version} of {name!r} is used by service(s) {', '.join(users)}")
            aliases = _answer(session, row).aliases
            if aliases:
                raise ConflictError(
                    f"alias(es) {', '.join(aliases)} of {name!r} point to version {version}; move or delete them first"
                )
            uri = row.uri
            rows.turn_into_upload(session, row, actor)
            record_event(session, actor, "delete_version", f"model:{name}", version=version)
        self._discard(uri)

    def set_alias(self, *, name: str, alias: str, version: int, actor: str) -> ModelVersion:
        """Point an alias to a version; moves it when it exists."""
        checks.check_aliases([alias])
        with self._database.write() as session:
            rows.get_model_row(session, name, lock=True)
            row = rows.get_version_row(session, name, version)
            session.merge(AliasRow(model=name, alias=alias, version=version))
            record_event(session, actor, "set_alias", f"model:{name}", alias=alias, version=version)
            session.flush()
            return _answer(session, row)

    def delete_alias(self, *, name: str, alias: str, actor: str) -> None:
        with self._database.write() as session:
            rows.get_model_row(session, name, lock=True)
            row = session.get(AliasRow, (name, alias))
            if row is None:
                raise NotFoundError("alias", f"{alias} of model {name}")
            session.delete(row)
            record_event(session, actor, "delete_alias", f"model:{name}", alias=alias)

    def collect_uploads(self, now: datetime) -> int:
        """Remove uploads that were not committed in time, with their files; how many."""
        oldest = now - timedelta(seconds=self._settings.upload_ttl_seconds)
        with self._database.read() as session:
            uris = list(session.scalars(select(UploadRow.uri).where(UploadRow.created_at < oldest)))
        return sum(self._discard(uri) for uri in uris)

    def _find_upload_uri(self, upload_id: str, model_name: str) -> str | None:
        with self._database.read() as session:
            return session.scalar(select(UploadRow.uri).where(UploadRow.id == upload_id, UploadRow.model == model_name))

    def _find_by_key(self, model_name: str, key: str) -> ModelVersion | None:
        with self._database.read() as session:
            row = rows.find_version_by_key(session, model_name, key)
            return _answer(session, row) if row is not None else None

    def _inspect_upload(self, uri: str, model_type: str, files: Sequence[FileDigest]) -> InspectionReport:
        with tempfile.TemporaryDirectory(prefix="timl-upload-") as folder:
            return self._inspect(fetch_artifact(self._store, uri, files, Path(folder) / "model"), model_type)

    def _answer_existing(self, version: ModelVersion, uri: str | None) -> ModelVersion:
        """An upload beside it holds the same content once more, and is not needed."""
        if uri is not None:
            self._discard(uri)
        return version

    def _discard(self, uri: str) -> bool:
        """Delete the files of an upload and then its row; whether there was one. A store that is away now is no error:
        the row stays, and the collector comes back to it."""
        with self._database.write() as session:
            if not rows.claim_upload(session, uri):
                return False
        try:
            self._store.delete(uri)
        except ExternalSystemError as exc:
            log.warning("files of an upload are left for the collector: %s", exc)
            return False
        with self._database.write() as session:
            rows.delete_upload(session, uri)
        return True


def _answer(session: Session, row: ModelVersionRow) -> ModelVersion:
    return rows.to_model_version(row, rows.list_aliases(session, row.model))


def _build_idempotency_key(upload_id: str, lineage: Lineage | None, digest: str) -> str:
    """The same task instance with the same content, or else the same upload."""
    identity: Any = [lineage.model_dump(), digest] if lineage else upload_id
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
