"""Fetches a third-party model from COS into a local folder: a file, a prefix, or an archive that is unpacked.

Talks to the given client and to nothing else, and follows no links. Starts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow_provider_timl.artifacts import check_relative_path, translate_file_errors, translate_s3_errors
from airflow_provider_timl.cos_paths import CosPath
from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError, TooLargeError
from airflow_provider_timl.repository import archives
from airflow_provider_timl.repository.checks import MOST_FILES
from airflow_provider_timl.settings import Settings


def download_model(client: Any, path: CosPath, folder: Path, settings: Settings) -> Path:
    """Download to below ``folder``; the folder that holds the model's files.

    :param client: a boto3 S3 client of the connection ``settings.cos_conn_id``.
    :raises NotFoundError: nothing is there.
    :raises TooLargeError: more than ``settings.max_model_bytes``, or too many files.
    """
    with translate_s3_errors(str(path), f"connection {settings.cos_conn_id!r}"):
        objects = _list_objects(client, path)
        _check_size(path, objects, settings.max_model_bytes)
        files = [_download(client, path, key, folder / "model") for key, _ in objects]
    if len(files) == 1 and files[0].name.lower().endswith(archives.ENDINGS):
        return archives.unpack_archive(files[0], folder / "unpacked", settings.max_model_bytes, MOST_FILES)
    return folder / "model"


def _list_objects(client: Any, path: CosPath) -> list[tuple[str, int]]:
    """Keys and sizes: of the object itself, or else of what is below it as a prefix (one more than allowed at most)."""
    try:
        if path.key and not path.key.endswith("/"):
            first = client.list_objects_v2(Bucket=path.bucket, Prefix=path.key, MaxKeys=1).get("Contents", ())
            if first and first[0]["Key"] == path.key:
                return [(path.key, first[0]["Size"])]
        found: list[tuple[str, int]] = []
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=path.bucket, Prefix=_to_prefix(path)):
            items = page.get("Contents", ())
            found += [(item["Key"], item["Size"]) for item in items if not item["Key"].endswith("/")]
            if len(found) > MOST_FILES:
                break
    except client.exceptions.NoSuchBucket as exc:
        raise NotFoundError("COS bucket", path.bucket) from exc
    if not found:
        raise NotFoundError("COS object", str(path))
    return found


def _check_size(path: CosPath, objects: Sequence[tuple[str, int]], max_bytes: int) -> None:
    if sum(size for _, size in objects) > max_bytes or len(objects) > MOST_FILES:
        raise TooLargeError(f"{path} holds more than {max_bytes} bytes or {MOST_FILES} files", field="cos_path")


def _download(client: Any, path: CosPath, key: str, target: Path) -> Path:
    name = key.rpartition("/")[2] if key == path.key else key.removeprefix(_to_prefix(path))
    file = target / check_relative_path(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise InvalidInputError(f"{path} has an object and a folder of the same name at {name!r}", "cos_path") from exc
    with translate_file_errors(str(path)):
        client.download_file(path.bucket, key, str(file))
    return file


def _to_prefix(path: CosPath) -> str:
    return path.key if not path.key or path.key.endswith("/") else f"{path.key}/"
