"""Paths, listings and digests of artifacts, without any store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_timl.artifacts import check_listing, check_relative_path, compute_artifact_digest
from airflow_provider_timl.entities import FileDigest
from airflow_provider_timl.exceptions import InvalidInputError

A = FileDigest(path="a", size_bytes=1, sha256="a" * 64)
B = FileDigest(path="b/c", size_bytes=2, sha256="b" * 64)


@pytest.mark.parametrize("path", ["a", "a/b.txt", ".hidden", "a b", "模型/权重", "..a", "a" * 255])
def test_plain_relative_path_is_accepted(path: str) -> None:
    assert check_relative_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/a", "a/../b", "../a", "a//b", "a/", "./a", "a\\b", "a\0", "a" * 256, "a/" * 400 + "a", "\udc80"],
)
def test_path_that_could_leave_the_folder_or_not_be_stored_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError):
        check_relative_path(path)


@given(st.permutations([A, B, FileDigest(path="d", size_bytes=0, sha256="0" * 64)]))
def test_digest_of_an_artifact_does_not_depend_on_the_order_of_files(files: list[FileDigest]) -> None:
    assert compute_artifact_digest(files) == compute_artifact_digest(sorted(files, key=lambda file: file.path))


@pytest.mark.parametrize("change", [{"path": "z"}, {"size_bytes": 9}, {"sha256": "c" * 64}])
def test_digest_of_an_artifact_changes_with_anything_of_a_file(change: dict[str, object]) -> None:
    changed = FileDigest.model_validate({**A.model_dump(), **change})
    assert compute_artifact_digest([changed, B]) != compute_artifact_digest([A, B])


@pytest.mark.parametrize(
    ("sizes", "named"),
    [({"a": 1}, "b/c"), ({"a": 1, "b/c": 3}, "b/c"), ({"a": 1, "b/c": 2, "x": 0}, "x"), ({}, "a")],
)
def test_listing_that_differs_is_refused_with_the_name_of_the_file(sizes: dict[str, int], named: str) -> None:
    check_listing({"a": 1, "b/c": 2}, [A, B])
    with pytest.raises(InvalidInputError, match=repr(named)):
        check_listing(sizes, [A, B])


@pytest.mark.parametrize("files", [[], [A, A]])
def test_artifact_has_files_and_each_once(files: list[FileDigest]) -> None:
    with pytest.raises(InvalidInputError):
        check_listing({"a": 1}, files)
