"""The life of a model: train, save, import, deploy, call, release a second version, roll back, predict in bulk.

Every step checks what it got. The DAG can run again and again: each run makes two new versions of the model ``iris``,
releases them on the service ``iris``, and leaves the imported one with all the traffic.

Connections: ``timl_default`` (this Airflow, a user who may operate) and ``cos_default`` (COS, or any S3 storage).
"""

from __future__ import annotations

import csv
import io
import math
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task
from timl_example.release import retire_versions

from airflow_provider_timl.hooks.cos import COSHook
from airflow_provider_timl.hooks.prediction import PredictionHook
from airflow_provider_timl.operators.batch import BatchPredictOperator
from airflow_provider_timl.operators.models import ImportFromCOSOperator, SaveModelOperator
from airflow_provider_timl.operators.services import (
    DeployServiceOperator,
    RollbackOperator,
    ShiftTrafficOperator,
    TestServiceOperator,
)

NAME = "iris"  # of the model and of the service
MODEL_PATH = "cos://models/pmml_lr/LogisticRegressionIris.pmml"
FLOWERS_PATH = "cos://data/iris/flowers.csv"
PREDICTIONS_PATH = "cos://data/iris/predictions/{{ run_id }}/"

FLOWER = {"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}
#: What the authors of the imported model publish for this flower.
PUBLISHED = {"probability(1)": 0.07969969495447403, "probability(-1)": 0.920300305045526, "y": -1}

IMPORTED = "{{ ti.xcom_pull('import_model').version }}"
TRAINED = "{{ ti.xcom_pull('save_model').version }}"


@task
def train_model() -> dict[str, Any]:
    """Train on the spot. The file goes to a folder that the next task reads: both run on one machine here; where they
    do not, call ``TimlHook().save_model(...)`` in the training task."""
    from timl_example.iris import train, write_pmml

    model = train()
    folder = Path(tempfile.mkdtemp(prefix="timl-iris-"))
    write_pmml(model, folder / "iris.pmml")
    log_odds = model.intercept + sum(c * x for c, x in zip(model.coefficients, FLOWER.values(), strict=True))
    probability = 1 / (1 + math.exp(-log_odds))
    expected = {"probability(1)": probability, "probability(-1)": 1 - probability}
    return {"folder": str(folder), "metrics": {"accuracy": model.accuracy}, "expected": expected}


@task
def remove_folder(folder: str) -> None:
    shutil.rmtree(folder)


@task
def check_split(expected: dict[str, float], requests: int = 300) -> None:
    """Whether about a tenth of the requests is answered by the trained version, known by its answer."""
    hook = PredictionHook(NAME)
    answers = [hook.predict(instances=[FLOWER])["predictions"][0]["probability(1)"] for _ in range(requests)]
    share = sum(math.isclose(answer, expected["probability(1)"], rel_tol=1e-9) for answer in answers) / requests
    if not 0.02 <= share <= 0.2:
        raise ValueError(f"the trained version answered {share:.1%} of {requests} requests, not about 10 %")


@task
def check_predictions(output: dict[str, Any], imported: dict[str, Any]) -> None:
    """Whether each row of the file has the answer that the service gives for it."""
    flowers = read_csv(FLOWERS_PATH)
    predicted = {row["flower"]: row for path in output["files"] for row in read_csv(path)}
    rows = [{name: float(flower[name]) for name in FLOWER} for flower in flowers]
    answers = PredictionHook(NAME).predict(instances=rows, version=imported["version"])["predictions"]
    for flower, answer in zip(flowers, answers, strict=True):
        found = float(predicted[flower["flower"]]["probability(1)"])
        if not math.isclose(found, answer["probability(1)"], rel_tol=1e-9):
            raise ValueError(f"flower {flower['flower']}: {found} in the file, {answer['probability(1)']} online")


def read_csv(path: str) -> list[dict[str, str]]:
    place = COSHook.parse_path(path)
    text = COSHook().read_key(place.key, place.bucket)
    return list(csv.DictReader(io.StringIO(text)))


with DAG(
    dag_id="timl_lifecycle",
    schedule=None,
    max_active_runs=1,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    render_template_as_native_obj=True,
    tags=["timl", "example"],
    doc_md=__doc__,
) as dag:
    # [START import]
    import_model = ImportFromCOSOperator(
        task_id="import_model",
        cos_path=MODEL_PATH,
        model_name=NAME,
        model_type="pmml",
        aliases=["champion"],
    )
    # [END import]

    # [START save]
    trained = train_model()
    save_model = SaveModelOperator(
        task_id="save_model",
        path=trained["folder"],
        model_name=NAME,
        model_type="pmml",
        metrics=trained["metrics"],
        aliases=["challenger"],
    )
    # [END save]
    removed = remove_folder(trained["folder"]).as_teardown(setups=trained)

    # [START deploy]
    deploy_imported = DeployServiceOperator(
        task_id="deploy_imported", service_name=NAME, model_name=NAME, version=IMPORTED, deferrable=True
    )
    serve_imported = ShiftTrafficOperator(task_id="serve_imported", service_name=NAME, to_version=IMPORTED, percent=100)
    call_imported = TestServiceOperator(
        task_id="call_imported", service_name=NAME, body={"instances": [FLOWER]}, expect=PUBLISHED
    )
    # [END deploy]

    # [START release]
    deploy_trained = DeployServiceOperator(
        task_id="deploy_trained",
        service_name=NAME,
        model_name=NAME,
        version=TRAINED,
    )
    try_trained = TestServiceOperator(
        task_id="try_trained",
        service_name=NAME,
        version=TRAINED,  # it has no traffic yet
        body={"instances": [FLOWER]},
        expect=trained["expected"],
    )
    shift_a_tenth = ShiftTrafficOperator(task_id="shift_a_tenth", service_name=NAME, to_version=TRAINED, percent=10)
    shift_all = ShiftTrafficOperator(task_id="shift_all", service_name=NAME, to_version=TRAINED, percent=100)
    call_trained = TestServiceOperator(
        task_id="call_trained",
        service_name=NAME,
        body={"instances": [FLOWER]},
        expect=trained["expected"],
    )
    # [END release]

    # [START rollback]
    roll_back = RollbackOperator(
        task_id="roll_back", service_name=NAME, revision="{{ ti.xcom_pull('deploy_trained').revision }}"
    )
    call_again = TestServiceOperator(
        task_id="call_again", service_name=NAME, body={"instances": [FLOWER]}, expect=PUBLISHED
    )
    # [END rollback]

    # [START batch]
    predict_flowers = BatchPredictOperator(
        task_id="predict_flowers",
        model_name=NAME,
        version=IMPORTED,
        input_path=FLOWERS_PATH,
        output_path=PREDICTIONS_PATH,
    )
    # [END batch]

    import_model >> deploy_imported >> serve_imported >> call_imported
    call_imported >> retire_versions(NAME, IMPORTED) >> deploy_trained
    import_model >> save_model >> [removed, deploy_trained]
    deploy_trained >> try_trained >> shift_a_tenth >> check_split(trained["expected"]) >> shift_all >> call_trained
    call_trained >> roll_back >> call_again >> predict_flowers
    check_predictions(predict_flowers.output, import_model.output)
