"""Runs the example DAGs through Airflow's scheduler, side by side, and tells their steps as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo.airflow_api import AirflowAPI
from demo.errors import DemoFailedError

DAG_IDS = ("timl_lifecycle", "timl_model_types")
_POLL_SECONDS = 1.0
_PARSE_SECONDS = 180.0
_RUN_SECONDS = 900.0
_LOG_LINES = 30
_DONE = {"success", "failed", "upstream_failed", "skipped", "removed"}


@dataclass
class _Run:
    """One run of a DAG; ``path`` is below Airflow's API."""

    path: str
    told: set[str] = field(default_factory=set)
    ended: bool = False


def run_lifecycle(api: AirflowAPI, check_programs: Callable[[], None]) -> None:
    """Trigger a run of each DAG and follow them to their end.

    :param check_programs: raises when something that the runs need has ended.
    :raises DemoFailedError: a step failed; with the end of its log.
    """
    deadline = time.monotonic() + _PARSE_SECONDS
    runs = [_start(api, dag_id, check_programs, deadline) for dag_id in DAG_IDS]
    deadline = time.monotonic() + _RUN_SECONDS
    while not all(run.ended for run in runs):
        check_programs()
        for run in runs:
            if not run.ended:
                _follow(api, run, is_late=time.monotonic() > deadline)
        time.sleep(_POLL_SECONDS)


def _start(api: AirflowAPI, dag_id: str, check_programs: Callable[[], None], deadline: float) -> _Run:
    dag = f"/api/v2/dags/{dag_id}"
    while api.find(dag) is None:
        check_programs()
        if time.monotonic() > deadline:
            errors = api.get("/api/v2/importErrors")["import_errors"]
            told = "\n".join(f"{error['filename']}: {error['stack_trace']}" for error in errors)
            raise DemoFailedError(f"Airflow has not found the DAG {dag_id} in dags/. {told}")
        time.sleep(_POLL_SECONDS)
    api.patch(dag, {"is_paused": False})
    run_id = api.post(f"{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
    print(f"Running {api.url}/dags/{dag_id}/runs/{run_id}", flush=True)
    return _Run(f"{dag}/dagRuns/{run_id}")


def _follow(api: AirflowAPI, run: _Run, *, is_late: bool) -> None:
    state = api.get(run.path)["state"]  # before the tasks, so that none of a finished run is left untold
    tasks = api.get(f"{run.path}/taskInstances", limit=100)["task_instances"]
    _tell(tasks, run.told)
    if state == "failed":
        raise DemoFailedError(_describe_failure(api, run.path, tasks))
    run.ended = state == "success"
    if is_late and not run.ended:
        states = {task["task_id"]: task["state"] for task in tasks if task["state"] != "success"}
        raise DemoFailedError(f"the run has not ended after {_RUN_SECONDS:.0f} s; still open: {states}")


def _tell(tasks: list[dict[str, Any]], told: set[str]) -> None:
    """One line for each task that ended since the last time."""
    ended = [task for task in tasks if task["state"] in _DONE and task["task_id"] not in told]
    for task in sorted(ended, key=lambda task: task["end_date"] or ""):
        told.add(task["task_id"])
        duration = f"{task['duration']:.1f} s" if task["duration"] is not None else ""
        print(f"  {task['state']:>8}  {task['task_id']:<34} {duration:>8}", flush=True)


def _describe_failure(api: AirflowAPI, run: str, tasks: list[dict[str, Any]]) -> str:
    failed = [task for task in tasks if task["state"] == "failed"]
    parts = [f"the run failed in {', '.join(task['task_id'] for task in failed)}."]
    for task in failed:
        log = api.get(f"{run}/taskInstances/{task['task_id']}/logs/{task['try_number']}", full_content=True)["content"]
        lines = [line if isinstance(line, str) else _describe_line(line) for line in log]
        parts += [f"--- end of the log of {task['task_id']}", *lines[-_LOG_LINES:]]
    return "\n".join(parts)


def _describe_line(line: dict[str, Any]) -> str:
    """A structured log line, with its exception when it has one."""
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in line.get("error_detail") or []]
    return "\n".join([str(line.get("event", "")), *errors])
