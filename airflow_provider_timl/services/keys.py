"""Access keys: made here, encrypted at rest, shown only through ``reveal``.

The gateway needs the key itself (it compares), so keys are encrypted, not hashed; see docs/adr.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from airflow_provider_timl.database.sessions import record_event
from airflow_provider_timl.database.tables import AccessKeyRow, ServiceRow
from airflow_provider_timl.entities import AccessKey, AccessKeySecret
from airflow_provider_timl.exceptions import ConflictError, InvalidInputError, NotFoundError

_KEY_BYTES = 20
_SHOWN_CHARACTERS = 4


class KeyCipher:
    """Encrypts with the newest key, decrypts with any: Airflow's own convention for rotating Fernet keys."""

    def __init__(self, encryption_key: str) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key.strip()) for key in encryption_key.split(",")])
        except ValueError as exc:
            raise InvalidInputError(
                "not a Fernet key; make one with `python -c 'from cryptography.fernet import Fernet; "
                "print(Fernet.generate_key().decode())'`",
                field="[timl] encryption_key",
            ) from exc

    def encrypt(self, secret: str) -> bytes:
        return self._fernet.encrypt(secret.encode())

    def decrypt(self, ciphertext: bytes) -> str:
        try:
            return self._fernet.decrypt(ciphertext).decode()
        except InvalidToken as exc:
            raise InvalidInputError(
                "an access key was encrypted with another key; put the former one back behind a comma",
                field="[timl] encryption_key",
            ) from exc


def add_key(
    session: Session, cipher: KeyCipher, service: ServiceRow, *, name: str, expires_at: datetime | None, actor: str
) -> AccessKeyRow:
    """Make a key in the caller's transaction.

    :raises ConflictError: the service has a key of that name.
    """
    secret = secrets.token_hex(_KEY_BYTES)
    row = AccessKeyRow(
        service_id=service.id,
        name=name,
        masked="…" + secret[-_SHOWN_CHARACTERS:],
        ciphertext=cipher.encrypt(secret),
        expires_at=expires_at,
        created_by=actor,
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as exc:
        raise ConflictError(f"service {service.name!r} has a key {name!r} already") from exc
    record_event(session, actor, "create_key", f"service:{service.name}", key=name)
    return row


def list_key_rows(session: Session, service_id: int) -> list[AccessKeyRow]:
    query = select(AccessKeyRow).where(AccessKeyRow.service_id == service_id).order_by(AccessKeyRow.id)
    return list(session.scalars(query))


def get_key_row(session: Session, service: ServiceRow, key_id: int) -> AccessKeyRow:
    """:raises NotFoundError: the service has no key of that number."""
    row = session.get(AccessKeyRow, key_id)
    if row is None or row.service_id != service.id:
        raise NotFoundError("key", f"{key_id} of service {service.name}")
    return row


def is_usable(row: AccessKeyRow, now: datetime) -> bool:
    return row.enabled and (row.expires_at is None or row.expires_at > now)


def to_access_key(row: AccessKeyRow) -> AccessKey:
    return AccessKey(
        id=row.id,
        name=row.name,
        masked=row.masked,
        enabled=row.enabled,
        expires_at=row.expires_at,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def reveal(row: AccessKeyRow, cipher: KeyCipher) -> AccessKeySecret:
    return AccessKeySecret(**to_access_key(row).model_dump(), secret=cipher.decrypt(row.ciphertext))
