"""Rows of the repository: looked up, changed, turned into entities. Each function works in its caller's transaction.

Changes to one model queue up at its row (``lock=True``): numbers, aliases, deletions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from airflow_provider_timl.database.sessions import record_event
from airflow_provider_timl.database.tables import AliasRow, ModelRow, ModelVersionRow, UploadRow, utc_now
from airflow_provider_timl.entities import FileDigest, InspectionReport, Lineage, Model, ModelDetail, ModelVersion
from airflow_provider_timl.exceptions import NotFoundError
from airflow_provider_timl.repository.checks import check_type_of
from airflow_provider_timl.states import ModelSource

_INSERTS: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_EVENTS = {ModelSource.SAVED.value: "save_version", ModelSource.IMPORTED.value: "import_version"}


def get_model_row(session: Session, name: str, *, lock: bool = False) -> ModelRow:
    """:raises NotFoundError: no such model."""
    row = session.get(ModelRow, name, with_for_update=lock or None)
    if row is None:
        raise NotFoundError("model", name)
    return row


def get_version_row(session: Session, name: str, version: int) -> ModelVersionRow:
    """:raises NotFoundError: no such version."""
    row = session.get(ModelVersionRow, (name, version))
    if row is None:
        get_model_row(session, name)
        raise NotFoundError("version", f"{version} of model {name}")
    return row


def find_version_by_key(session: Session, name: str, key: str) -> ModelVersionRow | None:
    return session.scalar(
        select(ModelVersionRow).where(ModelVersionRow.model == name, ModelVersionRow.idempotency_key == key)
    )


def find_latest_version(session: Session, name: str) -> int | None:
    """The highest version that exists."""
    return session.scalar(select(func.max(ModelVersionRow.version)).where(ModelVersionRow.model == name))


def list_aliases(session: Session, name: str) -> dict[str, int]:
    query = select(AliasRow).where(AliasRow.model == name).order_by(AliasRow.alias)
    return {row.alias: row.version for row in session.scalars(query)}


def insert_version(session: Session, row: ModelVersionRow, upload_id: str, aliases: Sequence[str]) -> None:
    """Make the next version from ``row``, with its number, and end its upload.

    :raises IntegrityError: there is a version with the same idempotency key.
    :raises NotFoundError: the upload was collected meanwhile, or made a version before.
    """
    _ensure_model(session, row)
    check_type_of(get_model_row(session, row.model, lock=True), row.model_type)
    counter = update(ModelRow).where(ModelRow.name == row.model).values(last_version=ModelRow.last_version + 1)
    row.version = session.scalars(counter.returning(ModelRow.last_version)).one()
    session.add(row)
    session.flush()
    ended = delete(UploadRow).where(UploadRow.id == upload_id).returning(UploadRow.id)
    if session.scalars(ended).one_or_none() is None:
        raise NotFoundError("upload", f"{upload_id} of model {row.model}")
    for alias in aliases:
        session.merge(AliasRow(model=row.model, alias=alias, version=row.version))
    details = {"version": row.version, "digest": row.digest, "aliases": list(aliases)}
    record_event(session, row.created_by, _EVENTS[row.source], f"model:{row.model}", **details)
    session.flush()


def claim_upload(session: Session, uri: str) -> bool:
    """Take an upload away from any commit of it that is under way, so that its files may be deleted.

    It keeps its row, under another id, until the files are gone: whoever is killed in between leaves it collectable.
    Files belong to an upload or to a version, never to both, so nothing of a version can be claimed.
    """
    claim = update(UploadRow).where(UploadRow.uri == uri).values(id=uuid4().hex).returning(UploadRow.id)
    return session.scalars(claim).one_or_none() is not None


def delete_upload(session: Session, uri: str) -> None:
    session.execute(delete(UploadRow).where(UploadRow.uri == uri))


def turn_into_upload(session: Session, row: ModelVersionRow, actor: str) -> None:
    """Delete a version; its files are those of an upload that nobody can commit."""
    session.add(UploadRow(id=uuid4().hex, model=row.model, uri=row.uri, created_by=actor))
    session.delete(row)


def to_models(session: Session, rows: Sequence[ModelRow]) -> list[Model]:
    """With two queries, however many there are."""
    names = [row.name for row in rows]
    versions = select(ModelVersionRow.model, func.max(ModelVersionRow.version)).group_by(ModelVersionRow.model)
    latest = {row[0]: row[1] for row in session.execute(versions.where(ModelVersionRow.model.in_(names)))}
    aliases: dict[str, dict[str, int]] = {name: {} for name in names}
    for alias in session.scalars(select(AliasRow).where(AliasRow.model.in_(names)).order_by(AliasRow.alias)):
        aliases[alias.model][alias.alias] = alias.version
    return [
        Model(
            name=row.name,
            model_type=row.model_type,
            latest_version=latest.get(row.name),
            aliases=aliases[row.name],
            created_at=row.created_at,
            created_by=row.created_by,
        )
        for row in rows
    ]


def to_model_detail(session: Session, row: ModelRow) -> ModelDetail:
    """With all versions, newest first."""
    (model,) = to_models(session, [row])
    query = select(ModelVersionRow).where(ModelVersionRow.model == row.name).order_by(ModelVersionRow.version.desc())
    versions = [to_model_version(version, model.aliases) for version in session.scalars(query)]
    return ModelDetail(**model.model_dump(), versions=versions)


def to_model_version(row: ModelVersionRow, aliases: dict[str, int]) -> ModelVersion:
    """:param aliases: of the whole model."""
    return ModelVersion(
        model=row.model,
        version=row.version,
        model_type=row.model_type,
        uri=row.uri,
        digest=row.digest,
        files=[FileDigest.model_validate(file) for file in row.files],
        inspection=InspectionReport.model_validate(row.inspection),
        metrics=row.metrics,
        tags=row.tags,
        aliases=[alias for alias, version in aliases.items() if version == row.version],
        source=ModelSource(row.source),
        source_uri=row.source_uri,
        lineage=Lineage.model_validate(row.lineage) if row.lineage else None,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _ensure_model(session: Session, row: ModelVersionRow) -> None:
    insert = _INSERTS[session.get_bind().dialect.name]
    values = {"name": row.model, "model_type": row.model_type, "last_version": 0, "created_by": row.created_by}
    session.execute(insert(ModelRow).values(created_at=utc_now(), **values).on_conflict_do_nothing())
