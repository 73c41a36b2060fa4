"""What every artifact store does: folders on a disk, and buckets of a real S3 server."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from airflow_provider_timl.artifacts import (
    ArtifactStore,
    digest_folder,
    fetch_artifact,
    list_folder,
    open_store,
    put_folder,
    verify_artifact,
)
from airflow_provider_timl.entities import FileDigest
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError
from tests.servers.seaweedfs import ObjectStorage

LARGE = 40 * 1024 * 1024  # several parts of a multipart upload


@dataclass
class Place:
    """A store, and a fresh URI in it."""

    store: ArtifactStore
    uri: str

    def put(self, path: str, content: bytes) -> FileDigest:
        return self.store.put_file(self.uri, path, io.BytesIO(content))

    def read(self, path: str) -> bytes:
        return b"".join(self.store.read_file(self.uri, path))


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "file":
        uri = f"{(tmp_path / 'the store').as_uri()}/models/{uuid4().hex}"
        yield Place(open_store(uri), uri)
        return
    storage: ObjectStorage = request.getfixturevalue("object_storage")
    client = storage.build_client()
    bucket = f"store-{uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    uri = f"s3://{bucket}/the%20store/models/{uuid4().hex}"
    yield Place(open_store(uri, lambda: client), uri)
    client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with folders, an empty file and a name that needs quoting."""
    model = tmp_path / "model"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    (model / "variables" / "a b+c%41.模").write_bytes(os.urandom(3000))
    (model / "empty").touch()
    return model


def test_folder_comes_back_as_it_was_put(place: Place, folder: Path, tmp_path: Path) -> None:
    files = put_folder(place.store, place.uri, folder)
    assert files == digest_folder(folder)
    assert place.store.list_files(place.uri) == [(file.path, file.size_bytes) for file in files]
    fetched = fetch_artifact(place.store, place.uri, files, tmp_path / "cache" / "model")
    assert {path: (fetched / path).read_bytes() for path in list_folder(fetched)} == {
        path: (folder / path).read_bytes() for path in list_folder(folder)
    }


def test_large_file_comes_back_from_a_stream_that_cannot_seek(place: Place) -> None:
    content = os.urandom(LARGE)
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=write_and_close, args=(write_end, content))
    writer.start()
    with open(read_end, "rb") as source:
        digest = place.store.put_file(place.uri, "large", source)
    writer.join()
    assert digest.size_bytes == LARGE
    verify_artifact(place.store, place.uri, [digest])
    assert max(map(len, place.store.read_file(place.uri, "large"))) <= 1024 * 1024


def write_and_close(write_end: int, content: bytes) -> None:
    with open(write_end, "wb") as sink:
        sink.write(content)


@pytest.mark.parametrize("content", [b"Xraph", b"grap", b""])
def test_changed_file_is_named(place: Place, folder: Path, content: bytes) -> None:
    files = put_folder(place.store, place.uri, folder)
    place.put("saved_model.pb", content)
    with pytest.raises(InvalidInputError, match=r"saved_model\.pb"):
        verify_artifact(place.store, place.uri, files)


def test_extra_and_missing_files_are_named(place: Place, folder: Path) -> None:
    files = put_folder(place.store, place.uri, folder)
    missing = FileDigest(path="assets/words", size_bytes=0, sha256=files[0].sha256)
    with pytest.raises(InvalidInputError, match="assets/words"):
        verify_artifact(place.store, place.uri, [*files, missing])
    place.put("extra.py", b"")
    with pytest.raises(InvalidInputError, match=r"extra\.py"):
        verify_artifact(place.store, place.uri, files)


def test_fetch_of_damaged_files_leaves_nothing(place: Place, folder: Path, tmp_path: Path) -> None:
    files = put_folder(place.store, place.uri, folder)
    place.put("saved_model.pb", b"Xraph")
    with pytest.raises(InvalidInputError):
        fetch_artifact(place.store, place.uri, files, tmp_path / "cache" / "model")
    assert not list(tmp_path.glob("cache/*"))


@pytest.mark.parametrize("path", ["../escaped", "/tmp/escaped", "a/../../escaped"])
def test_path_outside_is_refused(place: Place, path: str) -> None:
    with pytest.raises(InvalidInputError):
        place.put(path, b"x")
    with pytest.raises(InvalidInputError):
        place.read(path)


def test_delete_takes_everything_below_the_uri_and_nothing_else(place: Place, folder: Path) -> None:
    put_folder(place.store, place.uri, folder)
    neighbour = Place(place.store, f"{place.uri}-2")
    neighbour.put("kept", b"kept")
    place.store.delete(place.uri)
    place.store.delete(place.uri)
    assert place.store.list_files(place.uri) == []
    assert neighbour.read("kept") == b"kept"


def test_file_that_is_not_there_is_an_error_of_the_store(place: Place) -> None:
    with pytest.raises(ExternalSystemError):
        place.read("absent")


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_links_and_special_files_are_refused_before_anything_is_written(
    place: Place, folder: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "pipe":
        os.mkfifo(folder / "odd")
    else:
        (folder / "odd").symlink_to(tmp_path if kind == "folder link" else "/etc/passwd")
    with pytest.raises(InvalidInputError, match="odd"):
        put_folder(place.store, place.uri, folder)
    assert place.store.list_files(place.uri) == []


def test_link_that_appears_in_a_folder_store_is_refused(tmp_path: Path) -> None:
    place = Place(open_store("file:///"), (tmp_path / "store").as_uri())
    file = place.put("model.pmml", b"secret")
    (tmp_path / "elsewhere").write_bytes(b"secret")
    (tmp_path / "store" / "model.pmml").unlink()
    (tmp_path / "store" / "model.pmml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError, match=r"model\.pmml"):
        verify_artifact(place.store, place.uri, [file])
    with pytest.raises(ExternalSystemError):
        place.read("model.pmml")


def test_files_and_folders_of_a_folder_store_are_private(tmp_path: Path) -> None:
    place = Place(open_store("file:///"), (tmp_path / "store" / "models" / "iris").as_uri())
    place.put("variables/index", b"")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").rglob("*")}
    assert modes == {"models": 0o700, "iris": 0o700, "variables": 0o700, "index": 0o600}


def test_failed_write_leaves_no_file(place: Place) -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            raise OSError("the disk is gone")

    with pytest.raises((ExternalSystemError, OSError)):
        place.store.put_file(place.uri, "model.pmml", Failing())  # type: ignore[arg-type]
    assert place.store.list_files(place.uri) == []


def test_upload_killed_half_way_is_deleted_with_the_rest(object_storage: ObjectStorage) -> None:
    client = object_storage.build_client()
    client.create_bucket(Bucket="half")
    started = client.create_multipart_upload(Bucket="half", Key="models/iris/1/large")
    client.upload_part(
        Bucket="half", Key="models/iris/1/large", UploadId=started["UploadId"], PartNumber=1, Body=b"x" * 5_300_000
    )
    open_store("s3://half", lambda: client).delete("s3://half/models/iris/1")
    assert not client.list_multipart_uploads(Bucket="half", Prefix="models/iris/1/").get("Uploads")
    client.close()


def test_store_that_cannot_be_reached_or_refuses_says_what_to_check(object_storage: ObjectStorage) -> None:
    unreachable = object_storage.build_client(endpoint_url="http://127.0.0.1:9")
    stranger = object_storage.build_client(aws_secret_access_key="wrong")
    for client in (unreachable, stranger):
        with pytest.raises(ExternalSystemError, match=r"s3://store/models.*check endpoint, credentials and rights"):
            open_store("s3://store", lambda client=client: client).list_files("s3://store/models")
        client.close()


def test_location_of_another_kind_is_refused() -> None:
    for uri in ("https://example.com/models", "/models", "s3://bucket"):
        with pytest.raises(InvalidInputError):
            open_store(uri)
