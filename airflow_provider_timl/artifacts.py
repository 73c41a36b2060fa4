"""Artifact stores: folders of files under a URI, with digests. Used by the server and by tasks; no Airflow here.

A store never changes what it holds: a version's files are written once below a fresh URI, and later only read or
deleted. A file appears whole or not at all, and memory is bounded whatever its size. Nothing is started here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from airflow_provider_timl.entities import FileDigest
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError

_CHUNK_BYTES = 1024 * 1024
_PART_BYTES = 16 * 1024 * 1024
_UPLOAD_THREADS = 4
#: What file systems and object keys allow, with room for the artifact's own folder.
_LONGEST_NAME_BYTES, _LONGEST_PATH_BYTES = 255, 700


class ArtifactStore(Protocol):
    """Where artifacts are. Every ``uri`` names a folder.

    All methods raise ``ExternalSystemError`` when the store does not do what it must (refused, unreachable, full).
    """

    def put_file(self, uri: str, path: str, source: BinaryIO) -> FileDigest:
        """Write one file at ``path`` (relative, with ``/``) below ``uri``."""

    def list_files(self, uri: str) -> list[tuple[str, int]]:
        """Relative path and size in bytes of each file below ``uri``, sorted."""

    def read_file(self, uri: str, path: str) -> Iterator[bytes]:
        """The content of one file, in chunks of at most 1 MiB."""

    def delete(self, uri: str) -> None:
        """Delete everything below ``uri``, half-written files too; nothing there is no error."""


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
    """Write every file of a folder below ``uri``; digests sorted by path.

    :raises InvalidInputError: the folder holds a link or a special file; nothing was written.
    """
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
        _check_digest(file, _digest_chunks(file.path, store.read_file(uri, file.path)))


def fetch_artifact(store: ArtifactStore, uri: str, files: Sequence[FileDigest], target: Path) -> Path:
    """A local folder that holds exactly these files, every byte verified.

    For ``file://`` it is the artifact's own folder; otherwise ``target``, which is filled unless it is there already
    (it appears whole, so several may fetch the same one at a time).

    :raises InvalidInputError: as ``verify_artifact``.
    """
    if urlsplit(uri).scheme == "file":
        verify_artifact(store, uri, files)
        return _to_path(uri)
    if not target.exists():
        check_listing(dict(store.list_files(uri)), files)
        partial = target.with_name(f"{target.name}.{uuid4().hex}.partial")
        try:
            for file in files:
                _download(store, uri, file, partial / file.path)
            _rename_unless_there(partial, target)
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
    """Relative paths of all files, sorted; none when there is no such folder.

    :raises InvalidInputError: a link, a special file, or a name that an artifact cannot have is among them.
    """
    found = []
    for parent, folders, names in os.walk(folder, onerror=_raise_unless_absent):
        for name in (*folders, *names):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InvalidInputError(f"{relative!r} is a link or a special file", field="path")
            if stat.S_ISREG(mode):
                found.append(check_relative_path(relative))
    return sorted(found)


def digest_folder(folder: Path) -> list[FileDigest]:
    """Digest of each file of a folder, sorted by path."""
    return [_digest_chunks(path, _read_chunks(folder / path)) for path in list_folder(folder)]


def compute_artifact_digest(files: Sequence[FileDigest]) -> str:
    """SHA-256 over path, size and digest of every file: the identity of an artifact's content."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        total.update(f"{file.path}\0{file.size_bytes}\0{file.sha256}\n".encode())
    return total.hexdigest()


def check_relative_path(path: str) -> str:
    """:raises InvalidInputError: it is absolute, leaves its folder, is not in its shortest form, or too long."""
    plain = path not in {"", "."} and "\\" not in path and "\0" not in path and str(PurePosixPath(path)) == path
    parts = PurePosixPath(path).parts
    if not plain or path.startswith("/") or ".." in parts:
        raise InvalidInputError(f"{path!r} is not a plain relative path", field="files")
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as exc:
        raise InvalidInputError(f"{path!r} is not UTF-8", field="files") from exc
    if max(lengths) > _LONGEST_NAME_BYTES or sum(lengths) + len(lengths) > _LONGEST_PATH_BYTES:
        raise InvalidInputError(f"the path {path[:80]!r}... is too long", field="files")
    return path


class FileArtifactStore:
    """``file://`` folders. Files are private to the user (0600 below 0700), written beside, synced and renamed."""

    def put_file(self, uri: str, path: str, source: BinaryIO) -> FileDigest:
        target = _to_path(uri) / check_relative_path(path)
        partial = target.with_name(f".{uuid4().hex}.partial")
        reader = _DigestingReader(source)
        with translate_file_errors(uri):
            _make_private_folder(target.parent)
            try:
                with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as sink:
                    shutil.copyfileobj(reader, sink, _CHUNK_BYTES)
                    sink.flush()
                    os.fsync(sink.fileno())
                partial.rename(target)
                _sync_folder(target.parent)
            finally:
                partial.unlink(missing_ok=True)
        return reader.build_digest(path)

    def list_files(self, uri: str) -> list[tuple[str, int]]:
        folder = _to_path(uri)
        with translate_file_errors(uri):
            return [(path, (folder / path).lstat().st_size) for path in list_folder(folder)]

    def read_file(self, uri: str, path: str) -> Iterator[bytes]:
        with translate_file_errors(uri):
            yield from _read_chunks(_to_path(uri) / check_relative_path(path))

    def delete(self, uri: str) -> None:
        folder = _to_path(uri)
        with translate_file_errors(uri):
            while folder.exists():
                try:
                    shutil.rmtree(folder)
                except FileNotFoundError:  # somebody else deletes it too
                    continue


class S3ArtifactStore:
    """``s3://bucket/prefix`` objects, COS included. An object appears whole when its upload ends.

    :param client: a boto3 S3 client; may be used by several threads.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def put_file(self, uri: str, path: str, source: BinaryIO) -> FileDigest:
        from boto3.s3.transfer import TransferConfig

        bucket, key = split_s3_uri(uri, check_relative_path(path))
        parts = TransferConfig(
            multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=_UPLOAD_THREADS
        )
        reader = _DigestingReader(source)
        with translate_s3_errors(uri):
            self._client.upload_fileobj(reader, bucket, key, Config=parts)
        return reader.build_digest(path)

    def list_files(self, uri: str) -> list[tuple[str, int]]:
        bucket, prefix = split_s3_uri(uri, "")
        found = []
        with translate_s3_errors(uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                found += [(item["Key"][len(prefix) :], item["Size"]) for item in page.get("Contents", ())]
        return sorted((path, size) for path, size in found if path and not path.endswith("/"))

    def read_file(self, uri: str, path: str) -> Iterator[bytes]:
        bucket, key = split_s3_uri(uri, check_relative_path(path))
        with translate_s3_errors(uri):
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            try:
                yield from iter(lambda: body.read(_CHUNK_BYTES), b"")
            finally:
                body.close()

    def delete(self, uri: str) -> None:
        bucket, prefix = split_s3_uri(uri, "")
        with translate_s3_errors(uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    self._client.delete_object(Bucket=bucket, Key=item["Key"])
            # what a killed upload leaves is in no listing, but takes space
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
                for left in page.get("Uploads", ()):
                    self._client.abort_multipart_upload(Bucket=bucket, Key=left["Key"], UploadId=left["UploadId"])


def split_s3_uri(uri: str, path: str) -> tuple[str, str]:
    """Bucket, and the key of ``path`` below ``uri``."""
    parts = urlsplit(uri)
    return parts.netloc, f"{unquote(parts.path).strip('/')}/{path}"


@contextmanager
def translate_s3_errors(subject: str, connection: str = "the connection") -> Iterator[None]:
    """Turn boto3's errors into ours where they arise.

    :param connection: what the message tells to check.
    """
    from boto3.exceptions import Boto3Error  # heavy, and file:// needs none of it
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as exc:
        raise ExternalSystemError(
            f"object storage refused or did not answer for {subject}: {exc}; "
            f"check endpoint, credentials and rights of {connection}"
        ) from exc


@contextmanager
def translate_file_errors(subject: str) -> Iterator[None]:
    """Turn errors of the file system into ours where they arise."""
    try:
        yield
    except OSError as exc:
        raise ExternalSystemError(f"the file system failed for {subject}: {exc}; check space and rights there") from exc


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


def _digest_chunks(path: str, chunks: Iterable[bytes]) -> FileDigest:
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        size += len(chunk)
    return FileDigest(path=path, size_bytes=size, sha256=sha256.hexdigest())


def _read_chunks(path: Path) -> Iterator[bytes]:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source:
        yield from iter(lambda: source.read(_CHUNK_BYTES), b"")


def _download(store: ArtifactStore, uri: str, file: FileDigest, target: Path) -> None:
    with translate_file_errors(str(target)):
        _make_private_folder(target.parent)
        with target.open("xb") as sink:
            _check_digest(file, _digest_chunks(file.path, _copy_through(store.read_file(uri, file.path), sink)))
            sink.flush()
            os.fsync(sink.fileno())


def _copy_through(chunks: Iterable[bytes], sink: BinaryIO) -> Iterator[bytes]:
    for chunk in chunks:
        sink.write(chunk)
        yield chunk


def _check_digest(expected: FileDigest, found: FileDigest) -> None:
    if found != expected:
        raise InvalidInputError(f"file {expected.path!r} is not what its SHA-256 says", field="files")


def _rename_unless_there(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.exists():  # otherwise somebody else was faster, with the same files
            raise


def _make_private_folder(folder: Path) -> None:
    """With its parents; ``mkdir(parents=True)`` would give its mode to the last one only."""
    if not folder.is_dir():
        _make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _to_path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
