"""The Angel reader and its requests as fuzz targets, seeded with the models of the tests."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError
from airflow_provider_timl.runtimes.angel.engine import AngelEngine, AngelOptions, inspect_angel, load_angel
from airflow_provider_timl.runtimes.contract import find_model_root

GENERATED = Path(__file__).parents[1] / "data" / "angel" / "generated"
#: Between them: row and column formats, text and binary, dense and hashed, most layers.
MODELS = ("fm", "deepfm_bin", "afm", "kmeans", "svm_sparse_hash", "dense_mlp", "lr_value_binary")


@cache
def list_model_files() -> list[tuple[Path, Path]]:
    """Each file of the models, in a copy that may be written to; with the folder of its model."""
    base = Path(tempfile.mkdtemp(prefix="timl-fuzz-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for name in MODELS:
        shutil.copytree(find_model_root(GENERATED / name), base / name)
    return [(base / name, path) for name in MODELS for path in sorted((base / name).rglob("*")) if path.is_file()]


def read_angel_model(data: bytes) -> None:
    """The first byte says which file of which model has the rest as its content."""
    files = list_model_files()
    folder, path = files[(data[0] if data else 0) % len(files)]
    before = path.read_bytes()
    path.write_bytes(data[1:])
    try:
        inspect_angel(folder, Resources())
    except InvalidModelError:
        pass  # and nothing else
    finally:
        path.write_bytes(before)


def list_angel_files() -> Iterator[bytes]:
    for number, (_, path) in enumerate(list_model_files()):
        yield bytes([number]) + path.read_bytes()


@cache
def list_engines() -> list[AngelEngine]:
    return [load_angel(find_model_root(GENERATED / name), Resources(), AngelOptions()) for name in MODELS]


def read_angel_request(data: bytes) -> None:
    """The first byte says which model gets the rest as a request."""
    engine = list_engines()[(data[0] if data else 0) % len(MODELS)]
    try:
        request = engine.parse("predict", data[1:])
    except InvalidInputError:
        return
    (answer,) = engine.run([request])
    assert isinstance(answer, bytes)
    assert len(json.loads(answer)["predictions"]) == engine.count_rows(request)


def list_angel_requests() -> Iterator[bytes]:
    for case in json.loads((GENERATED / "expected.json").read_text()):
        if case["model"] in MODELS:
            yield bytes([MODELS.index(case["model"])]) + json.dumps(case["request"]).encode()
    yield b'\x00{"instances": [{"values": ["1.5e0", 1e308], "key": true}], "signature_name": null}'
