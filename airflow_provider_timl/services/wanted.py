"""Reads from the database what is wanted, in the form that ``plan`` takes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_provider_timl.backends.contract import GatewayKey, InstanceSpec
from airflow_provider_timl.database.tables import RevisionRow, ServiceRow
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
    state: ServiceState
    generation: int
    observed_generation: int


def list_service_records(session: Session) -> list[ServiceRecord]:
    """Services that are not deleted yet."""
    query = select(ServiceRow).where(ServiceRow.deleted_at.is_(None)).order_by(ServiceRow.id)
    return [
        ServiceRecord(row.id, row.name, ServiceState(row.state), row.generation, row.observed_generation)
        for row in session.scalars(query)
    ]


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
