"""TensorFlow and Angel models through the same life as the PMML model of ``timl_lifecycle``.

TensorFlow: a network is trained twice on scikit-learn's handwritten digits, saved, released, and predicts a file of
images on COS. Angel: published models are imported from COS and answer what their authors publish. Every step checks
what it got, and the DAG can run again and again.

Connections: ``timl_default`` (this Airflow, a user who may operate) and ``cos_default`` (COS, or any S3 storage).
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, TaskGroup, task
from timl_example.release import build_release

from airflow_provider_timl.hooks.cos import COSHook
from airflow_provider_timl.operators.batch import BatchPredictOperator
from airflow_provider_timl.operators.models import ImportFromCOSOperator, SaveModelOperator
from airflow_provider_timl.operators.services import DeployServiceOperator, TestServiceOperator

DIGITS, CLICKS, INCOMES = "digits", "angel-lr", "angel-deepfm"
#: The second network is trained for longer.
EPOCHS = {"first": 3, "second": 15}
IMAGES_PATH = "cos://data/digits/images.parquet"
DIGITS_PATH = "cos://data/digits/predictions/{{ run_id }}/"
LEAST_ACCURACY = 0.9
FIRST = "{{ ti.xcom_pull('tensorflow.save_first')['version'] }}"
SECOND = "{{ ti.xcom_pull('tensorflow.save_second')['version'] }}"
LR_PATH, DEEPFM_PATH = "cos://models/angel/lr/", "cos://models/angel/deepFM/"
#: What the authors of ``lr`` publish, and what their engine answers for ``deepFM`` (once it can load it).
REQUESTS = Path(__file__).parent / "timl_example" / "angel_requests.json"


@task(multiple_outputs=True)
def train_digits() -> dict[str, Any]:
    """Train on the spot. The files go to a folder that the next tasks read: all run on one machine here."""
    from timl_example.digits import train

    folder = Path(tempfile.mkdtemp(prefix="timl-digits-"))
    trained = {name: asdict(train(folder / name, epochs)) for name, epochs in EPOCHS.items()}
    fields = {f"{name}_{field}": value for name, each in trained.items() for field, value in each.items()}
    return {"folder": str(folder), **fields}


@task
def remove_folder(folder: str) -> None:
    shutil.rmtree(folder)


@task
def upload_images() -> None:
    """The images that no network was trained on, as a table with one column of 64 pixels."""
    import pyarrow as pa
    from pyarrow import parquet
    from timl_example.digits import split_images

    _, images, _, digits = split_images()
    sink = io.BytesIO()
    parquet.write_table(pa.table({"pixels": images.tolist(), "drawn": digits}), sink)
    place = COSHook.parse_path(IMAGES_PATH)
    COSHook().load_bytes(sink.getvalue(), place.key, place.bucket, replace=True)


@task
def check_digits(output: dict[str, Any]) -> None:
    """Whether the predicted file has a digit for each image, and most of them right."""
    from pyarrow import parquet

    place = COSHook.parse_path(output["files"][0])
    content = COSHook().get_key(place.key, place.bucket).get()["Body"].read()
    rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    accuracy = sum(row["digit"] == row["drawn"] for row in rows) / len(rows)
    if accuracy < LEAST_ACCURACY:
        raise ValueError(f"{accuracy:.1%} of {len(rows)} digits are right, not {LEAST_ACCURACY:.0%}")


def get_published(model: str) -> tuple[dict[str, Any], Any]:
    """A request, and the prediction that it gets."""
    case = json.loads(REQUESTS.read_text())[model]
    return case["request"], case["prediction"]


with DAG(
    dag_id="timl_model_types",
    schedule=None,
    max_active_runs=1,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    tags=["timl", "example"],
    doc_md=__doc__,
) as dag:
    with TaskGroup("tensorflow"):
        # [START tensorflow]
        trained = train_digits()
        first = SaveModelOperator(
            task_id="save_first", path=trained["first_folder"], model_name=DIGITS, model_type="tensorflow"
        )
        # [END tensorflow]
        second = SaveModelOperator(
            task_id="save_second", path=trained["second_folder"], model_name=DIGITS, model_type="tensorflow"
        )
        removed = remove_folder(trained["folder"]).as_teardown(setups=trained)
        release = build_release(
            DIGITS,
            old=FIRST,
            new=SECOND,
            body={"instances": [trained["first_image"]]},
            expect_old={"probabilities": trained["first_probabilities"]},
            expect_new={"probabilities": trained["second_probabilities"]},
        )
        predict_images = BatchPredictOperator(
            task_id="predict_images",
            model_name=DIGITS,
            version=SECOND,
            input_path=IMAGES_PATH,
            output_path=DIGITS_PATH,
        )
        first >> second >> [removed, release]
        release >> predict_images
        upload_images() >> predict_images
        check_digits(predict_images.output)

    with TaskGroup("angel"):
        # [START angel]
        import_lr = ImportFromCOSOperator(
            task_id="import_lr", cos_path=LR_PATH, model_name=CLICKS, model_type="angel", tags={"origin": "published"}
        )
        # [END angel]
        import_again = ImportFromCOSOperator(
            task_id="import_again", cos_path=LR_PATH, model_name=CLICKS, model_type="angel"
        )
        request, published = get_published("lr")
        release = build_release(
            CLICKS,
            old="{{ ti.xcom_pull('angel.import_lr')['version'] }}",
            new="{{ ti.xcom_pull('angel.import_again')['version'] }}",
            body=request,
            expect_old=published,
            expect_new=published,
        )
        import_lr >> import_again >> release

    with TaskGroup("deepfm"):
        request, computed = get_published("deepFM")
        import_deepfm = ImportFromCOSOperator(
            task_id="import_deepfm", cos_path=DEEPFM_PATH, model_name=INCOMES, model_type="angel"
        )
        deploy = DeployServiceOperator(
            task_id="deploy",
            service_name=INCOMES,
            model_name=INCOMES,
            version="{{ ti.xcom_pull('deepfm.import_deepfm')['version'] }}",
        )
        call = TestServiceOperator(
            task_id="call",
            service_name=INCOMES,
            version="{{ ti.xcom_pull('deepfm.import_deepfm')['version'] }}",
            body=request,
            expect=computed,
        )
        import_deepfm >> deploy >> call
