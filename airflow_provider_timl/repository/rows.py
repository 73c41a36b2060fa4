"""Rows of the repository: looked up and turned into entities. Each function works in its caller's transaction."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_provider_timl.database.tables import AliasRow, ModelRow, ModelVersionRow
from airflow_provider_timl.entities import FileDigest, InspectionReport, Lineage, Model, ModelDetail, ModelVersion
from airflow_provider_timl.exceptions import NotFoundError
from airflow_provider_timl.states import ModelSource


def get_model_row(session: Session, name: str) -> ModelRow:
    """:raises NotFoundError: no such model."""
    row = session.get(ModelRow, name)
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


def list_aliases(session: Session, name: str) -> dict[str, int]:
    query = select(AliasRow).where(AliasRow.model == name).order_by(AliasRow.alias)
    return {row.alias: row.version for row in session.scalars(query)}


def find_latest_version(session: Session, name: str) -> int | None:
    """The highest version that exists."""
    return session.scalar(select(func.max(ModelVersionRow.version)).where(ModelVersionRow.model == name))


def to_model(session: Session, row: ModelRow) -> Model:
    return Model(
        name=row.name,
        model_type=row.model_type,
        latest_version=find_latest_version(session, row.name),
        aliases=list_aliases(session, row.name),
        created_at=row.created_at,
        created_by=row.created_by,
    )


def to_model_detail(session: Session, row: ModelRow) -> ModelDetail:
    query = select(ModelVersionRow).where(ModelVersionRow.model == row.name).order_by(ModelVersionRow.version.desc())
    versions = [to_model_version(session, version) for version in session.scalars(query)]
    return ModelDetail(**to_model(session, row).model_dump(), versions=versions)


def to_model_version(session: Session, row: ModelVersionRow) -> ModelVersion:
    aliases = list_aliases(session, row.model)
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
