"""Reads from the database what is wanted, in the form that ``plan`` takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_provider_timl.backends.contract import GatewayKey, InstanceSpec
from airflow_provider_timl.database.tables import AliasRow, RevisionRow, ServiceRow
from airflow_provider_timl.entities import ModelVersion, ServiceSpec, ServiceVersionSpec
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.services.keys import KeyCipher, is_usable, list_key_rows
from airflow_provider_timl.services.plan import WantedService, WantedVersion
from airflow_provider_timl.states import ServiceState

#: The name that every service answers to, whatever it is called.
LITERAL_MODEL_NAME = "m"
_SPEC_DIGEST_CHARACTERS = 8


@dataclass(frozen=True)
class ServiceRecord:
    """What the services table says, read at every step."""

    id: int
    name: str
    model: str
    state: ServiceState
    generation: int
    observed_generation: int


def list_service_records(session: Session) -> list[ServiceRecord]:
    """Services that are not deleted yet."""
    query = select(ServiceRow).where(ServiceRow.deleted_at.is_(None)).order_by(ServiceRow.id)
    return [
        ServiceRecord(row.id, row.name, row.model, ServiceState(row.state), row.generation, row.observed_generation)
        for row in session.scalars(query)
    ]


def list_labels(session: Session) -> dict[tuple[str, int], tuple[str, ...]]:
    """Aliases by model and version, of the models that are served. Read at every step: an alias moves without a change
    of any service."""
    served = select(ServiceRow.model).where(ServiceRow.deleted_at.is_(None))
    query = select(AliasRow).where(AliasRow.model.in_(served)).order_by(AliasRow.alias)
    labels: dict[tuple[str, int], tuple[str, ...]] = {}
    for row in session.scalars(query):
        labels[row.model, row.version] = (*labels.get((row.model, row.version), ()), row.alias)
    return labels


def label_versions(
    wanted: WantedService, model: str, labels: Mapping[tuple[str, int], tuple[str, ...]]
) -> WantedService:
    versions = (replace(each, labels=labels.get((model, each.spec.version), ())) for each in wanted.versions)
    return replace(wanted, versions=tuple(versions))


def read_wanted_service(
    session: Session, repository: ModelRepository, cipher: KeyCipher, service_id: int, now: datetime
) -> tuple[WantedService, datetime | None]:
    """What is wanted of a service at ``now``, and when that changes by itself because a key expires."""
    row = session.get_one(ServiceRow, service_id)
    spec = ServiceSpec.model_validate(session.get_one(RevisionRow, (row.id, row.revision)).spec)
    usable = [key for key in list_key_rows(session, row.id) if is_usable(key, now)]
    wanted = WantedService(
        id=row.id,
        name=row.name,
        host=row.host,
        generation=row.generation,
        keys=tuple(GatewayKey(f"{row.name}/{key.name}", cipher.decrypt(key.ciphertext)) for key in usable),
        versions=tuple(
            _build_version(row, version, repository.get_version(name=row.model, version=version.version))
            for version in spec.versions
        ),
    )
    return wanted, min((key.expires_at for key in usable if key.expires_at), default=None)


def _build_version(row: ServiceRow, spec: ServiceVersionSpec, model_version: ModelVersion) -> WantedVersion:
    names = tuple(dict.fromkeys((LITERAL_MODEL_NAME, row.name, row.model)))
    identity = [row.host, spec.runtime, spec.options, names, model_version.digest, spec.resources.model_dump()]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:_SPEC_DIGEST_CHARACTERS]
    return WantedVersion(
        spec=spec,
        instances=tuple(
            InstanceSpec(
                id=f"{row.name}-v{spec.version}-{digest}-{slot}",
                service=row.name,
                version=spec.version,
                runtime=spec.runtime,
                options=spec.options,
                model_names=names,
                artifact_uri=model_version.uri,
                files=tuple(model_version.files),
                resources=spec.resources,
            )
            for slot in range(spec.instances)
        ),
    )
