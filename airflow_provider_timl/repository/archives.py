"""Unpacks an archive that somebody else made: what it says about itself is never believed.

Nothing may leave the folder, link anywhere, or unpack to more than the limits; sizes are counted while unpacking. No
single read is large, because the sizes of headers are claims too.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from airflow_provider_timl.artifacts import check_relative_path, translate_file_errors
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, TooLargeError

ENDINGS = (".zip", ".tar.gz", ".tgz")
_CHUNK_BYTES = 1024 * 1024
_LARGEST_READ_BYTES = 16 * 1024 * 1024
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # a zip with a password
    ValueError,  # numbers and dates that are none
)
Member = tuple[str, IO[bytes] | None]


def unpack_archive(archive: Path, target: Path, max_bytes: int, max_files: int) -> Path:
    """Unpack into the new folder ``target``.

    :return: the folder that holds the files: ``target``, or the one folder in it, as archives often have one.
    :raises InvalidModelError: damaged, or with members that are no plain files below it.
    :raises TooLargeError: over a limit; nothing after it was unpacked.
    """
    target.mkdir()
    left_bytes, count = max_bytes, 0
    iterate = _iterate_zip if archive.name.lower().endswith(".zip") else _iterate_tar
    try:
        for name, content in iterate(archive):
            count += 1  # folders too: the libraries remember every member
            if count > max_files:
                raise TooLargeError(f"the archive has more than {max_files} members", field="cos_path")
            if content is not None:
                left_bytes -= _write_member(content, target / _check_member(name), left_bytes, max_bytes)
    except _DAMAGED as exc:
        raise InvalidModelError(f"the archive cannot be unpacked: {exc}") from exc
    entries = list(target.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def _iterate_zip(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as file, zipfile.ZipFile(_bound_reads(file)) as source:
        for member in source.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise InvalidModelError(f"the archive's member {member.filename!r} is a link or a special file")
            if member.is_dir():
                yield member.filename, None
            else:
                with source.open(member) as content:
                    yield member.filename, content


def _iterate_tar(archive: Path) -> Iterator[Member]:
    with gzip.open(archive) as file, tarfile.open(fileobj=_bound_reads(file), mode="r:") as source:
        while (member := source.next()) is not None:
            if not (member.isreg() or member.isdir()):
                raise InvalidModelError(f"the archive's member {member.name!r} is a link or a special file")
            yield member.name, source.extractfile(member)


class _SmallReads:
    """A file that refuses large reads: what a header claims is read at once by the libraries."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        asked = size if 0 <= size <= _LARGEST_READ_BYTES else _LARGEST_READ_BYTES + 1
        content: bytes = self._file.read(asked)
        if len(content) > _LARGEST_READ_BYTES:
            raise InvalidModelError("the archive has a header of more than 16 MiB; refused")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _bound_reads(file: Any) -> IO[bytes]:
    return cast(IO[bytes], _SmallReads(file))


def _check_member(name: str) -> str:
    try:
        return check_relative_path(name.removeprefix("./"))
    except InvalidInputError as exc:
        raise InvalidModelError(f"the archive has a member that may not be: {exc}") from exc


def _write_member(content: IO[bytes], target: Path, left_bytes: int, max_bytes: int) -> int:
    """:return: bytes written."""
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sink = target.open("xb")
    except (FileExistsError, NotADirectoryError) as exc:
        raise InvalidModelError(f"the archive has two members at {target.name!r}") from exc
    with sink:
        for chunk in _read_member(content):
            written += len(chunk)
            if written > left_bytes:
                raise TooLargeError(f"the archive unpacks to more than {max_bytes} bytes", field="cos_path")
            with translate_file_errors(str(target)):
                sink.write(chunk)
    return written


def _read_member(content: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from iter(lambda: content.read(_CHUNK_BYTES), b"")
    except OSError as exc:  # what bz2 calls an invalid stream
        raise InvalidModelError(f"the archive cannot be unpacked: {exc}") from exc
