"""Rows of services: looked up, locked, and turned into entities. Each function works in its caller's transaction."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_provider_timl.database.sessions import record_event
from airflow_provider_timl.database.tables import ModelVersionRow, RevisionRow, ServiceRow, ServiceVersionRow
from airflow_provider_timl.entities import Lineage, Revision, Service, ServiceSpec, ServiceVersion, ServiceVersionSpec
from airflow_provider_timl.exceptions import ConflictError, NotFoundError
from airflow_provider_timl.repository.rows import get_model_row
from airflow_provider_timl.states import ServiceState, ServiceVersionState


def find_live(session: Session, name: str, lock: bool = False) -> ServiceRow | None:
    """The service of that name which is not deleted; ``lock`` keeps other writers out until the transaction ends."""
    query = select(ServiceRow).where(ServiceRow.name == name, ServiceRow.deleted_at.is_(None))
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def get_live(session: Session, name: str, lock: bool = False) -> ServiceRow:
    """:raises NotFoundError: there is none, or it was deleted."""
    row = find_live(session, name, lock)
    if row is None:
        raise NotFoundError("service", name)
    return row


def get_changeable(session: Session, name: str) -> ServiceRow:
    """The locked row of a service that may be changed.

    :raises ConflictError: it is being deleted.
    """
    row = get_live(session, name, lock=True)
    if row.state == ServiceState.DELETING:
        raise ConflictError(f"service {name!r} is being deleted")
    return row


def get_spec(session: Session, row: ServiceRow) -> ServiceSpec:
    """What the present revision wants."""
    revision = session.get_one(RevisionRow, (row.id, row.revision))
    return ServiceSpec.model_validate(revision.spec)


def list_observed(session: Session, service_id: int) -> dict[int, ServiceVersionRow]:
    """What the controller last saw, by version."""
    query = select(ServiceVersionRow).where(ServiceVersionRow.service_id == service_id)
    return {row.version: row for row in session.scalars(query)}


def record_revision(
    session: Session, row: ServiceRow, spec: ServiceSpec, *, action: str, actor: str, lineage: Lineage | None
) -> None:
    """Write down a new wish.

    :raises ConflictError: a model version of it is no longer in the repository.
    """
    hold_model_versions(session, row.model, spec)
    session.add(
        RevisionRow(
            service_id=row.id,
            number=row.revision,
            spec=spec.model_dump(mode="json"),
            action=action,
            lineage=lineage.model_dump() if lineage else None,
            created_by=actor,
        )
    )
    session.flush()
    record_event(session, actor, action, f"service:{row.name}", revision=row.revision)


def hold_model_versions(session: Session, model: str, spec: ServiceSpec) -> None:
    """Keep the versions from being deleted until the transaction ends; afterwards the revision does."""
    get_model_row(session, model, lock=True)
    for wanted in spec.versions:
        if session.get(ModelVersionRow, (model, wanted.version)) is None:
            raise ConflictError(f"version {wanted.version} of model {model!r} was deleted from the repository")


def to_revision(row: RevisionRow) -> Revision:
    return Revision(
        number=row.number,
        spec=ServiceSpec.model_validate(row.spec),
        action=row.action,
        created_by=row.created_by,
        created_at=row.created_at,
        lineage=Lineage.model_validate(row.lineage) if row.lineage else None,
    )


def to_service(session: Session, gateway_url: str, row: ServiceRow) -> Service:
    observed = list_observed(session, row.id)
    return Service(
        name=row.name,
        model=row.model,
        model_type=row.model_type,
        host=row.host,
        gateway_url=gateway_url,
        state=ServiceState(row.state),
        revision=row.revision,
        in_sync=row.state == ServiceState.RUNNING and row.observed_generation >= row.generation,
        versions=[
            _to_service_version(wanted, observed.get(wanted.version)) for wanted in get_spec(session, row).versions
        ],
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _to_service_version(wanted: ServiceVersionSpec, seen: ServiceVersionRow | None) -> ServiceVersion:
    return ServiceVersion(
        **wanted.model_dump(exclude={"resources"}),
        resources=wanted.resources,
        state=ServiceVersionState(seen.state) if seen else ServiceVersionState.PENDING,
        ready_instances=seen.ready_instances if seen else 0,
        reason=seen.reason if seen else None,
    )
