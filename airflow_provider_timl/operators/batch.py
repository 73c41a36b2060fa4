"""Offline prediction of files inside a DAG.

Each input file becomes one output file, and then an entry in ``_manifest.json``; ``_SUCCESS`` comes last. A retry does
again only what is not in the manifest, as long as input and model are the same. The model runs in a process of its own,
which ends with the task.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_timl.artifacts import ArtifactStore, fetch_artifact, open_store
from airflow_provider_timl.entities import ModelVersion
from airflow_provider_timl.exceptions import NotFoundError
from airflow_provider_timl.hooks.cos import COSHook
from airflow_provider_timl.links.timl import ModelVersionLink
from airflow_provider_timl.operators.task import TimlOperator, fail_for_good, push_model_version_link

MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"
_QUARANTINE_FOLDER = "_quarantine"
_SUFFIXES = (".csv", ".parquet")
_KILL_SECONDS = 5.0


class BatchPredictOperator(TimlOperator):
    """Predict the rows of a file, or of every file below a prefix, with one version of a model.

    Output files have the input's columns with the prediction's behind them. Rows that the model refuses are written to
    ``_quarantine/`` with number, field and reason. Memory does not grow with the size of the files; local disk holds
    one file at a time.

    :param model_name: the model. (templated)
    :param version: its version. (templated)
    :param alias: or an alias of it; neither means the latest version. (templated)
    :param options: of the model type's runtime, as in ``DeployServiceOperator``. (templated)
    :param input_path: ``cos://``, ``s3://`` or ``file://``: a ``.csv`` or ``.parquet`` file, or a prefix. (templated)
    :param output_path: prefix to write to. (templated)
    :param cos_conn_id: connection (type aws) of ``cos://`` and ``s3://`` paths. (templated)
    :param most_errors: rows of a file that may be refused before the run fails.
    :param memory_mb: of the process that predicts.
    """

    template_fields = (
        *TimlOperator.template_fields,
        "model_name",
        "version",
        "alias",
        "options",
        "input_path",
        "output_path",
        "cos_conn_id",
    )
    operator_extra_links = (ModelVersionLink(),)

    def __init__(
        self,
        *,
        model_name: str,
        input_path: str,
        output_path: str,
        version: int | str | None = None,
        alias: str | None = None,
        options: Mapping[str, Any] | None = None,
        cos_conn_id: str = COSHook.default_conn_name,
        most_errors: int = 0,
        memory_mb: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.input_path = input_path
        self.output_path = output_path
        self.version = version
        self.alias = alias
        self.options = options
        self.cos_conn_id = cos_conn_id
        self.most_errors = most_errors
        self.memory_mb = memory_mb
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """:return: ``{"output_path", "files", "row_count", "error_count", "model_version", "manifest_uri"}``."""
        with fail_for_good():
            number = int(self.version) if self.version not in (None, "") else None
            version = self.hook.resolve_model_version(self.model_name, number, self.alias or None)
            push_model_version_link(context, self.hook, version)
            source_uri, names = self._list_inputs()
            entries = self._predict_all(version, source_uri, names)
        folder = self.output_path.rstrip("/")
        return {
            "output_path": self.output_path,
            "files": [f"{folder}/{name}" for name in entries],
            "row_count": sum(entry["row_count"] for entry in entries.values()),
            "error_count": sum(entry["error_count"] for entry in entries.values()),
            "model_version": version.version,
            "manifest_uri": f"{folder}/{MANIFEST}",
        }

    def on_kill(self) -> None:
        """The prediction ends with the task."""
        if self._process is not None:
            _end_group(self._process)

    def _predict_all(self, version: ModelVersion, source_uri: str, names: dict[str, int]) -> dict[str, Any]:
        output_uri = to_store_uri(self.output_path, "output_path")
        source, sink = self._open(source_uri), self._open(output_uri)
        identity = {
            "model": version.model,
            "version": version.version,
            "digest": version.digest,
            "options": dict(self.options or {}),
        }
        entries = _read_manifest(sink, output_uri, identity)
        with tempfile.TemporaryDirectory(prefix="timl-batch-") as temporary:
            folder = Path(temporary)
            model = fetch_artifact(
                open_store(version.uri, self._build_client), version.uri, version.files, folder / "model"
            )
            for name, size_bytes in names.items():
                if entries.get(name, {}).get("input_bytes") == size_bytes:
                    self.log.info("%s is predicted already", name)
                    continue
                local = _download(source, source_uri, name, folder)
                summary = self._run(version, model, local, folder)
                self._upload(sink, output_uri, name, folder)
                entries[name] = {"input_bytes": size_bytes, **summary}
                _write_json(sink, output_uri, MANIFEST, {**identity, "files": entries})
                self.log.info("%s: %d rows predicted, %d refused", name, summary["row_count"], summary["error_count"])
        sink.put_file(output_uri, SUCCESS, io.BytesIO(b""))
        return entries

    def _list_inputs(self) -> tuple[str, dict[str, int]]:
        """URI of the folder, and size by name of each file to predict."""
        uri = to_store_uri(self.input_path, "input_path")
        store = self._open(uri)
        if uri.endswith(_SUFFIXES):
            uri, _, name = uri.rpartition("/")
            found = [(path, size) for path, size in store.list_files(uri) if path == name]
        else:
            found = [(path, size) for path, size in store.list_files(uri) if path.endswith(_SUFFIXES)]
        if not found:
            raise NotFoundError("input", f"{self.input_path} (a .csv or .parquet file, or a prefix that has some)")
        return uri, dict(found)

    def _run(self, version: ModelVersion, model: Path, input_file: Path, folder: Path) -> dict[str, int]:
        """Run the scoring program on one local file."""
        output, quarantine = _name_results(folder, input_file.suffix)
        config = folder / "score.json"
        config.write_text(
            json.dumps(
                {
                    "runtime": version.model_type,
                    "options": dict(self.options or {}),
                    "model_path": str(model),
                    "input_file": str(input_file),
                    "output_file": str(output),
                    "quarantine_file": str(quarantine),
                    "memory_mb": self.memory_mb,
                    "most_errors": self.most_errors,
                }
            )
        )
        with subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_timl.batch.score", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            self._process = process
            try:
                last = self._follow(process)
                code = process.wait()
            finally:
                _end_group(process)
        if code:
            raise AirflowFailException(f"{input_file.name} was not predicted: {last}")
        summary: dict[str, int] = json.loads(last)
        return summary

    def _follow(self, process: subprocess.Popen[str]) -> str:
        """Log what it says; the last line."""
        last = "it said nothing"
        for line in process.stdout or ():
            last = line.rstrip()
            self.log.info("%s", last)
        return last

    def _upload(self, sink: ArtifactStore, uri: str, name: str, folder: Path) -> None:
        output, quarantine = _name_results(folder, Path(name).suffix)
        if quarantine.exists():
            with quarantine.open("rb") as content:
                sink.put_file(uri, f"{_QUARANTINE_FOLDER}/{name}.csv", content)
            quarantine.unlink()
        with output.open("rb") as content:
            sink.put_file(uri, name, content)
        output.unlink()

    def _open(self, uri: str) -> ArtifactStore:
        return open_store(uri, self._build_client)

    def _build_client(self) -> Any:
        return COSHook(aws_conn_id=self.cos_conn_id).get_conn()


def to_store_uri(path: str, field: str) -> str:
    """``file://`` as it is; every spelling of a COS path as ``s3://bucket/key``."""
    if path.startswith("file://"):
        return path.rstrip("/")
    parsed = COSHook.parse_path(path, field)
    return f"s3://{parsed.bucket}/{parsed.key}".rstrip("/")


def _read_manifest(store: ArtifactStore, uri: str, identity: dict[str, Any]) -> dict[str, Any]:
    """What an earlier try predicted with the same model; a new run begins by taking back its success."""
    names = {name for name, _ in store.list_files(uri)}
    if MANIFEST not in names:
        return {}
    manifest = json.loads(b"".join(store.read_file(uri, MANIFEST)))
    if {key: manifest.get(key) for key in identity} != identity:
        return {}
    files: dict[str, Any] = manifest["files"]
    return {name: entry for name, entry in files.items() if name in names}


def _write_json(store: ArtifactStore, uri: str, name: str, content: Any) -> None:
    store.put_file(uri, name, io.BytesIO(json.dumps(content, indent=2).encode()))


def _download(store: ArtifactStore, uri: str, name: str, folder: Path) -> Path:
    local = folder / f"input{Path(name).suffix}"
    with local.open("wb") as sink:
        sink.writelines(store.read_file(uri, name))
    return local


def _name_results(folder: Path, suffix: str) -> tuple[Path, Path]:
    return folder / f"output{suffix}", folder / "quarantine.csv"


def _end_group(process: subprocess.Popen[str]) -> None:
    """End the process and whatever it started."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
