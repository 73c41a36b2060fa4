"""Inspection in the limited process, with the real JVM: hostile models end there, and say why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from airflow_provider_timl.artifacts import open_store, put_folder
from airflow_provider_timl.database.migrate import upgrade_database
from airflow_provider_timl.database.sessions import Database
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidModelError, NotFoundError
from airflow_provider_timl.repository.inspection import inspect_in_limited_process
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.settings import Settings
from tests.models import IRIS, copy_angel_model, write_pmml
from tests.waiting import wait_until

ENTITY_BOMB = """<?xml version="1.0"?>
<!DOCTYPE PMML [<!ENTITY a "aaaaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;">]>
<PMML version="4.3"><Header copyright="&c;"/></PMML>"""
EXTERNAL_ENTITY = """<?xml version="1.0"?>
<!DOCTYPE PMML [<!ENTITY secret SYSTEM "file:///etc/passwd">]>
<PMML version="4.3"><Header copyright="&secret;"/></PMML>"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        database_url=f"sqlite:///{tmp_path / 'timl.db'}",
        artifact_store=(tmp_path / "artifacts").as_uri(),
        encryption_key="",
    )


def refuse(folder: Path, settings: Settings, model_type: str = "pmml") -> str:
    with pytest.raises(InvalidModelError) as refused:
        inspect_in_limited_process(folder, model_type, settings=settings)
    return refused.value.message


def test_pmml_is_loaded_and_tried(tmp_path: Path, settings: Settings) -> None:
    report = inspect_in_limited_process(write_pmml(tmp_path / "model"), "pmml", settings=settings)
    assert report.checks == ["structure", "loaded", "example"]
    assert report.signature is not None
    assert [field.name for field in report.signature.inputs] == ["x1", "x2", "x3", "x4"]
    assert report.framework["model_element"] == "RegressionModel"


def test_angel_model_is_loaded_and_tried(tmp_path: Path, settings: Settings) -> None:
    model = copy_angel_model(tmp_path / "lr" / "6")
    report = inspect_in_limited_process(model.parent, "angel", settings=settings)
    assert report.checks == ["structure", "loaded", "example"]
    assert report.signature is not None
    assert report.signature.inputs[0].shape == [123]
    assert report.framework["fc_weight_layout"] == "out_in"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not well-formed"),
        (IRIS.read_text()[:2000], "not well-formed"),
        (EXTERNAL_ENTITY, "document type or entities"),
        (ENTITY_BOMB, "document type or entities"),
        (IRIS.read_text().replace("RegressionModel", "QuantumModel"), "QuantumModel"),
        ("<PMML version='4.3'>" + "<Extension>" * 100_000, "deep"),
        ("<html></html>", "not PMML"),
    ],
    ids=["empty", "truncated", "external entity", "entity bomb", "unknown element", "deep", "other root"],
)
def test_hostile_pmml_is_refused_with_the_reason(tmp_path: Path, settings: Settings, text: str, reason: str) -> None:
    assert reason in refuse(write_pmml(tmp_path / "model", text), settings)


def write_large_pmml(folder: Path, leaves: int, leaf_bytes: int) -> Path:
    """A tree whose leaves have long labels; valid in every other way."""
    folder.mkdir()
    with (folder / "large.pmml").open("w") as sink:
        sink.write('<PMML version="4.3"><Header/><DataDictionary>')
        sink.write('<DataField name="label" optype="categorical" dataType="string"/>')
        sink.write('<DataField name="x" optype="continuous" dataType="double"/></DataDictionary>')
        sink.write('<TreeModel functionName="classification"><MiningSchema><MiningField name="x"/>')
        sink.write('<MiningField name="label" usageType="target"/></MiningSchema><Node score="a"><True/>')
        for number in range(leaves):
            sink.write(f'<Node score="{number}{"a" * leaf_bytes}"><True/></Node>')
        sink.write("</Node></TreeModel></PMML>")
    return folder


def test_model_that_needs_too_much_memory_dies_in_the_child_alone(tmp_path: Path, settings: Settings) -> None:
    model = write_large_pmml(tmp_path / "model", leaves=20, leaf_bytes=5_000_000)
    message = refuse(model, replace(settings, inspection_memory_mb=128))
    assert message == "inspecting the model needs more than 128 MB of memory; refused"


def test_python_that_needs_too_much_memory_dies_in_the_child_alone(tmp_path: Path, settings: Settings) -> None:
    model = copy_angel_model(tmp_path / "model")
    bomb = b'{"partMetas": [' + b'{"a":1},' * 6_000_000 + b"1]}"
    (model / "input_weight" / "meta").write_bytes(len(bomb).to_bytes(4, "big") + bomb)
    message = refuse(model, replace(settings, inspection_memory_mb=128), "angel")
    assert message == "inspecting the model needs more than 128 MB of memory; refused"


def test_model_that_takes_too_long_is_killed_with_all_that_it_started(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that hangs takes the interpreter's place, with a process of its own that hangs too."""
    started = tmp_path / "started"
    hanging = tmp_path / "hanging"
    hanging.write_text(f"#!/bin/sh\nsleep 3600 &\necho $$ $! > {started}\nwait\n")
    hanging.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(hanging))
    model = write_pmml(tmp_path / "model")
    message = refuse(model, replace(settings, inspection_timeout_seconds=2))
    assert message == "inspecting the model took longer than 2 s; refused"
    for pid in map(int, started.read_text().split()):
        wait_until(partial(is_dead, pid), timeout_seconds=5)


def is_dead(pid: int) -> bool:
    """Whether the process has ended, also where nobody has taken note of it yet (a zombie)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_child_sees_no_environment_but_what_it_needs(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own environment is what the kernel says it started with, so a spy takes the interpreter's place."""
    seen = tmp_path / "seen"
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\nenv > {seen}\npwd >> {seen}\nexec {sys.executable} "$@"\n')
    spy.chmod(0o700)
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(sys, "executable", str(spy))
    inspect_in_limited_process(copy_angel_model(tmp_path / "model"), "angel", settings=settings)
    names = {line.partition("=")[0] for line in seen.read_text().splitlines() if "=" in line}
    allowed = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "MALLOC_ARENA_MAX"}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} <= allowed
    assert "secret" not in seen.read_text()
    assert str(Path.cwd()) != seen.read_text().splitlines()[-1]


def test_crash_says_what_was_printed_last(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "crashing"
    crashing.write_text("#!/bin/sh\necho 'the last words' >&2\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(crashing))
    assert "signal 11 (the last words)" in refuse(copy_angel_model(tmp_path / "model"), settings, "angel")


def test_runtime_that_is_not_installed_refuses_to_accept_unseen(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package path in which ``jpype`` is hidden stands for an API server without the extra."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'jpype' else find(name, package)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{hidden}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ExternalSystemError, match=r"'jpype' is not installed.*\[pmml\]"):
        inspect_in_limited_process(write_pmml(tmp_path / "model"), "pmml", settings=settings)


@pytest.fixture
def repository(settings: Settings) -> Iterator[ModelRepository]:
    upgrade_database(settings.database_url)
    database = Database(settings.database_url)
    inspect = partial(inspect_in_limited_process, settings=settings)
    yield ModelRepository(database, settings, open_store(settings.artifact_store), inspect, lambda *_: [])
    database.dispose()


def save(repository: ModelRepository, folder: Path) -> int:
    upload = repository.begin_upload(model_name="iris", model_type="pmml", actor="ann")
    files = put_folder(open_store(upload.uri), upload.uri, folder)
    return repository.commit_upload(
        upload_id=upload.id, model_name="iris", model_type="pmml", files=files, actor="ann"
    ).version


def test_refused_model_is_not_registered(tmp_path: Path, repository: ModelRepository) -> None:
    with pytest.raises(InvalidModelError):
        save(repository, write_pmml(tmp_path / "bad", EXTERNAL_ENTITY))
    with pytest.raises(NotFoundError):
        repository.get_model("iris")
    assert save(repository, write_pmml(tmp_path / "good")) == 1


def test_50_concurrent_saves_of_pmml_are_all_inspected_and_numbered(
    tmp_path: Path, repository: ModelRepository
) -> None:
    folder = write_pmml(tmp_path / "model")
    with ThreadPoolExecutor(50) as pool:
        versions = list(pool.map(lambda _: save(repository, folder), range(50)))
    assert sorted(versions) == list(range(1, 51))
    assert all("example" in version.inspection.checks for version in repository.get_model("iris").versions)
