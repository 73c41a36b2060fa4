"""The product's nouns as frozen values: what the API answers, the hook returns, and the layers pass to each other.

One definition serves the database layer (which builds them), the API (response models, OpenAPI), the hook and the CLI
(which parse them). They hold no behaviour and no secret. Times are UTC; percents are 0-100 in whole hundredths.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from airflow_provider_timl.states import ModelSource, ServiceState, ServiceVersionState

#: A name that is also a DNS label: it becomes part of a host name and of file names.
NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$"
#: The first label of a host is ``<service>-<8 hex>`` and may have 63 characters.
SERVICE_NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,52}[a-z0-9])?$"

ModelName = Annotated[str, Field(pattern=NAME_PATTERN, description="lower-case letters, digits, '-' and '_'")]
ServiceName = Annotated[str, Field(pattern=SERVICE_NAME_PATTERN, description="lower-case letters, digits and '-'")]
AliasName = Annotated[str, Field(pattern=r"^[a-z](?:[a-z0-9_-]{0,62})$")]


def _whole_hundredths(percent: float) -> float:
    if abs(percent * 100 - round(percent * 100)) > 1e-6:
        raise ValueError("a percent has at most two decimals")
    return round(percent, 2)


Percent = Annotated[float, Field(ge=0, le=100), AfterValidator(_whole_hundredths)]


class Entity(BaseModel):
    """Base of all: immutable, and unknown fields are errors so that a typo is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Page(BaseModel):
    """Where a list starts and how many it has in all."""

    total: int
    limit: int
    offset: int


class FileDigest(Entity):
    """One file of an artifact; ``path`` is relative to the artifact, with ``/``."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class SignatureField(Entity):
    """One input or output of a model.

    ``shape`` is that of one instance (``[]`` for a scalar, ``None`` for an unknown size); ``values`` are the categories
    allowed, ``None`` when any value of ``dtype`` is.
    """

    name: str
    dtype: str
    shape: list[int | None] = []
    required: bool = True
    values: list[Any] | None = None


class Signature(Entity):
    """What a model takes and gives. ``example`` is a request body that was run when the model was inspected."""

    inputs: list[SignatureField]
    outputs: list[SignatureField]
    example: dict[str, Any] | None = None


class InspectionReport(Entity):
    """What inspection found out about an accepted model; a refused one raises ``InvalidModelError`` instead."""

    model_type: str
    checks: list[str]
    signature: Signature | None = None
    framework: dict[str, str] = {}


class Lineage(Entity):
    """The task instance that made something."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


class Upload(Entity):
    """A begun upload: write the files below ``uri``, then commit.

    ``conn_id`` is the Airflow connection for an ``s3://`` uri, ``None`` for ``file://``.
    """

    id: str
    uri: str
    conn_id: str | None = None


class ModelVersion(Entity):
    model: str
    version: int
    model_type: str
    uri: str
    digest: str
    files: list[FileDigest]
    inspection: InspectionReport
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    aliases: list[str] = []
    source: ModelSource
    source_uri: str | None = None
    lineage: Lineage | None = None
    created_at: datetime
    created_by: str


class Model(Entity):
    name: str
    model_type: str
    latest_version: int | None
    aliases: dict[str, int] = {}
    created_at: datetime
    created_by: str


class ModelDetail(Model):
    versions: list[ModelVersion]


class Runtime(Entity):
    """A program that serves a model type here, and whether what it needs is installed. ``options`` is the JSON schema
    of what it can be deployed with."""

    name: str
    model_type: str
    options: dict[str, Any]
    installed: bool
    missing: str | None = None


class Resources(Entity):
    """What one instance may use: ``cpu`` cores, ``memory_mb`` MiB of resident memory, whole ``gpu`` devices."""

    cpu: float = Field(default=1.0, gt=0, le=1024)
    memory_mb: int = Field(default=512, ge=128, le=16_777_216)
    gpu: int = Field(default=0, ge=0, le=64)


class ServiceVersionSpec(Entity):
    """What is wanted of one version of a service. ``version`` is the model version's number, ``options`` are those of
    its runtime that differ from the defaults."""

    version: int = Field(ge=1)
    runtime: str
    options: dict[str, Any] = {}
    resources: Resources = Resources()
    instances: int = Field(default=1, ge=1, le=64)
    traffic_percent: Percent = 0


class ServiceSpec(Entity):
    """What is wanted of a whole service: the content of a revision."""

    versions: list[ServiceVersionSpec]


class Revision(Entity):
    number: int
    spec: ServiceSpec
    action: str
    created_by: str
    created_at: datetime
    lineage: Lineage | None = None


class ServiceVersion(Entity):
    version: int
    state: ServiceVersionState
    instances: int
    ready_instances: int
    traffic_percent: float
    runtime: str
    options: dict[str, Any] = {}
    resources: Resources
    reason: str | None = None


class Service(Entity):
    """A service as it is. ``in_sync``: the gateway serves exactly what ``revision`` and the keys ask for."""

    name: str
    model: str
    model_type: str
    host: str
    gateway_url: str
    state: ServiceState
    revision: int
    in_sync: bool
    versions: list[ServiceVersion]
    created_at: datetime
    created_by: str


class AccessKey(Entity):
    """An access key without its secret; ``masked`` shows the last four characters."""

    id: int
    name: str
    masked: str
    enabled: bool
    expires_at: datetime | None = None
    created_at: datetime
    created_by: str


class AccessKeySecret(AccessKey):
    secret: str


class Event(Entity):
    """One audited change."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any] = {}


class LogChunk(Entity):
    """The end of one instance's log."""

    instance: str
    version: int
    text: str


class TestAnswer(Entity):
    """What the gateway answered to a test request."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    status: int
    body: Any
    version: str | None
    duration_ms: float
