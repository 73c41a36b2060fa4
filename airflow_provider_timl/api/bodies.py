"""Bodies and parameters of requests. Unknown fields are errors, so that a typo is never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from airflow_provider_timl.entities import (
    NAME_PATTERN,
    SERVICE_NAME_PATTERN,
    AliasName,
    FileDigest,
    Lineage,
    ModelName,
    Percent,
    Resources,
    ServiceName,
)

_MOST_FILES = 10_000
Item = TypeVar("Item")
Tags = Annotated[dict[str, str], Field(max_length=100)]
Metrics = Annotated[dict[str, float], Field(max_length=100)]
Version = Annotated[int, Field(ge=1, lt=2**31)]

ModelPath = Annotated[str, Path(pattern=NAME_PATTERN)]
ServicePath = Annotated[str, Path(pattern=SERVICE_NAME_PATTERN)]
VersionPath = Annotated[int, Path(ge=1, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0)]
Wait = Annotated[float, Query(ge=0, le=3600, description="seconds to wait until the gateway serves the change")]


class Listing(BaseModel, Generic[Item]):
    items: list[Item]
    total: int
    limit: int
    offset: int


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class BeginUpload(Body):
    model_type: str


class Description(Body):
    """What may be said of a version when it is made."""

    metrics: Metrics = {}
    tags: Tags = {}
    aliases: list[AliasName] = Field(default=[], max_length=20)
    lineage: Lineage | None = None


class CommitUpload(Description):
    upload_id: str
    model_type: str
    files: list[FileDigest] = Field(min_length=1, max_length=_MOST_FILES)
    source_uri: str | None = None


class ImportModel(Description):
    model_name: ModelName
    model_type: str
    cos_path: str


class UpdateVersion(Body):
    tags: Tags | None = None
    metrics: Metrics | None = None


class SetAlias(Body):
    version: Version


class AddVersion(Body):
    """Neither ``version`` nor ``alias``: the latest. Without ``runtime``: the one of the model's type. What its
    ``options`` may be, ``GET /runtimes`` lists."""

    version: Version | None = None
    alias: AliasName | None = None
    runtime: str | None = None
    options: dict[str, Any] = {}
    resources: Resources = Resources()
    instances: int = Field(default=1, ge=1, le=64)
    lineage: Lineage | None = None


class CreateService(AddVersion):
    name: ServiceName
    model: ModelName


class SetTraffic(Body):
    """Percent by version; the sum is exactly 100, versions that are not named get 0."""

    traffic: dict[Version, Percent] = Field(min_length=1)
    lineage: Lineage | None = None


class Rollback(Body):
    revision: int = Field(ge=1)
    lineage: Lineage | None = None


class CreateKey(Body):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    expires_at: AwareDatetime | None = None


class SetKeyEnabled(Body):
    enabled: bool


class TestService(Body):
    """Without ``body``: the example of the version's signature."""

    __test__ = False

    body: dict[str, Any] | None = None
    version: Version | None = None
