"""Names of objects in COS or another S3 store, in each spelling that users have. Used by server and tasks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from airflow_provider_timl.exceptions import InvalidInputError

_COS_HOST = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9-]*-\d+)\.cos\.(?P<region>[a-z0-9-]+)\.myqcloud\.com")
_FORMS = "cos://bucket/key, s3://bucket/key or https://bucket-appid.cos.<region>.myqcloud.com/key"


@dataclass(frozen=True)
class CosPath:
    """A bucket and a key; ``key`` may be a prefix, and is empty for the whole bucket."""

    bucket: str
    key: str
    region: str | None = None

    def __str__(self) -> str:
        return f"cos://{self.bucket}/{self.key}"


def parse_cos_path(path: str, field: str = "cos_path") -> CosPath:
    """:raises InvalidInputError: it is none of the forms; names ``field``."""
    try:
        parts = urlsplit(path)
    except ValueError as exc:
        raise InvalidInputError(f"{path!r} is not a COS path: {exc}; write {_FORMS}", field=field) from exc
    if parts.query or parts.fragment or parts.username or parts.password:
        raise InvalidInputError("signed or parametrised addresses are not accepted; use a connection", field=field)
    if parts.scheme in {"cos", "s3"} and parts.netloc:
        return CosPath(parts.netloc, unquote(parts.path).lstrip("/"))
    match = _COS_HOST.fullmatch(parts.netloc)
    if parts.scheme == "https" and match:
        return CosPath(match["bucket"], unquote(parts.path).lstrip("/"), match["region"])
    raise InvalidInputError(f"{path!r} is not a COS path; write {_FORMS}", field=field)
