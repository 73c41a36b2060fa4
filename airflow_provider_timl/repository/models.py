"""The model repository as the API sees it. Thread-safe; starts nothing but the inspection it waits for.

A version is a row. Files are written below a fresh URI before it (``begin_upload``), checked and inspected, and are the
version's own from the moment the row is committed; nothing is moved. So a save that is killed leaves at most an upload
without a version, which ``collect_uploads`` removes.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from airflow_provider_timl.artifacts import (
    ArtifactStore,
    check_relative_path,
    compute_artifact_digest,
    fetch_artifact,
    put_folder,
    verify_artifact,
)
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
from airflow_provider_timl.exceptions import ConflictError, InvalidInputError, NotFoundError
from airflow_provider_timl.repository import rows
from airflow_provider_timl.repository.imports import download_model
from airflow_provider_timl.repository.structure import MODEL_TYPES
from airflow_provider_timl.settings import Settings
from airflow_provider_timl.states import ModelSource

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
        if model_type not in MODEL_TYPES:
            message = f"unknown model type {model_type!r}; there are {', '.join(MODEL_TYPES)}"
            raise InvalidInputError(message, field="model_type")
        upload_id = uuid4().hex
        uri = f"{self._settings.artifact_store.rstrip('/')}/models/{model_name}/{upload_id}"
        with self._database.write() as session:
            _check_type(session.get(ModelRow, model_name), model_type)
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

        :raises InvalidInputError: files are not what their digests say.
        :raises InvalidModelError: inspection refused the model; there is no version.
        """
        for file in files:
            check_relative_path(file.path)
        _check_metrics(metrics or {})
        digest = compute_artifact_digest(files)
        key = _build_idempotency_key(upload_id, lineage, digest)
        upload = self._find_upload(upload_id, model_name)
        existing = self._find_by_key(model_name, key)
        if existing is not None:
            self._discard(upload)
            return existing
        if upload is None:
            raise NotFoundError("upload", f"{upload_id} of model {model_name}")
        report = self._inspect_upload(upload.uri, model_type, files)
        row = ModelVersionRow(
            model=model_name,
            model_type=model_type,
            uri=upload.uri,
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
            return self._insert_version(row, upload_id, aliases)
        except IntegrityError:
            existing = self._find_by_key(model_name, key)
            if existing is None:
                raise
            self._discard(upload)  # the same commit was made by someone faster
            return existing

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
        """Copy a model from COS, unpack it, and make it the next version of a model.

        :param source_uri: a file, a prefix, or an archive (``.zip``, ``.tar.gz``); see ``cos_paths``.
        """
        path = parse_cos_path(source_uri)
        upload = self.begin_upload(model_name=model_name, model_type=model_type, actor=actor)
        with tempfile.TemporaryDirectory(prefix="timl-import-") as folder:
            model_folder = download_model(s3_client, path, Path(folder), self._settings.max_model_bytes)
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

    def get_model(self, name: str) -> ModelDetail:
        with self._database.read() as session:
            return rows.to_model_detail(session, rows.get_model_row(session, name))

    def list_models(self, limit: int, offset: int) -> tuple[list[Model], int]:
        """Models by name, and how many there are."""
        with self._database.read() as session:
            query = select(ModelRow).order_by(ModelRow.name).limit(limit).offset(offset)
            models = [rows.to_model(session, row) for row in session.scalars(query)]
            return models, session.scalar(select(func.count()).select_from(ModelRow)) or 0

    def get_version(self, *, name: str, version: int) -> ModelVersion:
        with self._database.read() as session:
            return rows.to_model_version(session, rows.get_version_row(session, name, version))

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
            version = version or rows.find_latest_version(session, name)
            if version is None:
                raise NotFoundError("version", f"of model {name}")
            return rows.to_model_version(session, rows.get_version_row(session, name, version))

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
        _check_metrics(metrics or {})
        with self._database.write() as session:
            row = rows.get_version_row(session, name, version)
            row.tags = dict(tags) if tags is not None else row.tags
            row.metrics = dict(metrics) if metrics is not None else row.metrics
            record_event(session, actor, "update_version", f"model:{name}", version=version)
            return rows.to_model_version(session, row)

    def delete_version(self, *, name: str, version: int, actor: str) -> None:
        """:raises ConflictError: a service or an alias uses it; says which."""
        with self._database.write() as session:
            row = rows.get_version_row(session, name, version)
            users = self._find_users(session, name, version)
            if users:
                raise ConflictError(f"version {version} of {name!r} is used by service(s) {', '.join(users)}")
            aliases = rows.to_model_version(session, row).aliases
            if aliases:
                raise ConflictError(
                    f"alias(es) {', '.join(aliases)} of {name!r} point to version {version}; move or delete them first"
                )
            uri = row.uri
            # back among the uploads: should we be killed before the files are gone, they are collected from there
            session.add(UploadRow(id=uuid4().hex, model=name, uri=uri, created_by=actor))
            session.delete(row)
            record_event(session, actor, "delete_version", f"model:{name}", version=version)
        self._delete_files(uri)

    def set_alias(self, *, name: str, alias: str, version: int, actor: str) -> ModelVersion:
        with self._database.write() as session:
            row = rows.get_version_row(session, name, version)
            session.merge(AliasRow(model=name, alias=alias, version=version))
            record_event(session, actor, "set_alias", f"model:{name}", alias=alias, version=version)
            session.flush()
            return rows.to_model_version(session, row)

    def delete_alias(self, *, name: str, alias: str, actor: str) -> None:
        with self._database.write() as session:
            rows.get_model_row(session, name)
            row = session.get(AliasRow, (name, alias))
            if row is None:
                raise NotFoundError("alias", f"{alias} of model {name}")
            session.delete(row)
            record_event(session, actor, "delete_alias", f"model:{name}", alias=alias)

    def collect_uploads(self, now: datetime) -> int:
        """Remove uploads that were not committed in time, files first; how many."""
        oldest = now - timedelta(seconds=self._settings.upload_ttl_seconds)
        with self._database.read() as session:
            uris = list(session.scalars(select(UploadRow.uri).where(UploadRow.created_at < oldest)))
        for uri in uris:
            self._delete_files(uri)
        return len(uris)

    def _find_upload(self, upload_id: str, model_name: str) -> UploadRow | None:
        with self._database.read() as session:
            row = session.get(UploadRow, upload_id)
            if row is None or row.model != model_name:
                return None
            session.expunge(row)
            return row

    def _find_by_key(self, model_name: str, key: str) -> ModelVersion | None:
        with self._database.read() as session:
            query = select(ModelVersionRow).where(
                ModelVersionRow.model == model_name, ModelVersionRow.idempotency_key == key
            )
            row = session.scalars(query).one_or_none()
            return rows.to_model_version(session, row) if row is not None else None

    def _inspect_upload(self, uri: str, model_type: str, files: Sequence[FileDigest]) -> InspectionReport:
        verify_artifact(self._store, uri, files)
        with tempfile.TemporaryDirectory(prefix="timl-inspect-") as folder:
            return self._inspect(fetch_artifact(self._store, uri, files, Path(folder) / "model"), model_type)

    def _insert_version(self, row: ModelVersionRow, upload_id: str, aliases: Sequence[str]) -> ModelVersion:
        """Number and version in one transaction: a number is only ever taken by a version that exists."""
        with self._database.write() as session:
            model = session.get(ModelRow, row.model, with_for_update=True)
            _check_type(model, row.model_type)
            if model is None:
                session.add(ModelRow(name=row.model, model_type=row.model_type, created_by=row.created_by))
                session.flush()
            counter = update(ModelRow).where(ModelRow.name == row.model).values(last_version=ModelRow.last_version + 1)
            row.version = session.scalars(counter.returning(ModelRow.last_version)).one()
            session.add(row)
            session.flush()
            for alias in aliases:
                session.merge(AliasRow(model=row.model, alias=alias, version=row.version))
            session.execute(delete(UploadRow).where(UploadRow.id == upload_id))
            action = "import_version" if row.source == ModelSource.IMPORTED.value else "save_version"
            record_event(session, row.created_by, action, f"model:{row.model}", version=row.version, digest=row.digest)
            session.flush()
            return rows.to_model_version(session, row)

    def _discard(self, upload: UploadRow | None) -> None:
        """Delete an upload whose content is a version already, unless it is that version's own."""
        if upload is not None:
            self._delete_files(upload.uri)

    def _delete_files(self, uri: str) -> None:
        """Files first, then the row that remembers them."""
        with self._database.read() as session:
            if session.scalar(select(func.count()).where(ModelVersionRow.uri == uri)):
                return
        self._store.delete(uri)
        with self._database.write() as session:
            session.execute(delete(UploadRow).where(UploadRow.uri == uri))


def _check_type(model: ModelRow | None, model_type: str) -> None:
    if model is not None and model.model_type != model_type:
        raise InvalidInputError(
            f"model {model.name!r} is of type {model.model_type!r}; type {model_type!r} needs another model",
            field="model_type",
        )


def _check_metrics(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InvalidInputError(f"{value} is not a finite number", field=f"metrics.{name}")


def _build_idempotency_key(upload_id: str, lineage: Lineage | None, digest: str) -> str:
    """The same task instance with the same content, or else the same upload."""
    identity: Any = [lineage.model_dump(), digest] if lineage else upload_id
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
