"""Runs the DAG ``timl_lifecycle`` through Airflow's scheduler, and tells its steps as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from demo.airflow_api import AirflowAPI
from demo.errors import DemoFailedError

DAG_ID = "timl_lifecycle"
_DAG = f"/api/v2/dags/{DAG_ID}"
_POLL_SECONDS = 1.0
_PARSE_SECONDS = 180.0
_RUN_SECONDS = 900.0
_LOG_LINES = 30
_DONE = {"success", "failed", "upstream_failed", "skipped", "removed"}


def run_lifecycle(api: AirflowAPI, check_programs: Callable[[], None]) -> None:
    """Trigger a run and follow it to its end.

    :param check_programs: raises when something that the run needs has ended.
    :raises DemoFailedError: a step failed; with the end of its log.
    """
    _wait_until_parsed(api, check_programs)
    api.patch(_DAG, {"is_paused": False})
    run_id = api.post(f"{_DAG}/dagRuns", {"logical_date": None})["dag_run_id"]
    run = f"{_DAG}/dagRuns/{run_id}"
    print(f"Life cycle: {api.url}/dags/{DAG_ID}/runs/{run_id}", flush=True)
    deadline = time.monotonic() + _RUN_SECONDS
    told: set[str] = set()
    while True:
        check_programs()
        state = api.get(run)["state"]  # before the tasks, so that none of a finished run is left untold
        tasks = api.get(f"{run}/taskInstances", limit=100)["task_instances"]
        _tell(tasks, told)
        if state == "success":
            return
        if state == "failed":
            raise DemoFailedError(_describe_failure(api, run, tasks))
        if time.monotonic() > deadline:
            states = {task["task_id"]: task["state"] for task in tasks if task["state"] != "success"}
            raise DemoFailedError(f"the life cycle has not ended after {_RUN_SECONDS:.0f} s; still open: {states}")
        time.sleep(_POLL_SECONDS)


def _wait_until_parsed(api: AirflowAPI, check_programs: Callable[[], None]) -> None:
    deadline = time.monotonic() + _PARSE_SECONDS
    while api.find(_DAG) is None:
        check_programs()
        if time.monotonic() > deadline:
            errors = api.get("/api/v2/importErrors")["import_errors"]
            told = "\n".join(f"{error['filename']}: {error['stack_trace']}" for error in errors)
            raise DemoFailedError(f"Airflow has not found the DAG {DAG_ID} in dags/. {told}")
        time.sleep(_POLL_SECONDS)


def _tell(tasks: list[dict[str, Any]], told: set[str]) -> None:
    """One line for each task that ended since the last time."""
    ended = [task for task in tasks if task["state"] in _DONE and task["task_id"] not in told]
    for task in sorted(ended, key=lambda task: task["end_date"] or ""):
        told.add(task["task_id"])
        duration = f"{task['duration']:.1f} s" if task["duration"] is not None else ""
        print(f"  {task['state']:>8}  {task['task_id']:<20} {duration:>8}", flush=True)


def _describe_failure(api: AirflowAPI, run: str, tasks: list[dict[str, Any]]) -> str:
    failed = [task for task in tasks if task["state"] == "failed"]
    parts = [f"the life cycle failed in {', '.join(task['task_id'] for task in failed)}."]
    for task in failed:
        log = api.get(f"{run}/taskInstances/{task['task_id']}/logs/{task['try_number']}", full_content=True)["content"]
        lines = [line if isinstance(line, str) else _describe_line(line) for line in log]
        parts += [f"--- end of the log of {task['task_id']}", *lines[-_LOG_LINES:]]
    return "\n".join(parts)


def _describe_line(line: dict[str, Any]) -> str:
    """A structured log line, with its exception when it has one."""
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in line.get("error_detail") or []]
    return "\n".join([str(line.get("event", "")), *errors])
