"""``script/demo`` as a stranger runs it: a fresh clone, a real ``airflow standalone``, a curl that is answered.

One run serves all tests of this module; the last two end it and start it again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.servers.stack import list_processes
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 600.0
STOP_SECONDS = 180.0
HEAL_SECONDS = 30.0
PUBLISHED = {"probability(1)": 0.07969969495447403, "probability(-1)": 0.920300305045526, "y": -1}
#: Where secrets belong; each is readable by its owner alone.
SECRET_FILES = {
    "demo.env",
    "demo.json",
    "secrets.json",
    "airflow/passwords.json",
    "airflow/timl/gateway/published.json",
    "airflow/timl/gateway/rds.json",
    "storage/s3.json",
}


class Demo:
    """A running demo.

    :param checkout: the clone that it runs from.
    """

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.state = checkout / ".timl"
        self.output = checkout.parent / "demo.out"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [checkout / "script" / "demo"],
                stdout=output,
                stderr=output,
                env=build_environment(),
                start_new_session=True,
            )
        wait_until(self._is_up, timeout_seconds=START_SECONDS)
        self.result = json.loads((self.state / "demo.json").read_text())
        self.service = self.result["services"][0]

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.text
        return "until Ctrl-C" in self.text

    @property
    def text(self) -> str:
        return self.output.read_text()

    def get(self, path: str, **params: Any) -> Any:
        answer = requests.get(self.result["airflow_url"] + path, params=params, headers=self.log_in(), timeout=60)
        answer.raise_for_status()
        return answer.json()

    def log_in(self) -> dict[str, str]:
        login = {name: self.result[name] for name in ("username", "password")}
        token = requests.post(f"{self.result['airflow_url']}/auth/token", json=login, timeout=60).json()
        return {"Authorization": f"Bearer {token['access_token']}", "X-Requested-With": "timl"}

    def predict(self, key: str, service: dict[str, Any] | None = None) -> requests.Response:
        """:param service: one of the result's; the first without."""
        asked = service or self.service
        return requests.post(
            f"{self.result['gateway_url']}/v1/models/m:predict",
            json=asked["example"],
            headers={"Host": asked["host"], "Authorization": key},
            timeout=30,
        )

    def find_processes(self, *words: str) -> list[psutil.Process]:
        """Living processes of this checkout whose command line holds every word."""
        return list_processes(str(self.checkout), *words)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)


def build_environment() -> dict[str, str]:
    """A person's shell: nothing of this test run's own Python or Airflow."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "VIRTUAL_ENV"))}
    folders = ours["PATH"].split(os.pathsep)
    return {**ours, "PATH": os.pathsep.join(folder for folder in folders if Path(folder) != Path(sys.prefix, "bin"))}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no git checkout, or git is missing: there is nothing to clone")
    checkout = tmp_path_factory.mktemp("fresh") / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
    demo = Demo(checkout)
    yield demo
    if demo.process.poll() is None:
        demo.stop()


def test_the_printed_curl_runs_as_it_is_and_gives_the_published_answer(demo: Demo) -> None:
    command = demo.text[demo.text.index("curl -H") :].split("\n\n")[0]
    assert '-H "Content-Type: application/json" -H "Authorization: ' in command
    assert command.endswith("/v1/models/m:predict")
    answer = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert json.loads(answer.stdout)["predictions"] == [pytest.approx(PUBLISHED, rel=1e-12)]


def test_the_result_file_holds_what_a_caller_needs_and_is_private(demo: Demo) -> None:
    assert stat.S_IMODE((demo.state / "demo.json").stat().st_mode) == 0o600
    assert demo.result.keys() == {"airflow_url", "username", "password", "gateway_url", "services"}
    types = {service["name"]: service["model_type"] for service in demo.result["services"]}
    assert types == {"iris": "pmml", "digits": "tensorflow", "angel-lr": "angel", "angel-deepfm": "angel"}
    for service in demo.result["services"]:
        assert service.keys() == {"name", "model_type", "host", "access_key", "example"}


def test_the_service_of_each_type_answers_its_example(demo: Demo) -> None:
    for service in demo.result["services"]:
        answer = demo.predict(service["access_key"], service)
        assert (answer.status_code, len(answer.json()["predictions"])) == (200, 1), service["name"]


@pytest.mark.parametrize(
    ("dag_id", "some"),
    [
        ("timl_lifecycle", {"save_model", "import_model", "roll_back", "predict_flowers"}),
        ("timl_model_types", {"tensorflow.check_digits", "angel.release.call_again", "deepfm.call"}),
    ],
)
def test_every_step_of_the_life_cycle_succeeded(demo: Demo, dag_id: str, some: set[str]) -> None:
    runs = demo.get(f"/api/v2/dags/{dag_id}/dagRuns")["dag_runs"]
    assert [run["state"] for run in runs] == ["success"]
    tasks = demo.get(f"/api/v2/dags/{dag_id}/dagRuns/~/taskInstances")["task_instances"]
    assert {task["state"] for task in tasks} == {"success"}
    assert {task["task_id"] for task in tasks} >= some


def test_a_wrong_key_is_refused(demo: Demo) -> None:
    answer = demo.predict("0" * len(demo.service["access_key"]))
    assert answer.status_code == 401
    assert answer.json().keys() == {"error"}


def test_the_control_plane_wants_a_login(demo: Demo) -> None:
    assert requests.get(f"{demo.result['airflow_url']}/timl/api/v1/services", timeout=60).status_code == 401


def test_everything_listens_on_this_machine_only(demo: Demo) -> None:
    family = {*demo.find_processes(), *psutil.Process(demo.process.pid).children(recursive=True)}
    sockets = [each for process in family for each in process.net_connections("inet")]
    addresses = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


def test_secrets_are_in_no_log_database_or_command_line(demo: Demo) -> None:
    keys = [service["access_key"] for service in demo.result["services"]]
    secrets = [*keys, demo.result["password"], read_storage_secret(demo)]
    assert not [process for secret in secrets for process in list_processes(secret)]
    holding = {
        str(file.relative_to(demo.state))
        for file in demo.state.rglob("*")
        if file.is_file() and any(secret.encode() in file.read_bytes() for secret in secrets)
    }
    assert holding <= SECRET_FILES
    assert {stat.S_IMODE((demo.state / name).stat().st_mode) for name in holding} == {0o600}


@pytest.mark.parametrize("dag_id", ["timl_lifecycle", "timl_model_types"])
def test_access_keys_are_in_no_xcom_and_no_rendered_field(demo: Demo, dag_id: str) -> None:
    runs = f"/api/v2/dags/{dag_id}/dagRuns"
    tasks = demo.get(f"{runs}/~/taskInstances")["task_instances"]
    shown = [json.dumps(tasks)]
    for task in tasks:
        entries = f"{runs}/{task['dag_run_id']}/taskInstances/{task['task_id']}/xcomEntries"
        keys = [entry["key"] for entry in demo.get(entries)["xcom_entries"]]
        shown += [json.dumps(demo.get(f"{entries}/{key}", stringify=True)) for key in keys]
    assert len(shown) > len(tasks)
    assert "host" in "".join(shown)
    assert not [service for service in demo.result["services"] if service["access_key"] in "".join(shown)]


def read_storage_secret(demo: Demo) -> str:
    identities = json.loads((demo.state / "storage" / "s3.json").read_text())["identities"]
    return str(identities[0]["credentials"][0]["secretKey"])


def test_a_second_demo_says_that_one_runs(demo: Demo) -> None:
    second = subprocess.run(
        [demo.checkout / "script" / "demo"], capture_output=True, text=True, check=False, env=build_environment()
    )
    assert second.returncode == 1
    assert "runs already" in second.stderr


def test_a_killed_controller_comes_back_and_works_while_requests_are_answered(demo: Demo) -> None:
    (killed,) = demo.find_processes("airflow timl controller")
    killed.kill()

    def is_back() -> bool:
        assert demo.predict(demo.service["access_key"]).status_code == 200
        return any(process.pid != killed.pid for process in demo.find_processes("airflow timl controller"))

    wait_until(is_back, timeout_seconds=HEAL_SECONDS)
    keys = f"{demo.result['airflow_url']}/timl/api/v1/services/iris/keys"
    made = requests.post(keys, json={"name": "second"}, headers=demo.log_in(), timeout=60)
    secret = demo.get(f"/timl/api/v1/services/iris/keys/{made.json()['id']}/secret")["secret"]
    wait_until(lambda: demo.predict(secret).status_code == 200, timeout_seconds=HEAL_SECONDS)


def test_ctrl_c_leaves_nothing_running(demo: Demo) -> None:
    assert demo.stop() == 0
    assert "nothing is left running" in demo.text
    assert not demo.find_processes()


def test_it_runs_again_on_what_the_first_run_left(demo: Demo) -> None:
    again = subprocess.run(
        [demo.checkout / "script" / "demo", "--exit"],
        capture_output=True,
        text=True,
        check=False,
        env=build_environment(),
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r"success +check_predictions", again.stdout)
    assert not demo.find_processes()
