"""Services on the real backend: Envoy, model server processes, the JVM, and a controller that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_provider_timl.database.tables import utc_now
from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import ConflictError, NotFoundError, ServiceFailedError
from airflow_provider_timl.states import ServiceState
from tests.servers.load import Load, describe
from tests.servers.stack import ACTOR, Stack, is_answering, post
from tests.waiting import wait_until

IRIS = Path(__file__).parents[1] / "data" / "pmml_lr"
FLOWER = {"instances": [{"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}]}
ANSWER = {"predictions": [{"probability(-1)": 0.920300305045526, "probability(1)": 0.07969969495447403, "y": -1}]}
HEALS_WITHIN_SECONDS = 10.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    folder = tmp_path_factory.mktemp("iris")
    pmml = (IRIS / "LogisticRegressionIris.pmml").read_text()
    (folder / "iris.pmml").write_text(pmml)
    for _ in range(3):
        stack.save_model("iris", folder)
    stack.start_controller()
    yield stack
    stack.stop()


@pytest.fixture
def iris(stack: Stack) -> Iterator[str]:
    """A service with one version that answers; deleted at the end."""
    stack.registry.create_service(name="iris", model="iris", version=1, actor=ACTOR)
    stack.wait_until_in_sync("iris")
    yield "iris"
    stack.registry.delete_service(name="iris", actor=ACTOR)
    stack.wait_until_deleted("iris")


def add_ready_version(stack: Stack, version: int) -> None:
    stack.registry.add_version(name="iris", version=version, actor=ACTOR)
    stack.wait_until_in_sync("iris")


def shift(stack: Stack, traffic: dict[int, float]) -> None:
    stack.registry.set_traffic(name="iris", traffic=traffic, actor=ACTOR)
    stack.wait_until_in_sync("iris")


def test_first_version_answers_the_published_prediction_with_all_traffic(stack: Stack, iris: str) -> None:
    assert stack.predict(iris, FLOWER) == (200, ANSWER, "iris/v1")
    service = stack.registry.get_service(iris)
    assert service.state is ServiceState.RUNNING
    assert [(v.traffic_percent, v.ready_instances) for v in service.versions] == [(100, 1)]


def test_later_version_gets_no_traffic_but_can_be_pinned(stack: Stack, iris: str) -> None:
    add_ready_version(stack, 2)
    assert {stack.predict(iris, FLOWER)[2] for _ in range(50)} == {"iris/v1"}
    assert stack.predict(iris, FLOWER, version=2) == (200, ANSWER, "iris/v2")
    assert stack.predict(iris, FLOWER, version=9)[0] == 404


def test_label_in_the_path_asks_the_version_of_the_alias_and_follows_it(stack: Stack, iris: str) -> None:
    add_ready_version(stack, 2)

    def ask(label: str) -> tuple[int, str | None]:
        status, _, served_by = stack.predict(iris, FLOWER, path=f"/v1/models/m/labels/{label}:predict")
        return status, served_by

    stack.repository.set_alias(name="iris", alias="champion", version=2, actor=ACTOR)
    wait_until(lambda: ask("champion") == (200, "iris/v2"), timeout_seconds=5)
    stack.repository.set_alias(name="iris", alias="champion", version=1, actor=ACTOR)
    wait_until(lambda: ask("champion") == (200, "iris/v1"), timeout_seconds=5)
    stack.repository.set_alias(name="iris", alias="champion", version=3, actor=ACTOR)
    wait_until(lambda: ask("champion") == (404, None), timeout_seconds=5)
    status, body, _ = stack.predict(iris, FLOWER, path="/v1/models/m/labels/champion:predict")
    assert (status, body["error"].split("; ")[1]) == (404, "its labels (aliases of the model): none")
    stack.repository.delete_alias(name="iris", alias="champion", actor=ACTOR)


def test_in_sync_means_that_the_gateway_serves_the_new_split(stack: Stack, iris: str) -> None:
    add_ready_version(stack, 2)
    for _ in range(5):
        shift(stack, {1: 0, 2: 100})
        assert {stack.predict(iris, FLOWER)[2] for _ in range(30)} == {"iris/v2"}
        shift(stack, {1: 100, 2: 0})
        assert {stack.predict(iris, FLOWER)[2] for _ in range(30)} == {"iris/v1"}


def test_rollback_brings_back_a_removed_version_with_its_traffic(stack: Stack, iris: str) -> None:
    before = stack.registry.get_service(iris).revision
    add_ready_version(stack, 2)
    shift(stack, {1: 0, 2: 100})
    stack.registry.remove_version(name=iris, version=1, actor=ACTOR)
    stack.wait_until_in_sync(iris)
    assert stack.predict(iris, FLOWER, version=1)[0] == 404
    stack.registry.rollback(name=iris, revision=before, actor=ACTOR)
    service = stack.wait_until_in_sync(iris)
    assert [(v.version, v.traffic_percent) for v in service.versions] == [(1, 100)]
    assert {stack.predict(iris, FLOWER)[2] for _ in range(30)} == {"iris/v1"}
    assert stack.registry.list_revisions(iris, 1, 0)[0][0].action == f"rollback to revision {before}"


def test_split_over_20000_requests_is_within_one_point(stack: Stack, iris: str) -> None:
    add_ready_version(stack, 2)
    shift(stack, {1: 90, 2: 10})
    headers = stack.build_headers(iris)
    with Load(stack.settings.gateway_port, headers, FLOWER, clients=8, rate=None, most=20_000) as load:
        pass
    assert not load.failures, describe(load.failures)
    assert load.count >= 20_000
    assert load.share("iris/v2") == pytest.approx(10, abs=1)


def test_no_request_is_lost_by_anything_an_operator_does(stack: Stack, iris: str) -> None:
    """60 s of steady load: 50 shifts, a rollback, a version added and removed, keys changed, the controller killed."""
    add_ready_version(stack, 2)
    started = time.monotonic()
    with Load(stack.settings.gateway_port, stack.build_headers(iris), FLOWER, clients=8, rate=250) as load:
        for step in range(50):
            percent = float(step * 7 % 101)
            shift(stack, {1: 100 - percent, 2: percent})
        stack.registry.create_key(name=iris, key_name="second", expires_at=None, actor=ACTOR)
        add_ready_version(stack, 3)
        shift(stack, {1: 30, 2: 30, 3: 40})
        stack.kill_controller()
        stack.registry.set_traffic(name=iris, traffic={1: 100}, actor=ACTOR)
        stack.start_controller()
        stack.wait_until_in_sync(iris)
        stack.registry.remove_version(name=iris, version=3, actor=ACTOR)
        stack.wait_until_in_sync(iris)
        before = stack.registry.get_service(iris).revision
        shift(stack, {1: 10, 2: 90})
        stack.registry.rollback(name=iris, revision=before, actor=ACTOR)
        stack.wait_until_in_sync(iris)
        wait_until(lambda: time.monotonic() - started >= 60, timeout_seconds=60)
    duration = time.monotonic() - started
    print(f"{load.count} requests in {duration:.0f} s, {len(load.failures)} failed, served by {dict(load.served_by)}")
    assert not load.failures, describe(load.failures)
    assert load.count / duration >= 200
    assert set(load.served_by) == {"iris/v1", "iris/v2", "iris/v3"}


def test_killed_model_server_is_back_and_its_neighbour_never_notices(stack: Stack, iris: str) -> None:
    stack.registry.create_service(name="neighbour", model="iris", version=2, actor=ACTOR)
    stack.wait_until_in_sync("neighbour")
    headers = stack.build_headers("neighbour")
    with Load(stack.settings.gateway_port, headers, FLOWER, clients=2, rate=100) as load:
        (process,) = stack.list_processes("runtimes.server", "iris-v1")
        process.kill()
        process.wait()
        wait_until(lambda: is_answering(lambda: stack.predict(iris, FLOWER)), timeout_seconds=HEALS_WITHIN_SECONDS)
    assert not load.failures, describe(load.failures)
    stack.wait_until_in_sync(iris, HEALS_WITHIN_SECONDS)
    stack.registry.delete_service(name="neighbour", actor=ACTOR)
    stack.wait_until_deleted("neighbour")


def test_one_of_two_instances_is_killed_without_a_failed_request(stack: Stack) -> None:
    stack.registry.create_service(name="pair", model="iris", version=1, instances=2, actor=ACTOR)
    stack.wait_until_in_sync("pair")
    with Load(stack.settings.gateway_port, stack.build_headers("pair"), FLOWER, clients=4, rate=200) as load:
        stack.list_processes("runtimes.server", "pair-v1")[0].kill()
        wait_until(lambda: not stack.registry.get_service("pair").in_sync, timeout_seconds=5)
        stack.wait_until_in_sync("pair", HEALS_WITHIN_SECONDS)
    assert not load.failures, describe(load.failures)
    stack.registry.delete_service(name="pair", actor=ACTOR)
    stack.wait_until_deleted("pair")


def test_killed_gateway_is_back_with_what_the_database_says(stack: Stack, iris: str) -> None:
    add_ready_version(stack, 2)
    shift(stack, {1: 0, 2: 100})
    (envoy,) = [process for process in stack.list_processes() if process.name().startswith("envoy")]
    envoy.kill()
    wait_until(lambda: is_answering(lambda: stack.predict(iris, FLOWER)), timeout_seconds=HEALS_WITHIN_SECONDS)
    stack.wait_until_in_sync(iris, HEALS_WITHIN_SECONDS)
    assert {stack.predict(iris, FLOWER)[2] for _ in range(30)} == {"iris/v2"}


def test_killed_controller_leaves_services_running_and_the_next_one_adopts_them(stack: Stack, iris: str) -> None:
    before = {process.pid for process in stack.list_processes("runtimes.server")}
    with Load(stack.settings.gateway_port, stack.build_headers(iris), FLOWER, clients=2, rate=100) as load:
        stack.kill_controller()
        stack.start_controller()
        add_ready_version(stack, 2)
    assert not load.failures, describe(load.failures)
    assert before <= {process.pid for process in stack.list_processes("runtimes.server")}


def test_disabled_and_expired_keys_are_refused_while_others_stay_valid(stack: Stack, iris: str) -> None:
    first = stack.build_headers(iris)
    stack.registry.create_key(name=iris, key_name="short", expires_at=utc_now() + timedelta(seconds=3), actor=ACTOR)
    stack.wait_until_in_sync(iris)
    key = stack.registry.list_keys(iris)[1]
    second = {**first, "Authorization": "Bearer " + stack.registry.get_key_secret(iris, key.id).secret}
    port = stack.settings.gateway_port
    assert post(port, second, FLOWER)[0] == 200
    stack.registry.set_key_enabled(name=iris, key_id=stack.registry.list_keys(iris)[0].id, enabled=False, actor=ACTOR)
    wait_until(lambda: post(port, first, FLOWER)[0] == 401, timeout_seconds=5)
    wait_until(lambda: post(port, second, FLOWER)[0] == 401, timeout_seconds=10)


def test_deleted_service_answers_404_and_its_processes_end(stack: Stack) -> None:
    stack.registry.create_service(name="gone", model="iris", actor=ACTOR)
    stack.wait_until_in_sync("gone")
    headers = stack.build_headers("gone")
    stack.registry.delete_service(name="gone", actor=ACTOR)
    stack.wait_until_deleted("gone")
    assert post(stack.settings.gateway_port, headers, FLOWER)[0] == 404
    wait_until(lambda: not stack.list_processes("runtimes.server", "gone-v"), timeout_seconds=15)
    with pytest.raises(NotFoundError):
        stack.registry.get_service("gone")
    stack.registry.create_service(name="gone", model="iris", actor=ACTOR)
    stack.wait_until_in_sync("gone")
    stack.registry.delete_service(name="gone", actor=ACTOR)
    stack.wait_until_deleted("gone")


def test_service_that_cannot_start_fails_with_reason_and_log_and_harms_nobody(stack: Stack, iris: str) -> None:
    gpus = Resources(gpu=8)
    stack.registry.create_service(name="greedy", model="iris", resources=gpus, actor=ACTOR)
    with pytest.raises(ServiceFailedError, match="GPU"):
        stack.wait_until_in_sync("greedy")
    assert stack.predict(iris, FLOWER)[0] == 200
    stack.registry.delete_service(name="greedy", actor=ACTOR)
    stack.wait_until_deleted("greedy")


def test_version_in_service_cannot_be_deleted_from_the_repository(stack: Stack, iris: str) -> None:
    with pytest.raises(ConflictError, match="iris"):
        stack.repository.delete_version(name="iris", version=1, actor=ACTOR)


def test_access_keys_are_in_no_log_and_no_command_line(stack: Stack, iris: str) -> None:
    secret = stack.get_secret(iris)
    stack.predict(iris, FLOWER)
    root = stack.settings.data_dir.parent
    # grep, because opening SQLite's files here would take away this process' own locks on them
    found = subprocess.run(["grep", "-rlF", secret, root], capture_output=True, text=True, check=False)
    holders = [Path(line) for line in found.stdout.splitlines()]
    assert holders
    assert {path.name for path in holders} <= {"rds.json", "published.json"}
    assert all(os.stat(path).st_mode & 0o077 == 0 for path in holders)
    assert not stack.list_processes(secret)


def test_stopping_the_controller_politely_leaves_services_running(stack: Stack, iris: str) -> None:
    assert stack._controller is not None
    stack._controller.send_signal(signal.SIGTERM)
    assert stack._controller.wait(20) == 0
    assert stack.predict(iris, FLOWER)[0] == 200
    stack.start_controller()
    add_ready_version(stack, 2)


def test_rollback_to_a_version_that_was_deleted_is_refused(stack: Stack, iris: str, tmp_path: Path) -> None:
    (tmp_path / "iris.pmml").write_text((IRIS / "LogisticRegressionIris.pmml").read_text())
    version = stack.save_model("iris", tmp_path).version
    add_ready_version(stack, version)
    revision = stack.registry.get_service(iris).revision
    stack.registry.remove_version(name=iris, version=version, actor=ACTOR)
    stack.wait_until_in_sync(iris)
    stack.repository.delete_version(name="iris", version=version, actor=ACTOR)
    with pytest.raises(ConflictError, match=f"version {version} of model 'iris' was deleted"):
        stack.registry.rollback(name=iris, revision=revision, actor=ACTOR)
    assert stack.registry.get_service(iris).revision == revision + 1
