"""Records what is wanted of services and reports what is. It starts and stops nothing: the controller does.

Each change is one transaction that ends in a new revision, an audit event and a higher ``generation``. Repeating a
change that is already the wish changes nothing, so a retried task is harmless.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from airflow_provider_timl.backends.contract import LogReader
from airflow_provider_timl.database.sessions import Database, record_event
from airflow_provider_timl.database.tables import EventRow, RevisionRow, ServiceRow, utc_now
from airflow_provider_timl.entities import (
    AccessKey,
    AccessKeySecret,
    Event,
    Lineage,
    ModelVersion,
    Resources,
    Revision,
    Service,
    ServiceSpec,
    ServiceVersionSpec,
)
from airflow_provider_timl.exceptions import ConflictError, InvalidInputError, NotFoundError, ServiceFailedError
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.runtimes.contract import RuntimeProgram, list_runtimes
from airflow_provider_timl.services import changes, keys, rows
from airflow_provider_timl.settings import Settings
from airflow_provider_timl.states import ServiceState, ServiceVersionState

_HOST_SUFFIX_BYTES = 4
_FAILURE_LOG_BYTES = 2000
_DEFAULT_KEY_NAME = "default"


class ServiceRegistry:
    """What the API calls. Thread-safe; every method is one short transaction.

    :param logs: where the backend keeps the logs; used to explain a failure.
    """

    def __init__(self, database: Database, repository: ModelRepository, settings: Settings, logs: LogReader) -> None:
        self._database = database
        self._repository = repository
        self._settings = settings
        self._logs = logs
        self._cipher = keys.KeyCipher(settings.encryption_key)

    def create_service(
        self,
        *,
        name: str,
        model: str,
        version: int | None = None,
        alias: str | None = None,
        runtime: str | None = None,
        options: Mapping[str, Any] | None = None,
        resources: Resources | None = None,
        instances: int = 1,
        actor: str,
        lineage: Lineage | None = None,
    ) -> Service:
        """Record a new service with one version (neither ``version`` nor ``alias``: the latest) and a first key.

        :raises ConflictError: a service of that name exists, unless it already serves exactly this.
        """
        model_version = self._repository.resolve_version(name=model, version=version, alias=alias)
        wanted = _build_version_spec(model_version, runtime, options or {}, resources or Resources(), instances)
        with self._database.write() as session:
            row = rows.find_live(session, name, lock=True)
            if row is None:
                row = self._insert_service(
                    session, name, model_version=model_version, wanted=wanted, actor=actor, lineage=lineage
                )
            elif row.model != model or changes.find_version(rows.get_spec(session, row), wanted.version) is None:
                raise ConflictError(
                    f"service {name!r} exists already (model {row.model!r}, {row.state}); add a version to it instead"
                )
            else:
                changes.add_version(rows.get_spec(session, row), name, wanted)
            return rows.to_service(session, self._settings.gateway_url, row)

    def add_version(
        self,
        *,
        name: str,
        version: int | None = None,
        alias: str | None = None,
        runtime: str | None = None,
        options: Mapping[str, Any] | None = None,
        resources: Resources | None = None,
        instances: int = 1,
        actor: str,
        lineage: Lineage | None = None,
    ) -> Service:
        """Record a further version of the service's model, with 0 % of the traffic."""
        with self._database.read() as session:
            model = rows.get_live(session, name).model
        model_version = self._repository.resolve_version(name=model, version=version, alias=alias)
        wanted = _build_version_spec(model_version, runtime, options or {}, resources or Resources(), instances)
        return self._change(
            name,
            f"add version {wanted.version}",
            actor,
            lineage,
            lambda spec, _: changes.add_version(spec, name, wanted),
        )

    def remove_version(self, *, name: str, version: int, actor: str, lineage: Lineage | None = None) -> Service:
        """Stop a version that has no traffic.

        :raises ConflictError: it has traffic, or is the only one.
        """
        return self._change(
            name,
            f"remove version {version}",
            actor,
            lineage,
            lambda spec, _: changes.remove_version(spec, name, version),
        )

    def set_traffic(
        self, *, name: str, traffic: dict[int, float], actor: str, lineage: Lineage | None = None
    ) -> Service:
        """Split the traffic: percent by version, sum exactly 100; versions not named get 0.

        :raises ConflictError: a version that would gain traffic has no ready instance.
        """
        split = ", ".join(f"{version}={percent:g}" for version, percent in sorted(traffic.items()))
        return self._change(
            name,
            f"traffic {split}",
            actor,
            lineage,
            lambda spec, ready: changes.set_traffic(spec, name, traffic, ready),
        )

    def rollback(self, *, name: str, revision: int, actor: str, lineage: Lineage | None = None) -> Service:
        """Want again, as a new revision, what ``revision`` wanted: versions, instances, traffic.

        :raises NotFoundError: no such revision.
        :raises ConflictError: a model version of it was deleted from the repository.
        """
        with self._database.read() as session:
            row = session.get(RevisionRow, (rows.get_live(session, name).id, revision))
            if row is None:
                raise NotFoundError("revision", f"{revision} of service {name}")
            target = ServiceSpec.model_validate(row.spec)
        return self._change(name, f"rollback to revision {revision}", actor, lineage, lambda _spec, _ready: target)

    def delete_service(self, *, name: str, actor: str) -> Service:
        """Stop serving; the history stays. Repeating it while it goes on changes nothing."""
        with self._database.write() as session:
            row = rows.get_live(session, name, lock=True)
            if row.state != ServiceState.DELETING:
                row.state = ServiceState.DELETING.value
                row.generation += 1
                record_event(session, actor, "delete", f"service:{name}")
            return rows.to_service(session, self._settings.gateway_url, row)

    def get_service(self, name: str) -> Service:
        """:raises NotFoundError: there is none, or it was deleted."""
        with self._database.read() as session:
            return rows.to_service(session, self._settings.gateway_url, rows.get_live(session, name))

    def list_services(self, limit: int, offset: int) -> tuple[list[Service], int]:
        """Services that are not deleted, by name, and how many there are."""
        live = ServiceRow.deleted_at.is_(None)
        with self._database.read() as session:
            query = select(ServiceRow).where(live).order_by(ServiceRow.name).limit(limit).offset(offset)
            services = [rows.to_service(session, self._settings.gateway_url, row) for row in session.scalars(query)]
            return services, session.scalar(select(func.count()).select_from(ServiceRow).where(live)) or 0

    def list_revisions(self, name: str, limit: int, offset: int) -> tuple[list[Revision], int]:
        """Newest first."""
        with self._database.read() as session:
            row = rows.get_live(session, name)
            query = select(RevisionRow).where(RevisionRow.service_id == row.id)
            page = query.order_by(RevisionRow.number.desc()).limit(limit).offset(offset)
            return [rows.to_revision(revision) for revision in session.scalars(page)], row.revision

    def list_events(self, limit: int, offset: int, subject: str | None = None) -> tuple[list[Event], int]:
        """Audit events, newest first; ``subject`` as in ``service:iris`` or ``model:iris``."""
        where = [EventRow.subject == subject] if subject else []
        with self._database.read() as session:
            query = select(EventRow).where(*where).order_by(EventRow.id.desc()).limit(limit).offset(offset)
            events = [Event.model_validate(row, from_attributes=True) for row in session.scalars(query)]
            return events, session.scalar(select(func.count()).select_from(EventRow).where(*where)) or 0

    def build_failure(self, name: str) -> ServiceFailedError:
        """The error for someone who waited for a service that failed: its state, reasons and last log lines."""
        service = self.get_service(name)
        failed = [version for version in service.versions if version.state is ServiceVersionState.FAILED]
        sentences = [f"service {name!r} is {service.state}"]
        for version in failed:
            sentences.append(f"version {version.version} is FAILED: {version.reason}")
            logs = self._logs.read_logs(name, version.version, _FAILURE_LOG_BYTES)
            sentences.extend(f"last log lines of {chunk.instance}:\n{chunk.text}" for chunk in logs[:1])
        return ServiceFailedError("; ".join(sentences), {"service": name, "state": service.state.value})

    def list_keys(self, name: str) -> list[AccessKey]:
        with self._database.read() as session:
            return [keys.to_access_key(row) for row in keys.list_key_rows(session, rows.get_live(session, name).id)]

    def create_key(self, *, name: str, key_name: str, expires_at: datetime | None, actor: str) -> AccessKey:
        """Add a key; the others stay valid, so callers can move over.

        :raises ConflictError: there is a key of that name.
        """
        if expires_at is not None and expires_at <= utc_now():
            raise InvalidInputError("the time of expiry is in the past", field="expires_at")
        with self._database.write() as session:
            service = rows.get_changeable(session, name)
            service.generation += 1
            return keys.to_access_key(
                keys.add_key(session, self._cipher, service, name=key_name, expires_at=expires_at, actor=actor)
            )

    def set_key_enabled(self, *, name: str, key_id: int, enabled: bool, actor: str) -> AccessKey:
        with self._database.write() as session:
            service = rows.get_changeable(session, name)
            row = keys.get_key_row(session, service, key_id)
            if row.enabled != enabled:
                row.enabled = enabled
                service.generation += 1
                action = "enable_key" if enabled else "disable_key"
                record_event(session, actor, action, f"service:{name}", key=row.name)
            return keys.to_access_key(row)

    def delete_key(self, *, name: str, key_id: int, actor: str) -> None:
        with self._database.write() as session:
            service = rows.get_changeable(session, name)
            row = keys.get_key_row(session, service, key_id)
            record_event(session, actor, "delete_key", f"service:{name}", key=row.name)
            session.delete(row)
            service.generation += 1

    def get_key_secret(self, name: str, key_id: int) -> AccessKeySecret:
        with self._database.read() as session:
            return keys.reveal(keys.get_key_row(session, rows.get_live(session, name), key_id), self._cipher)

    def _insert_service(
        self,
        session: Session,
        name: str,
        *,
        model_version: ModelVersion,
        wanted: ServiceVersionSpec,
        actor: str,
        lineage: Lineage | None,
    ) -> ServiceRow:
        row = ServiceRow(
            name=name,
            model=model_version.model,
            model_type=model_version.model_type,
            host=f"{name}-{secrets.token_hex(_HOST_SUFFIX_BYTES)}.{self._settings.service_domain}",
            state=ServiceState.DEPLOYING.value,
            created_by=actor,
        )
        session.add(row)
        try:
            session.flush()
        except IntegrityError as exc:  # another writer was faster (PostgreSQL; SQLite's writers queue)
            raise ConflictError(f"service {name!r} was created by someone else at the same time") from exc
        spec = changes.add_version(ServiceSpec(versions=[]), name, wanted)
        action = f"deploy version {wanted.version}"
        rows.record_revision(session, row, spec, action=action, actor=actor, lineage=lineage)
        keys.add_key(session, self._cipher, row, name=_DEFAULT_KEY_NAME, expires_at=None, actor=actor)
        return row

    def _change(
        self,
        name: str,
        action: str,
        actor: str,
        lineage: Lineage | None,
        change: Callable[[ServiceSpec, dict[int, int]], ServiceSpec],
    ) -> Service:
        """Apply ``change(spec, ready instances by version)`` and record what comes out unless it is the wish now."""
        with self._database.write() as session:
            row = rows.get_changeable(session, name)
            spec = rows.get_spec(session, row)
            observed = rows.list_observed(session, row.id)
            changed = change(spec, {version: seen.ready_instances for version, seen in observed.items()})
            if changed != spec:
                row.revision += 1
                row.generation += 1
                row.state = ServiceState.DEPLOYING.value
                rows.record_revision(session, row, changed, action=action, actor=actor, lineage=lineage)
                for version in changed.versions:
                    if version.version in observed and changes.find_version(spec, version.version) is None:
                        session.delete(observed[version.version])  # what was seen of it is from its life before
            return rows.to_service(session, self._settings.gateway_url, row)


def find_services_using(session: Session, model: str, version: int) -> list[str]:
    """Names of the services whose present revision holds a model's version."""
    query = (
        select(ServiceRow).where(ServiceRow.model == model, ServiceRow.deleted_at.is_(None)).order_by(ServiceRow.name)
    )
    return [row.name for row in session.scalars(query) if changes.find_version(rows.get_spec(session, row), version)]


def _build_version_spec(
    model_version: ModelVersion,
    runtime: str | None,
    options: Mapping[str, Any],
    resources: Resources,
    instances: int,
) -> ServiceVersionSpec:
    program = _choose_runtime(model_version.model_type, runtime)
    if "memory_mb" not in resources.model_fields_set:
        resources = resources.model_copy(update={"memory_mb": program.memory_mb})
    return ServiceVersionSpec(
        version=model_version.version,
        runtime=program.name,
        options=program.parse_options(options).model_dump(mode="json", exclude_defaults=True),
        resources=resources,
        instances=instances,
    )


def _choose_runtime(model_type: str, name: str | None) -> RuntimeProgram:
    """The runtime asked for, or the installed one of the type, one that stands for another first."""
    programs = list_runtimes()
    fitting = [program for program in programs if program.model_type == model_type and name in (None, program.name)]
    if not fitting:
        known = ", ".join(f"{program.name} ({program.model_type})" for program in programs) or "none"
        asked = f"runtime {name!r}" if name else "a runtime"
        raise InvalidInputError(
            f"{asked} for model type {model_type!r} does not exist here; there are: {known}", "runtime"
        )
    fitting.sort(key=lambda program: program.stands_for is None)
    missing = {program: program.find_missing() for program in fitting}
    installed = next((program for program, absent in missing.items() if absent is None), None)
    if installed is None:
        program, absent = list(missing.items())[-1]
        need = program.describe_need(absent or "")
        raise InvalidInputError(f"runtime {program.name!r} needs {need} where the controller runs", "runtime")
    return installed
