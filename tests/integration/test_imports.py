"""Imports from a real S3 server that stands for COS."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.stub import Stubber

from airflow_provider_timl.artifacts import list_folder, open_store
from airflow_provider_timl.cos_paths import CosPath
from airflow_provider_timl.database.migrate import upgrade_database
from airflow_provider_timl.database.sessions import Database
from airflow_provider_timl.entities import Lineage, ModelVersion
from airflow_provider_timl.exceptions import (
    ExternalSystemError,
    InvalidInputError,
    InvalidModelError,
    NotFoundError,
    TooLargeError,
)
from airflow_provider_timl.repository.imports import download_model
from airflow_provider_timl.repository.inspection import inspect_in_limited_process
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.settings import Settings
from airflow_provider_timl.states import ModelSource
from tests.models import ANGEL_LR, IRIS
from tests.servers.seaweedfs import ObjectStorage

TASK = Lineage(dag_id="release", run_id="manual__1", task_id="import")


@dataclass
class Cos:
    """A bucket, and a repository that imports from it into a store on the same server."""

    client: Any
    bucket: str
    repository: ModelRepository
    settings: Settings
    folder: Path

    def put(self, key: str, content: bytes) -> str:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)
        return f"cos://{self.bucket}/{key}"

    def put_folder(self, prefix: str, folder: Path) -> str:
        for path in list_folder(folder):
            self.put(f"{prefix}/{path}", (folder / path).read_bytes())
        return f"cos://{self.bucket}/{prefix}"

    def load(self, path: str, model_type: str = "angel", **options: Any) -> ModelVersion:
        return self.repository.import_model(
            model_name="imported", model_type=model_type, source_uri=path, s3_client=self.client, actor="ann", **options
        )

    def list_store(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix="store/")
        return [item["Key"] for item in listed.get("Contents", ())]


@pytest.fixture
def bucket_client(object_storage: ObjectStorage) -> Iterator[tuple[Any, str]]:
    client = object_storage.build_client()
    bucket = f"models-{uuid4().int % 10**10:010d}"
    client.create_bucket(Bucket=bucket)
    yield client, bucket
    client.close()


@pytest.fixture
def cos(bucket_client: tuple[Any, str], tmp_path: Path) -> Iterator[Cos]:
    client, bucket = bucket_client
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=f"sqlite:///{tmp_path / 'timl.db'}",
        artifact_store=f"s3://{bucket}/store",
        artifact_conn_id="store_default",
        encryption_key="",
        max_model_bytes=100_000,
    )
    upgrade_database(settings.database_url)
    database = Database(settings.database_url)
    inspect = partial(inspect_in_limited_process, settings=settings)
    store = open_store(settings.artifact_store, lambda: client)
    yield Cos(
        client, bucket, ModelRepository(database, settings, store, inspect, lambda *_: []), settings, tmp_path / "in"
    )
    database.dispose()


def zip_folder(folder: Path, below: str = "") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for path in list_folder(folder):
            archive.write(folder / path, f"{below}{path}")
    return sink.getvalue()


def tar_folder(folder: Path, below: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        archive.add(folder, below)
    return sink.getvalue()


def test_one_file_is_imported_and_really_inspected(cos: Cos) -> None:
    path = cos.put("third party/模型/iris.pmml", IRIS.read_bytes())
    made = cos.load(path, "pmml", aliases=["champion"], metrics={"auc": 0.9}, lineage=TASK)
    assert (made.version, made.source, made.source_uri) == (1, ModelSource.IMPORTED, path)
    assert [(file.path, file.size_bytes) for file in made.files] == [("iris.pmml", IRIS.stat().st_size)]
    assert made.inspection.checks == ["structure", "loaded", "example"]
    assert made.aliases == ["champion"]
    stored = cos.client.get_object(Bucket=cos.bucket, Key=f"{made.uri.removeprefix(f's3://{cos.bucket}/')}/iris.pmml")
    assert stored["Body"].read() == IRIS.read_bytes()


def test_percent_encoded_address_names_the_same_object(cos: Cos) -> None:
    cos.put("a b+c/iris.pmml", IRIS.read_bytes())
    made = cos.load(f"https://{cos.bucket}.cos.ap-guangzhou.myqcloud.com/a%20b%2Bc/iris.pmml", "pmml")
    assert made.source_uri == f"cos://{cos.bucket}/a b+c/iris.pmml"


def test_prefix_is_imported_as_a_folder_without_its_neighbours(cos: Cos) -> None:
    path = cos.put_folder("angel/lr", ANGEL_LR)
    cos.put("angel/lr-old/graph.json", b"neighbour")
    cos.put("angel/lr/", b"")
    expected = list_folder(ANGEL_LR)
    assert [file.path for file in cos.load(path).files] == expected
    assert [file.path for file in cos.load(f"{path}/").files] == expected


def test_numbered_folder_below_the_prefix_is_the_model(cos: Cos) -> None:
    cos.put_folder("angel/lr/6", ANGEL_LR)
    made = cos.load(f"s3://{cos.bucket}/angel/lr")
    assert [file.path for file in made.files] == [f"6/{path}" for path in list_folder(ANGEL_LR)]
    assert made.inspection.checks == ["structure", "loaded", "example"]


@pytest.mark.parametrize("name", ["lr.zip", "lr.tar.gz", "LR.TGZ"])
def test_archive_is_unpacked(cos: Cos, name: str) -> None:
    content = zip_folder(ANGEL_LR, "lr/") if name == "lr.zip" else tar_folder(ANGEL_LR, "lr")
    made = cos.load(cos.put(f"archives/{name}", content))
    assert [file.path for file in made.files] == list_folder(ANGEL_LR)


def test_retried_task_imports_once(cos: Cos) -> None:
    path = cos.put("iris.pmml", IRIS.read_bytes())
    made = cos.load(path, "pmml", lineage=TASK)
    assert cos.load(path, "pmml", lineage=TASK) == made
    assert len(cos.list_store()) == 1
    assert cos.load(path, "pmml").version == 2


def assert_nothing_left(cos: Cos) -> None:
    assert cos.list_store() == []
    assert cos.repository.list_models(10, 0) == ([], 0)


@pytest.mark.parametrize("key", ["absent.pmml", "absent/", "iris", "iris.pmm"])
def test_object_that_is_not_there_is_named(cos: Cos, key: str) -> None:
    cos.put("iris.pmml", IRIS.read_bytes())
    with pytest.raises(NotFoundError, match=f"COS object 'cos://{cos.bucket}/{key}' does not exist"):
        cos.load(f"cos://{cos.bucket}/{key}", "pmml")
    assert_nothing_left(cos)


def test_bucket_that_is_not_there_is_named(cos: Cos) -> None:
    with pytest.raises(NotFoundError, match="'absent-1250000000'"):
        cos.load("cos://absent-1250000000/iris.pmml", "pmml")
    assert_nothing_left(cos)


def test_refused_or_unreachable_says_which_connection_to_check(cos: Cos, object_storage: ObjectStorage) -> None:
    path = cos.put("iris.pmml", IRIS.read_bytes())
    stranger = object_storage.build_client(aws_secret_access_key="wrong")
    unreachable = object_storage.build_client(endpoint_url="http://127.0.0.1:9")
    for client in (stranger, unreachable):
        with pytest.raises(ExternalSystemError, match=r"check endpoint, .* of connection 'cos_default'"):
            replace(cos, client=client).load(path, "pmml")
        client.close()
    assert_nothing_left(cos)


@pytest.mark.parametrize(
    "content", [b"", IRIS.read_bytes()[:900], b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a/>"]
)
def test_refused_model_leaves_nothing(cos: Cos, content: bytes) -> None:
    with pytest.raises(InvalidModelError):
        cos.load(cos.put("bad.pmml", content), "pmml")
    assert_nothing_left(cos)


def test_archive_with_a_path_outside_leaves_nothing(cos: Cos) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("../../graph.json", "{}")
    with pytest.raises(InvalidModelError, match="member that may not be"):
        cos.load(cos.put("bad.zip", sink.getvalue()))
    assert_nothing_left(cos)


def test_model_over_the_limit_is_refused_by_its_listing_or_while_it_is_unpacked(cos: Cos) -> None:
    with pytest.raises(TooLargeError):
        cos.load(cos.put("large.pmml", bytes(100_001)), "pmml")
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("graph.json", bytes(200_000))
    with pytest.raises(TooLargeError):
        cos.load(cos.put("bomb.zip", sink.getvalue()))
    assert_nothing_left(cos)


@pytest.mark.parametrize("key", ["odd/../../escaped", "odd//etc/escaped", "odd/a\\b"])
def test_key_that_would_leave_the_folder_is_refused_before_it_is_downloaded(cos: Cos, key: str) -> None:
    """Answers as COS may give them; the server of these tests has no such keys."""
    with Stubber(cos.client) as answers:
        answers.add_response("list_objects_v2", {})
        answers.add_response("list_objects_v2", {"Contents": [{"Key": key, "Size": 1}]})
        with pytest.raises(InvalidInputError, match="not a plain relative path"):
            download_model(cos.client, CosPath(cos.bucket, "odd"), cos.folder, cos.settings)
    assert list_folder(cos.folder.parent) == ["timl.db"]


def test_type_is_checked_before_anything_is_downloaded(cos: Cos) -> None:
    with pytest.raises(InvalidInputError, match="unknown model type"):
        cos.load(f"cos://{cos.bucket}/absent", "pickle")
    with pytest.raises(InvalidInputError, match="not a COS path"):
        cos.load("/etc/passwd", "pmml")
