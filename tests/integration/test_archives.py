"""Archives that lie: paths outside, links, bombs, damage."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_timl.artifacts import list_folder
from airflow_provider_timl.exceptions import InvalidModelError, TooLargeError
from airflow_provider_timl.repository.archives import unpack_archive

MEGABYTE = 1024 * 1024
MOST_FILES = 50


def unpack(archive: Path, max_bytes: int = MEGABYTE) -> Path:
    return unpack_archive(archive, archive.parent / "unpacked", max_bytes, MOST_FILES)


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_odd_tar(path: Path, kind: bytes, name: str = "odd", target: str = "/etc/passwd") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
        content = tarfile.TarInfo(f"{name}/authorized_keys")
        archive.addfile(content)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "m.zip": write_zip,
    "M.TAR.GZ": write_tar,
    "m.tgz": write_tar,
}


@pytest.mark.parametrize("name", WRITERS)
def test_archive_is_unpacked_with_its_folders(tmp_path: Path, name: str) -> None:
    members = {"graph.json": b"{}", "input_weight/meta": b"meta", "模 a": b""}
    folder = unpack(WRITERS[name](tmp_path / name, members))
    assert {path: (folder / path).read_bytes() for path in list_folder(folder)} == members


@pytest.mark.parametrize("name", WRITERS)
def test_single_folder_at_the_top_is_stripped(tmp_path: Path, name: str) -> None:
    folder = unpack(WRITERS[name](tmp_path / name, {"lr/6/graph.json": b"{}", "lr/6/w/meta": b""}))
    assert list_folder(folder) == ["6/graph.json", "6/w/meta"]


def test_folder_as_tar_makes_it_is_accepted(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "w").mkdir(parents=True)
    (model / "w" / "meta").write_bytes(b"meta")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(model / "w", "./w")
    assert list_folder(unpack(tmp_path / "model.tar.gz")) == ["meta"]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("member", ["../escaped", "/tmp/escaped", "a/../../escaped", "a\\..\\escaped", "a" * 300])
def test_member_outside_is_refused(tmp_path: Path, name: str, member: str) -> None:
    with pytest.raises(InvalidModelError, match=r"escaped|too long"):
        unpack(WRITERS[name](tmp_path / name, {"good": b"", member: b"bad"}))
    assert not list(tmp_path.parent.rglob("escaped"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE], ids=repr
)
def test_link_or_device_in_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(InvalidModelError, match="'odd' is a link or a special file"):
        unpack(write_odd_tar(tmp_path / "m.tgz", kind, target=str(tmp_path)))
    assert not (tmp_path / "authorized_keys").exists()


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("odd")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidModelError, match="'odd' is a link"):
        unpack(tmp_path / "m.zip")


@pytest.mark.parametrize("name", WRITERS)
def test_bomb_is_stopped_at_the_limit(tmp_path: Path, name: str) -> None:
    archive = WRITERS[name](tmp_path / name, {"a": b"", "zeros": bytes(20 * MEGABYTE)})
    assert archive.stat().st_size < MEGABYTE
    with pytest.raises(TooLargeError):
        unpack(archive)
    assert sum(path.stat().st_size for path in tmp_path.rglob("zeros")) <= MEGABYTE


@pytest.mark.parametrize("name", WRITERS)
def test_limit_is_for_all_members_together(tmp_path: Path, name: str) -> None:
    members = {str(number): bytes(MEGABYTE // 4) for number in range(4)}
    with pytest.raises(TooLargeError):
        unpack(WRITERS[name](tmp_path / name, {**members, "last": b"x"}))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("ending", ["", "/"], ids=["files", "folders"])
def test_too_many_members_are_refused(tmp_path: Path, name: str, ending: str) -> None:
    members = {f"{number}{ending}": b"" for number in range(MOST_FILES + 1)}
    if ending and name != "m.zip":
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            for folder in members:
                member = tarfile.TarInfo(folder)
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
    else:
        WRITERS[name](tmp_path / name, members)
    with pytest.raises(TooLargeError, match="members"):
        unpack(tmp_path / name)


def test_size_that_a_zip_claims_is_not_believed(tmp_path: Path) -> None:
    """A directory that says 1 byte for a member that is 4 MiB."""
    archive = write_zip(tmp_path / "m.zip", {"zeros": bytes(4 * MEGABYTE)})
    content = bytearray(archive.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 1)
    archive.write_bytes(content)
    with pytest.raises((InvalidModelError, TooLargeError)):
        unpack(archive)
    assert sum(path.stat().st_size for path in tmp_path.rglob("zeros")) <= MEGABYTE


def test_header_of_a_tar_that_claims_much_memory_is_refused(tmp_path: Path) -> None:
    """A long name of 400 MB, which compresses to 400 kB."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 400 * MEGABYTE
    with gzip.open(tmp_path / "m.tgz", "wb", compresslevel=1) as archive:
        archive.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(400):
            archive.write(b"a" * MEGABYTE)
    tracemalloc.start()
    with pytest.raises(InvalidModelError, match="header of more than 16 MiB"):
        unpack(tmp_path / "m.tgz")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 32 * MEGABYTE


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damaged_archive_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    content = bytes(range(256)) * 64
    whole = WRITERS[name](tmp_path / f"whole-{name}", {"graph.json": content, "more": content[::-1]}).read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:60] + bytes(byte ^ 0xFF for byte in whole[60:120]) + whole[120:],
        "empty": b"",
        "text": b"this is no archive\n" * 100,
    }[damage]
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(InvalidModelError, match="cannot be unpacked"):
        unpack(tmp_path / name)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_damaged_content_of_each_compression_is_refused(tmp_path: Path, compression: int) -> None:
    archive = write_zip(tmp_path / "m.zip", {"graph.json": bytes(range(256)) * 64}, compression)
    content = bytearray(archive.read_bytes())
    content[60:90] = bytes(30)
    archive.write_bytes(content)
    with pytest.raises(InvalidModelError, match="cannot be unpacked"):
        unpack(archive)


def test_zip_with_a_password_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "m.zip", {"graph.json": b"{}"})
    content = bytearray(archive.read_bytes())
    for position in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[position] |= 1
    archive.write_bytes(content)
    with pytest.raises(InvalidModelError, match="cannot be unpacked"):
        unpack(archive)


@pytest.mark.parametrize("name", ["m.zip", "m.tgz"])
@pytest.mark.parametrize("members", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_at_one_place_are_refused(tmp_path: Path, name: str, members: tuple[str, str]) -> None:
    if name == "m.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, "x")
    else:
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            for member in members:
                tar.addfile(tarfile.TarInfo(member))
    with pytest.raises(InvalidModelError, match="two members"):
        unpack(tmp_path / name)
