"""What operators decide before they call anything."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec, patch

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_provider_timl.entities import Resources, Service, ServiceVersion, TestAnswer
from airflow_provider_timl.exceptions import ConflictError, ExternalSystemError, InvalidInputError
from airflow_provider_timl.hooks.timl import TimlHook
from airflow_provider_timl.operators.batch import BatchPredictOperator, to_store_uri
from airflow_provider_timl.operators.models import ImportFromCOSOperator, SaveModelOperator
from airflow_provider_timl.operators.services import (
    DeleteServiceOperator,
    DeployServiceOperator,
    RollbackOperator,
    ShiftTrafficOperator,
    TestServiceOperator,
    find_differences,
    plan_shift,
)
from airflow_provider_timl.operators.task import fail_for_good
from airflow_provider_timl.states import ServiceState, ServiceVersionState
from airflow_provider_timl.triggers.services import ServiceInSyncTrigger


def build_service(traffic: dict[int, float]) -> Service:
    return Service(
        name="iris",
        model="iris",
        model_type="pmml",
        host="iris.timl.local",
        gateway_url="http://127.0.0.1:31292",
        state=ServiceState.RUNNING,
        revision=1,
        in_sync=True,
        versions=[
            ServiceVersion(
                version=version,
                state=ServiceVersionState.READY,
                instances=1,
                ready_instances=1,
                traffic_percent=percent,
                runtime="pmml",
                resources=Resources(),
            )
            for version, percent in traffic.items()
        ],
        created_at=datetime.now(timezone.utc),
        created_by="tester",
    )


@pytest.mark.parametrize(
    ("before", "to_version", "percent", "after"),
    [
        ({1: 100}, 1, 100, {1: 100}),
        ({1: 100, 2: 0}, 2, 10, {2: 10, 1: 90}),
        ({1: 60, 2: 40, 3: 0}, 3, 50, {3: 50, 1: 30, 2: 20}),
        ({1: 33.33, 2: 33.33, 3: 33.34}, 1, 0.01, {1: 0.01, 2: 49.98, 3: 50.01}),
        ({1: 0, 2: 100}, 2, 40, {2: 40, 1: 60}),
        ({1: 50, 2: 50}, 2, 100, {2: 100, 1: 0}),
    ],
)
def test_shift_to_a_version_lets_the_others_share_the_rest(
    before: dict[int, float], to_version: int, percent: float, after: dict[int, float]
) -> None:
    planned = plan_shift(build_service(before), to_version, percent)
    assert planned == after
    assert sum(round(share * 100) for share in planned.values()) == 10_000


def test_only_version_cannot_have_less_than_all() -> None:
    with pytest.raises(InvalidInputError, match="only one"):
        plan_shift(build_service({1: 100}), 1, 90)


def test_answer_is_compared_within_tolerance_and_differences_are_named() -> None:
    answer = TestAnswer(status=200, body={"predictions": [{"p": 0.5, "y": "a"}]}, version="iris/v1", duration_ms=1)
    assert not find_differences(answer, {"p": 0.5000000000001, "y": "a"}, 1e-9)
    assert find_differences(answer, {"p": 0.6, "y": "b"}, 1e-9) == ["p is 0.5, not 0.6", "y is 'a', not 'b'"]
    failed = TestAnswer(status=503, body={"error": "away"}, version=None, duration_ms=1)
    assert "503" in find_differences(failed, {}, 1e-9)[0]


def test_only_errors_that_no_retry_can_mend_end_a_task_for_good() -> None:
    with pytest.raises(AirflowFailException, match="used"), fail_for_good():
        raise ConflictError("used")
    with pytest.raises(ExternalSystemError), fail_for_good():
        raise ExternalSystemError("away")


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("file:///data/in/", "file:///data/in"),
        ("cos://bucket-1/a/b.csv", "s3://bucket-1/a/b.csv"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("https://b-125.cos.ap-guangzhou.myqcloud.com/a%20b/c.csv", "s3://b-125/a b/c.csv"),
    ],
)
def test_every_spelling_of_a_path_is_understood(path: str, uri: str) -> None:
    assert to_store_uri(path, "input_path") == uri


def test_path_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="COS path") as caught:
        to_store_uri("/data/in.csv", "input_path")
    assert caught.value.details["field"] == "input_path"


REQUIRED: dict[type, dict[str, Any]] = {
    SaveModelOperator: {"model_name": "m", "model_type": "pmml", "path": "/x"},
    ImportFromCOSOperator: {"model_name": "m", "model_type": "pmml", "cos_path": "cos://b/k"},
    DeployServiceOperator: {"service_name": "s", "model_name": "m"},
    ShiftTrafficOperator: {"service_name": "s", "traffic": {1: 100}},
    RollbackOperator: {"service_name": "s"},
    DeleteServiceOperator: {"service_name": "s"},
    TestServiceOperator: {"service_name": "s"},
    BatchPredictOperator: {"model_name": "m", "input_path": "cos://b/i", "output_path": "cos://b/o"},
}


@pytest.mark.parametrize("kind", list(REQUIRED), ids=lambda kind: kind.__name__)
def test_every_template_field_is_an_attribute_that_the_constructor_sets(kind: type) -> None:
    operator = kind(task_id="t", **REQUIRED[kind])
    for field in operator.template_fields:
        assert hasattr(operator, field), field


@pytest.mark.parametrize("in_sync", [True, False])
def test_only_a_change_that_is_not_served_yet_is_waited_for_in_the_triggerer(in_sync: bool) -> None:
    hook = create_autospec(TimlHook, instance=True)
    hook.deploy_service.return_value = build_service({1: 100}).model_copy(update={"in_sync": in_sync})
    hook.wait_for_service.return_value = build_service({1: 100})
    operator = DeployServiceOperator(task_id="deploy", service_name="iris", model_name="iris", deferrable=True)
    task = SimpleNamespace(dag_id="d", run_id="r", task_id="deploy", map_index=None, xcom_push=lambda **_: None)
    context: Any = {"ti": task}
    with patch.object(DeployServiceOperator, "hook", hook), ExitStack() as stack:
        deferred = None if in_sync else stack.enter_context(pytest.raises(TaskDeferred))
        assert operator.execute(context)["traffic"] == {"1": 100}
    assert deferred is None or isinstance(deferred.value.trigger, ServiceInSyncTrigger)


def test_trigger_survives_its_serialisation() -> None:
    path, arguments = ServiceInSyncTrigger("iris", "timl_default", 12.5).serialize()
    module, _, name = path.rpartition(".")
    assert (module, name) == ("airflow_provider_timl.triggers.services", "ServiceInSyncTrigger")
    assert ServiceInSyncTrigger(**arguments).serialize() == (path, arguments)
