"""``BatchPredictOperator`` from COS to COS: a real S3 server, the real control plane, the scoring program."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_timl.hooks.timl import TimlHook
from airflow_provider_timl.operators.batch import MANIFEST, SUCCESS, BatchPredictOperator
from tests.servers.control_plane import ControlPlane
from tests.servers.seaweedfs import ObjectStorage
from tests.servers.stack import Stack, list_processes
from tests.waiting import wait_until

MODEL = Path(__file__).parents[1] / "data" / "pmml_lr" / "LogisticRegressionIris.pmml"
COLUMNS = ["id", "x1", "x2", "x3", "x4"]
ROW = ["a, b", "6.2", "2.2", "1.1", "1.1"]
PROBABILITY = 0.07969969495447403
BUCKET = "batch"


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimlHook]:
    stack = Stack(tmp_path_factory.mktemp("batch"))
    plane = ControlPlane(stack)
    hook = TimlHook()
    hook.save_model(model_name="iris", model_type="pmml", path=MODEL)
    yield hook
    plane.stop()
    stack.database.dispose()


@pytest.fixture(scope="module")
def client(object_storage: ObjectStorage, hook: TimlHook) -> Iterator[Any]:
    """An S3 client; the connection ``cos_default`` leads to the same server."""
    extra = {"endpoint_url": object_storage.endpoint_url, "config_kwargs": {"s3": {"addressing_style": "path"}}}
    connection = {
        "conn_type": "aws",
        "login": object_storage.access_key,
        "password": object_storage.secret_key,
        "extra": {**extra, "region_name": "us-east-1"},
    }
    os.environ["AIRFLOW_CONN_COS_DEFAULT"] = json.dumps(connection)
    client = object_storage.build_client()
    client.create_bucket(Bucket=BUCKET)
    yield client
    del os.environ["AIRFLOW_CONN_COS_DEFAULT"]


def write_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    return text.getvalue().encode()


def run(prefix: str, **options: Any) -> dict[str, Any]:
    operator = BatchPredictOperator(
        task_id="predict",
        model_name="iris",
        input_path=f"cos://{BUCKET}/{prefix}/in/",
        output_path=f"cos://{BUCKET}/{prefix}/out/",
        **options,
    )
    context: Any = {"ti": SimpleNamespace(xcom_push=lambda **_: None)}
    return operator.execute(context)


def read(client: Any, key: str) -> bytes:
    content: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return content


def list_keys(client: Any, prefix: str) -> set[str]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/out/").get("Contents", [])
    return {item["Key"].removeprefix(f"{prefix}/out/") for item in found}


def test_every_file_below_a_prefix_becomes_one_with_predictions(client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="all/in/a.csv", Body=write_csv([ROW, ["7", "5.0", "3.0", "1.5", ""]]))
    table = pa.table({"x1": [6.2], "x2": [2.2], "x3": [1.1], "x4": [1.1], "y": [True]})
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink)
    client.put_object(Bucket=BUCKET, Key="all/in/deep/b.parquet", Body=sink.getvalue())
    result = run("all")
    assert (result["row_count"], result["error_count"], result["model_version"]) == (3, 0, 1)
    assert list_keys(client, "all") == {"a.csv", "deep/b.parquet", MANIFEST, SUCCESS}
    rows = list(csv.DictReader(io.StringIO(read(client, "all/out/a.csv").decode())))
    assert [rows[0][column] for column in COLUMNS] == ROW, "the input's text is kept to the letter"
    assert float(rows[0]["probability(1)"]) == PROBABILITY
    assert rows[0]["y"] == "-1"
    assert rows[1]["x4"] == ""
    scored = pa.parquet.read_table(io.BytesIO(read(client, "all/out/deep/b.parquet")))
    assert scored["probability(1)"].to_pylist() == [PROBABILITY]
    assert (scored["y"].to_pylist(), scored["predicted_y"].to_pylist()) == ([True], [-1])


def test_retry_predicts_only_what_is_not_in_the_manifest(client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="retry/in/a.csv", Body=write_csv([ROW]))
    client.put_object(Bucket=BUCKET, Key="retry/in/b.csv", Body=b"id,x1\n1,2\n")
    with pytest.raises(AirflowFailException, match="x2"):
        run("retry")
    assert list_keys(client, "retry") == {"a.csv", MANIFEST}, "the whole is not there, and says so"
    first = client.head_object(Bucket=BUCKET, Key="retry/out/a.csv")["LastModified"]
    client.put_object(Bucket=BUCKET, Key="retry/in/b.csv", Body=write_csv([ROW, ROW]))
    assert run("retry")["row_count"] == 3
    assert client.head_object(Bucket=BUCKET, Key="retry/out/a.csv")["LastModified"] == first
    assert SUCCESS in list_keys(client, "retry")


def test_bad_rows_go_to_quarantine_until_there_are_too_many(client: Any) -> None:
    rows = [ROW, ["1", "wide", "2", "1", "1"], ROW, ["2", "1", "2"]]
    client.put_object(Bucket=BUCKET, Key="bad/in/a.csv", Body=write_csv(rows))
    with pytest.raises(AirflowFailException, match=r"row 4.*3 values, not 5.*1 are allowed"):
        run("bad", most_errors=1)
    result = run("bad", most_errors=2)
    assert (result["row_count"], result["error_count"]) == (2, 2)
    quarantine = list(csv.reader(io.StringIO(read(client, "bad/out/_quarantine/a.csv.csv").decode())))
    assert [line[:2] for line in quarantine] == [["row_number", "field"], ["2", "x1"], ["4", ""]]


def test_nothing_to_predict_is_an_error(client: Any) -> None:
    with pytest.raises(AirflowFailException, match=r"a \.csv or \.parquet file"):
        run("nothing")


def test_killed_task_leaves_no_prediction_running(client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket=BUCKET, Key="killed/in/a.csv", Body=write_csv([ROW] * 300_000))
    operator = BatchPredictOperator(
        task_id="predict",
        model_name="iris",
        input_path=f"cos://{BUCKET}/killed/in/a.csv",
        output_path=f"cos://{BUCKET}/killed/out/",
    )
    failures: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute({"ti": SimpleNamespace(xcom_push=lambda **_: None)})  # type: ignore[arg-type]
        except AirflowFailException as exc:
            failures.append(exc)

    task = threading.Thread(target=execute)
    task.start()
    wait_until(lambda: list_processes("airflow_provider_timl.batch.score"), timeout_seconds=30)
    operator.on_kill()
    task.join(30)
    assert failures
    assert not list_processes("airflow_provider_timl.batch.score")
    assert list_keys(client, "killed") == set()


def measure_memory_mb(folder: Path, rows: int) -> float:
    """Peak resident memory of scoring so many rows."""
    with (folder / "in.csv").open("w") as sink:
        sink.write(",".join(COLUMNS) + "\n")
        sink.writelines(f"{number},6.2,2.2,1.1,1.1\n" for number in range(rows))
    config = {
        "runtime": "pmml",
        "model_path": str(MODEL.parent),
        "input_file": str(folder / "in.csv"),
        "output_file": str(folder / "out.csv"),
        "quarantine_file": str(folder / "quarantine.csv"),
        "memory_mb": 300,
    }
    (folder / "score.json").write_text(json.dumps(config))
    code = (
        "import resource, subprocess, sys;"
        "command = [sys.executable, '-m', 'airflow_provider_timl.batch.score', '--config', sys.argv[1]];"
        "subprocess.run(command, check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "score.json")], capture_output=True, text=True, check=True
    )
    return float(done.stdout) / 1024


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    small, large = measure_memory_mb(tmp_path, 20_000), measure_memory_mb(tmp_path, 200_000)
    print(f"peak memory: {small:.0f} MB for 20,000 rows, {large:.0f} MB for 200,000")
    assert large < small * 1.25
