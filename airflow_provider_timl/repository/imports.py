"""Fetches a third-party model from COS into a local folder: a file, a prefix, or an archive that is unpacked.

Nothing in an archive may leave the folder, link anywhere, or unpack to more than the limit; sizes are counted while
unpacking, never believed.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from airflow_provider_timl.artifacts import check_relative_path, translate_s3_errors
from airflow_provider_timl.cos_paths import CosPath
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, NotFoundError, TooLargeError

_CHUNK_BYTES = 1024 * 1024
_MOST_FILES = 10_000
_TAR_ENDINGS = (".tar.gz", ".tgz")


def download_model(client: Any, path: CosPath, folder: Path, max_bytes: int) -> Path:
    """Download to below ``folder``; the folder that holds the model's files.

    :param client: a boto3 S3 client.
    :raises NotFoundError: nothing is there.
    :raises TooLargeError: more than ``max_bytes``, or too many files.
    """
    objects = _list_objects(client, path)
    if sum(size for _, size in objects) > max_bytes or len(objects) > _MOST_FILES:
        raise TooLargeError(f"{path} holds more than {max_bytes} bytes or {_MOST_FILES} files", field="cos_path")
    target = folder / "model"
    for key, _ in objects:
        name = key[len(path.key) :].lstrip("/") if key != path.key else key.rpartition("/")[2]
        file = target / check_relative_path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with translate_s3_errors(str(path)):
            client.download_file(path.bucket, key, str(file))
    files = [entry for entry in target.rglob("*") if entry.is_file()]
    if len(files) == 1 and files[0].name.lower().endswith((".zip", *_TAR_ENDINGS)):
        return _strip_single_folder(_unpack(files[0], folder / "unpacked", max_bytes))
    return target


def _list_objects(client: Any, path: CosPath) -> list[tuple[str, int]]:
    """Keys and sizes: of the object itself, or of what is below it as a prefix."""
    prefix = path.key if not path.key or path.key.endswith("/") else f"{path.key}/"
    exact, below = [], []
    with translate_s3_errors(str(path)):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=path.bucket, Prefix=path.key):
            for item in page.get("Contents", ()):
                entry = (item["Key"], item["Size"])
                if item["Key"] == path.key and not path.key.endswith("/"):
                    exact.append(entry)
                elif item["Key"].startswith(prefix) and not item["Key"].endswith("/"):
                    below.append(entry)
            if len(below) > _MOST_FILES:
                break
    found = exact or below
    if not found:
        raise NotFoundError("COS object", str(path))
    return found


def _unpack(archive: Path, target: Path, max_bytes: int) -> Path:
    """:raises InvalidModelError: damaged, or with members that are no plain files below it."""
    target.mkdir()
    left_bytes, count = max_bytes, 0
    iterate = _iterate_zip if archive.name.lower().endswith(".zip") else _iterate_tar
    try:
        for name, source in iterate(archive):
            count += 1
            if count > _MOST_FILES:
                raise TooLargeError(f"the archive holds more than {_MOST_FILES} files", field="cos_path")
            left_bytes -= _copy_bounded(source, target / _check_member(name), left_bytes, max_bytes)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as exc:
        raise InvalidModelError(f"the archive cannot be unpacked: {exc}") from exc
    return target


def _iterate_zip(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as source:
        for member in source.infolist():
            mode = member.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InvalidModelError(f"the archive's member {member.filename!r} is a link or a special file")
            if not member.is_dir():
                with source.open(member) as content:
                    yield member.filename, content


def _iterate_tar(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:gz") as source:
        for member in source:
            if not (member.isreg() or member.isdir()):
                raise InvalidModelError(f"the archive's member {member.name!r} is a link or a special file")
            content = source.extractfile(member)
            if content is not None:
                yield member.name, content


def _check_member(name: str) -> str:
    try:
        return check_relative_path(name.removeprefix("./"))
    except InvalidInputError as exc:
        raise InvalidModelError(f"the archive's member {name!r} would leave its folder") from exc


def _copy_bounded(source: IO[bytes], target: Path, left_bytes: int, max_bytes: int) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    copied = 0
    with target.open("xb") as sink:
        while chunk := cast(BinaryIO, source).read(_CHUNK_BYTES):
            copied += len(chunk)
            if copied > left_bytes:
                raise TooLargeError(f"the archive unpacks to more than {max_bytes} bytes", field="cos_path")
            sink.write(chunk)
    return copied


def _strip_single_folder(folder: Path) -> Path:
    """Archives often hold one folder that holds the model."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
