"""Artifact stores: folders of files under a URI, with digests. Used by the server and by tasks; no Airflow here.

A store never changes what it holds: a version's files are written once below a fresh URI, and later only read or
deleted. Writes appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from airflow_provider_timl.entities import FileDigest
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError

_CHUNK_BYTES = 1024 * 1024


class ArtifactStore(Protocol):
    """Where artifacts are. Every ``uri`` names a folder."""

    def put_file(self, uri: str, path: str, source: BinaryIO) -> FileDigest:
        """Write one file at ``path`` (relative, with ``/``) below ``uri``."""

    def list_files(self, uri: str) -> list[tuple[str, int]]:
        """Relative path and size in bytes of each file below ``uri``, sorted."""

    def open_file(self, uri: str, path: str) -> BinaryIO:
        """Read one file."""

    def delete(self, uri: str) -> None:
        """Delete everything below ``uri``; nothing there is no error."""


def open_store(uri: str, s3_client: Callable[[], Any] | None = None) -> ArtifactStore:
    """The store that a URI belongs to.

    :param s3_client: makes a boto3 S3 client; called once, and only for ``s3://``.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return FileArtifactStore()
    if scheme == "s3" and s3_client is not None:
        return S3ArtifactStore(s3_client())
    raise InvalidInputError(f"{uri!r} is not a file:// or s3:// location", field="artifact_store")


def put_folder(store: ArtifactStore, uri: str, folder: Path) -> list[FileDigest]:
    """Write every file of a folder below ``uri``."""
    digests = []
    for path in list_folder(folder):
        with (folder / path).open("rb") as source:
            digests.append(store.put_file(uri, path, source))
    return digests


def verify_artifact(store: ArtifactStore, uri: str, files: Sequence[FileDigest]) -> None:
    """Check that ``uri`` holds exactly these files; every byte is read.

    :raises InvalidInputError: naming the first file that is missing, different or too many.
    """
    check_listing(dict(store.list_files(uri)), files)
    for file in files:
        with store.open_file(uri, file.path) as source:
            _check_digest(file, digest_stream(file.path, source))


def fetch_artifact(store: ArtifactStore, uri: str, files: Sequence[FileDigest], target: Path) -> Path:
    """A local folder that holds exactly these files, verified.

    For ``file://`` it is the artifact's own folder; otherwise ``target``, which is filled unless it is there already.
    """
    if urlsplit(uri).scheme == "file":
        verify_artifact(store, uri, files)
        return _to_path(uri)
    if not target.exists():
        partial = target.with_name(f"{target.name}.{uuid4().hex}.partial")
        try:
            for file in files:
                _download(store, uri, file, partial / file.path)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def check_listing(sizes: dict[str, int], files: Sequence[FileDigest]) -> None:
    """:raises InvalidInputError: the listed files are not those of the digests."""
    expected = {file.path: file.size_bytes for file in files}
    if not expected or len(expected) != len(files):
        raise InvalidInputError("an artifact needs at least one file, and each only once", field="files")
    for path, size in expected.items():
        if path not in sizes:
            raise InvalidInputError(f"file {path!r} was not uploaded", field="files")
        if sizes[path] != size:
            raise InvalidInputError(f"file {path!r} has {sizes[path]} bytes, not {size}", field="files")
    extra = sorted(set(sizes) - set(expected))
    if extra:
        raise InvalidInputError(f"file {extra[0]!r} was uploaded but is not listed", field="files")


def list_folder(folder: Path) -> list[str]:
    """Relative paths of all files, sorted.

    :raises InvalidInputError: a link or a special file is among them.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InvalidInputError(f"{path.relative_to(folder)} is a link or a special file", field="path")
            if stat.S_ISREG(mode):
                found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def digest_folder(folder: Path) -> list[FileDigest]:
    """Digest of each file of a folder, sorted by path."""
    digests = []
    for path in list_folder(folder):
        with (folder / path).open("rb") as source:
            digests.append(digest_stream(path, source))
    return digests


def compute_artifact_digest(files: Sequence[FileDigest]) -> str:
    """SHA-256 over path, size and digest of every file: the identity of an artifact's content."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        total.update(f"{file.path}\0{file.size_bytes}\0{file.sha256}\n".encode())
    return total.hexdigest()


def digest_stream(path: str, source: BinaryIO) -> FileDigest:
    reader = _DigestingReader(source)
    for _ in iter(lambda: reader.read(_CHUNK_BYTES), b""):
        pass
    return reader.build_digest(path)


def check_relative_path(path: str) -> str:
    """:raises InvalidInputError: the path is absolute, or leaves its folder, or is not in its shortest form."""
    parts = PurePosixPath(path).parts
    plain = path and "\\" not in path and "\0" not in path and str(PurePosixPath(path)) == path
    if not plain or path.startswith("/") or ".." in parts or path == ".":
        raise InvalidInputError(f"{path!r} is not a plain relative path", field="files")
    return path


class FileArtifactStore:
    """``file://`` folders. Files are private to the user (0600), written beside and renamed."""

    def put_file(self, uri: str, path: str, source: BinaryIO) -> FileDigest:
        target = _to_path(uri) / check_relative_path(path)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = target.with_name(f".{uuid4().hex}.partial")
        reader = _DigestingReader(source)
        try:
            with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as sink:
                shutil.copyfileobj(reader, sink, _CHUNK_BYTES)
                sink.flush()
                os.fsync(sink.fileno())
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
        return reader.build_digest(path)

    def list_files(self, uri: str) -> list[tuple[str, int]]:
        folder = _to_path(uri)
        return [(path, (folder / path).stat().st_size) for path in list_folder(folder)]

    def open_file(self, uri: str, path: str) -> BinaryIO:
        file = os.open(_to_path(uri) / check_relative_path(path), os.O_RDONLY | os.O_NOFOLLOW)
        return open(file, "rb")

    def delete(self, uri: str) -> None:
        folder = _to_path(uri)
        if folder.exists():
            shutil.rmtree(folder)


class S3ArtifactStore:
    """``s3://bucket/prefix`` objects, COS included. An object appears whole when its upload ends."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def put_file(self, uri: str, path: str, source: BinaryIO) -> FileDigest:
        bucket, key = split_s3_uri(uri, check_relative_path(path))
        reader = _DigestingReader(source)
        with translate_s3_errors(uri):
            self._client.upload_fileobj(reader, bucket, key)
        return reader.build_digest(path)

    def list_files(self, uri: str) -> list[tuple[str, int]]:
        bucket, prefix = split_s3_uri(uri, "")
        found = []
        with translate_s3_errors(uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                found += [(item["Key"][len(prefix) :], item["Size"]) for item in page.get("Contents", ())]
        return sorted((path, size) for path, size in found if path and not path.endswith("/"))

    def open_file(self, uri: str, path: str) -> BinaryIO:
        bucket, key = split_s3_uri(uri, check_relative_path(path))
        with translate_s3_errors(uri):
            body: BinaryIO = self._client.get_object(Bucket=bucket, Key=key)["Body"]
        return body

    def delete(self, uri: str) -> None:
        bucket, prefix = split_s3_uri(uri, "")
        with translate_s3_errors(uri):
            for path, _ in self.list_files(uri):
                self._client.delete_object(Bucket=bucket, Key=prefix + path)


def split_s3_uri(uri: str, path: str) -> tuple[str, str]:
    """Bucket, and the key of ``path`` below ``uri``."""
    parts = urlsplit(uri)
    return parts.netloc, f"{unquote(parts.path).strip('/')}/{path}"


class _DigestingReader:
    """Reads on from ``source`` while it counts and hashes, so that no byte is read twice."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._sha256.update(chunk)
        self._size += len(chunk)
        return chunk

    def build_digest(self, path: str) -> FileDigest:
        return FileDigest(path=path, size_bytes=self._size, sha256=self._sha256.hexdigest())


@contextmanager
def translate_s3_errors(uri: str) -> Iterator[None]:
    """Turn boto3's errors into ours where they arise."""
    from botocore.exceptions import BotoCoreError, ClientError  # heavy, and file:// needs none of it

    try:
        yield
    except (BotoCoreError, ClientError) as exc:
        raise ExternalSystemError(
            f"object storage refused or did not answer for {uri}: {exc}; "
            "check the connection's endpoint, credentials and rights"
        ) from exc


def _download(store: ArtifactStore, uri: str, file: FileDigest, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with store.open_file(uri, file.path) as source, target.open("wb") as sink:
        reader = _DigestingReader(source)
        shutil.copyfileobj(reader, sink, _CHUNK_BYTES)
    _check_digest(file, reader.build_digest(file.path))


def _check_digest(expected: FileDigest, found: FileDigest) -> None:
    if found != expected:
        raise InvalidInputError(f"file {expected.path!r} is not what its SHA-256 says", field="files")


def _to_path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
