"""The tables. Rows are turned into ``entities`` by the layer that owns them (repository or services) and go no further.

Wanted state is ``services.revision`` -> ``revisions.spec``; observed state is ``service_versions`` and
``services.state``/``observed_generation``. ``services.generation`` counts every change the gateway must take over
(revisions, keys, deletion), so "is my change live" is ``observed_generation >= generation``.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time in every database; SQLite has no zone of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(timezone.utc) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        list[dict[str, Any]]: JSON(),
        str: String(255),
    }


class ModelRow(Base):
    """``last_version`` is the counter that version numbers come from; it only grows."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    model_type: Mapped[str]
    last_version: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str]


class UploadRow(Base):
    """A begun upload. Deleted when it is committed, or when it is collected."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    uri: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str]


class ModelVersionRow(Base):
    """``idempotency_key`` is what makes a retried commit return the version it made before."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model", "idempotency_key"),)

    model: Mapped[str] = mapped_column(ForeignKey("models.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    model_type: Mapped[str]
    uri: Mapped[str] = mapped_column(Text)
    digest: Mapped[str]
    files: Mapped[list[dict[str, Any]]]
    inspection: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    tags: Mapped[dict[str, Any]]
    source: Mapped[str]
    source_uri: Mapped[str | None] = mapped_column(Text)
    lineage: Mapped[dict[str, Any] | None]
    idempotency_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str]


class AliasRow(Base):
    __tablename__ = "aliases"
    __table_args__ = (ForeignKeyConstraint(["model", "version"], ["model_versions.model", "model_versions.version"]),)

    model: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]


class ServiceRow(Base):
    """A deleted service keeps its row and history; its name is free for a new one."""

    __tablename__ = "services"
    __table_args__ = (
        Index(
            "uq_services_live_name",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    model: Mapped[str]
    model_type: Mapped[str]
    host: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    revision: Mapped[int] = mapped_column(default=1)
    generation: Mapped[int] = mapped_column(default=1)
    observed_generation: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str]
    deleted_at: Mapped[datetime | None]


class RevisionRow(Base):
    __tablename__ = "revisions"

    service_id: Mapped[int] = mapped_column(ForeignKey("services.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    spec: Mapped[dict[str, Any]]
    action: Mapped[str]
    lineage: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str]


class ServiceVersionRow(Base):
    """Observed by the controller; nobody else writes it."""

    __tablename__ = "service_versions"

    service_id: Mapped[int] = mapped_column(ForeignKey("services.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    ready_instances: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None] = mapped_column(Text)


class AccessKeyRow(Base):
    """``ciphertext`` is the key under Fernet; ``masked`` is what lists may show."""

    __tablename__ = "access_keys"
    __table_args__ = (UniqueConstraint("service_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    service_id: Mapped[int] = mapped_column(ForeignKey("services.id"))
    name: Mapped[str]
    masked: Mapped[str]
    ciphertext: Mapped[bytes] = mapped_column(LargeBinary)
    enabled: Mapped[bool] = mapped_column(default=True)
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str]


class EventRow(Base):
    """Audit: who changed what, when."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_subject", "subject"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utc_now)
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    details: Mapped[dict[str, Any]]
