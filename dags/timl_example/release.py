"""The steps that every release takes, whatever the type of the model."""

from __future__ import annotations

from typing import Any

from airflow.sdk import TaskGroup, task

from airflow_provider_timl.hooks.timl import TimlHook
from airflow_provider_timl.operators.services import (
    DeployServiceOperator,
    RollbackOperator,
    ShiftTrafficOperator,
    TestServiceOperator,
)

#: TensorFlow computes in single precision, and in another order for another batch.
REL_TOL = 1e-4


@task
def retire_versions(service: str, kept: int | str) -> None:
    """Take what earlier runs left out of the service; what has no traffic can go."""
    hook = TimlHook()
    for version in hook.get_service(service).versions:
        if version.version != int(kept):
            hook.remove_version(service_name=service, version=version.version)


def build_release(service: str, *, old: str, new: str, body: Any, expect_old: Any, expect_new: Any) -> TaskGroup:
    """Deploy ``old``, release ``new`` beside it to a tenth and then to all of the traffic, and roll back to ``old``.

    :param old: template of the version's number, as ``new``.
    :param body: the request; ``expect_old`` and ``expect_new`` are what its first prediction must be.
    """
    common: dict[str, Any] = {"service_name": service}
    ask_old = {**common, "body": body, "expect": expect_old, "rel_tol": REL_TOL}
    ask_new = {**common, "body": body, "expect": expect_new, "rel_tol": REL_TOL}
    with TaskGroup("release") as group:
        deploy_old = DeployServiceOperator(
            task_id="deploy_old", model_name=service, version=old, deferrable=True, **common
        )
        serve_old = ShiftTrafficOperator(task_id="serve_old", to_version=old, percent=100, **common)
        call_old = TestServiceOperator(task_id="call_old", **ask_old)
        retire = retire_versions(service, old)
        deploy_new = DeployServiceOperator(task_id="deploy_new", model_name=service, version=new, **common)
        try_new = TestServiceOperator(task_id="try_new", version=new, **ask_new)
        shift_a_tenth = ShiftTrafficOperator(task_id="shift_a_tenth", to_version=new, percent=10, **common)
        shift_all = ShiftTrafficOperator(task_id="shift_all", to_version=new, percent=100, **common)
        call_new = TestServiceOperator(task_id="call_new", **ask_new)
        revision = f"{{{{ ti.xcom_pull('{deploy_new.task_id}')['revision'] }}}}"
        roll_back = RollbackOperator(task_id="roll_back", revision=revision, **common)
        call_again = TestServiceOperator(task_id="call_again", **ask_old)
        deploy_old >> serve_old >> call_old >> retire >> deploy_new >> try_new
        try_new >> shift_a_tenth >> shift_all >> call_new >> roll_back >> call_again
    return group
