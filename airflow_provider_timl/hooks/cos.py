"""COS through its S3 API: an S3 hook with COS' addressing and spellings of paths."""

from __future__ import annotations

from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.config import Config

from airflow_provider_timl.cos_paths import CosPath, parse_cos_path


class COSHook(S3Hook):
    """An S3 hook for COS. The connection is of type ``aws`` with ``endpoint_url`` in its extra.

    COS wants the bucket in the host name ("virtual" addressing); a connection whose ``config_kwargs`` say otherwise is
    obeyed.

    :param aws_conn_id: connection; its login and password are SecretId and SecretKey.
    """

    default_conn_name = "cos_default"
    hook_name = "Tencent Cloud COS"

    def __init__(self, aws_conn_id: str | None = default_conn_name, **kwargs: Any) -> None:
        super().__init__(aws_conn_id=aws_conn_id, **kwargs)

    def get_client_type(
        self, region_name: str | None = None, config: Config | None = None, deferrable: bool = False
    ) -> Any:
        asked = config or self.config
        style = (asked.s3 or {}).get("addressing_style") if asked else None
        own = Config(
            s3={"addressing_style": style or "virtual"},
            # COS refuses the checksums that boto3 adds by itself since 1.36
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return super().get_client_type(region_name, asked.merge(own) if asked else own, deferrable)

    @staticmethod
    def parse_path(path: str, field: str = "cos_path") -> CosPath:
        """Bucket and key of ``cos://``, ``s3://`` or ``https://<bucket>.cos.<region>.myqcloud.com/`` paths."""
        return parse_cos_path(path, field)
