"""Spellings of COS paths."""

from __future__ import annotations

import pytest

from airflow_provider_timl.cos_paths import CosPath, parse_cos_path
from airflow_provider_timl.exceptions import InvalidInputError


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("cos://models-1250000000/iris/model.pmml", CosPath("models-1250000000", "iris/model.pmml")),
        ("s3://models/iris/", CosPath("models", "iris/")),
        ("cos://models-1250000000", CosPath("models-1250000000", "")),
        ("cos://models-1/a%20b/%E6%A8%A1.pmml", CosPath("models-1", "a b/模.pmml")),
        (
            "https://models-1250000000.cos.ap-guangzhou.myqcloud.com/iris/a%2Bb.pmml",
            CosPath("models-1250000000", "iris/a+b.pmml", "ap-guangzhou"),
        ),
    ],
)
def test_each_spelling_names_bucket_and_key(path: str, expected: CosPath) -> None:
    assert parse_cos_path(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "iris/model.pmml",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://models-1.cos.ap-guangzhou.myqcloud.com/iris",
        "https://models-1.cos.ap-guangzhou.myqcloud.com.evil.example/iris",
        "https://user:password@models-1.cos.ap-guangzhou.myqcloud.com/iris",
        "https://models-1.cos.ap-guangzhou.myqcloud.com/iris?sign=1",
        "https://169.254.169.254/latest/meta-data",
        "https://[",
        "cos:///iris",
        "cos://models-1/iris?versionId=3",
    ],
)
def test_anything_else_is_refused_with_the_forms_that_are_not(path: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_cos_path(path)
    assert refused.value.details == {"field": "cos_path"}


def test_path_without_region_is_shown_as_cos() -> None:
    assert str(parse_cos_path("s3://models/iris")) == "cos://models/iris"
