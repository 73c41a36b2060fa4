"""The API and the hook over the whole platform: access, errors, and every call that a DAG makes."""

from __future__ import annotations

import json
import re
import select
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from airflow_provider_timl.api.access import READ, SECRET, WRITE
from airflow_provider_timl.api.app import API_PREFIX, build_document, create_app
from airflow_provider_timl.entities import Lineage
from airflow_provider_timl.exceptions import (
    ConflictError,
    InvalidInputError,
    InvalidModelError,
    NotFoundError,
    ServiceFailedError,
)
from airflow_provider_timl.hooks.prediction import PredictionHook
from airflow_provider_timl.hooks.timl import TimlHook
from airflow_provider_timl.states import ServiceState
from tests.servers.control_plane import ControlPlane
from tests.servers.stack import Stack

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "data" / "pmml_lr" / "LogisticRegressionIris.pmml"
FLOWER = {"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}
ANSWER = {"probability(-1)": 0.920300305045526, "probability(1)": 0.07969969495447403, "y": -1}
LINEAGE = Lineage(dag_id="d", run_id="r", task_id="t")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("platform"))
    stack.start_controller()
    yield stack
    stack.stop()


@pytest.fixture(scope="module")
def plane(stack: Stack) -> Iterator[ControlPlane]:
    plane = ControlPlane(stack)
    yield plane
    plane.stop()


@pytest.fixture(scope="module")
def hook(plane: ControlPlane) -> TimlHook:
    return TimlHook()


@pytest.fixture(scope="module")
def iris(hook: TimlHook) -> str:
    """A model with two versions."""
    for _ in range(2):
        hook.save_model(model_name="iris", model_type="pmml", path=MODEL, metrics={"accuracy": 0.97})
    return "iris"


@pytest.fixture(scope="module")
def service(hook: TimlHook, iris: str) -> str:
    """A service with version 1."""
    hook.deploy_service(service_name="flowers", model_name=iris, version=1)
    return "flowers"


def call(plane: ControlPlane, method: str, path: str, role: str | None, **options: Any) -> requests.Response:
    headers = {"X-Requested-With": "timl", **options.pop("headers", {})}
    if role:
        headers["Authorization"] = f"Bearer {plane.get_token(role)}"
    return requests.request(method, plane.url + path, headers=headers, timeout=30, **options)


def list_routes() -> list[tuple[str, str]]:
    """Method and path of each route of the API, with something in the place of each parameter."""
    paths = build_document(create_app())["paths"]
    return [
        (method.upper(), "/timl" + re.sub(r"\{(version|key)\}", "1", re.sub(r"\{(?!version|key)\w+\}", "x", path)))
        for path, methods in paths.items()
        for method in methods
        if path.startswith(API_PREFIX)
    ]


def test_every_route_states_who_may_call_it() -> None:
    checks = {READ.dependency, SECRET.dependency, WRITE[0].dependency}
    routes = [route for route in create_app().routes if getattr(route, "path", "").startswith(API_PREFIX)]
    assert len(routes) > 25
    for route in routes:
        found = {dependency.dependency for dependency in route.dependencies}  # type: ignore[attr-defined]
        assert found & checks, route
        if route.methods - {"GET", "HEAD"}:  # type: ignore[attr-defined]
            assert {check.dependency for check in WRITE} <= found, route


def test_every_route_wants_a_login_and_a_viewer_may_only_read(plane: ControlPlane) -> None:
    for method, path in list_routes():
        assert call(plane, method, path, None, json={}).status_code == 401, (method, path)
        status = call(plane, method, path, "VIEWER", json={}).status_code
        allowed = method == "GET" and not path.endswith("/secret")
        assert (status != 403) == allowed, (method, path, status)


def test_write_from_a_foreign_page_is_refused(plane: ControlPlane) -> None:
    answer = call(plane, "DELETE", "/timl/api/v1/services/flowers", "ADMIN", headers={"X-Requested-With": "other"})
    assert answer.status_code == 403
    assert "X-Requested-With" in answer.json()["error"]["message"]


def test_errors_have_one_shape_and_name_the_field(plane: ControlPlane) -> None:
    missing = call(plane, "GET", "/timl/api/v1/services/nothing", "VIEWER")
    assert (missing.status_code, missing.json()["error"]["reason"]) == (404, "not_found")
    body = {"name": "Bad Name", "model": "iris", "instance": 3}
    wrong = call(plane, "POST", "/timl/api/v1/services", "ADMIN", json=body)
    assert wrong.status_code == 400
    assert {problem["field"] for problem in wrong.json()["error"]["details"]["errors"]} == {"name", "instance"}
    no_json = call(plane, "POST", "/timl/api/v1/services", "ADMIN", data="name=x")
    assert (no_json.status_code, no_json.json()["error"]["reason"]) == (400, "invalid_input")


def test_committed_openapi_document_is_the_api() -> None:
    committed = json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text())
    assert committed == json.loads(json.dumps(build_document(create_app()))), (
        "run `python -m airflow_provider_timl.api docs/reference/openapi.json`"
    )


def test_saved_model_has_its_signature_and_metrics(hook: TimlHook, iris: str) -> None:
    model = hook.get_model(iris)
    assert [version.version for version in model.versions][-2:] == [2, 1]
    signature = model.versions[-1].inspection.signature
    assert signature is not None
    assert [field.name for field in signature.inputs] == list(FLOWER)
    assert model.versions[-1].metrics == {"accuracy": 0.97}


def test_retried_save_of_a_task_makes_no_second_version(hook: TimlHook) -> None:
    first = hook.save_model(model_name="retried", model_type="pmml", path=MODEL, lineage=LINEAGE)
    again = hook.save_model(model_name="retried", model_type="pmml", path=MODEL, lineage=LINEAGE)
    assert (first.version, again) == (1, first)
    assert len(hook.get_model("retried").versions) == 1


def test_refused_model_is_not_registered(hook: TimlHook, tmp_path: Path) -> None:
    entity = '<!DOCTYPE PMML [<!ENTITY x SYSTEM "file:///etc/passwd">]><PMML version="4.3">&x;</PMML>'
    (tmp_path / "model.pmml").write_text(entity)
    with pytest.raises(InvalidModelError, match="entities"):
        hook.save_model(model_name="hostile", model_type="pmml", path=tmp_path)
    with pytest.raises(NotFoundError):
        hook.get_model("hostile")


def test_deployed_service_answers_through_gateway_and_airflow_alike(
    hook: TimlHook, plane: ControlPlane, service: str
) -> None:
    assert PredictionHook(service).predict(instances=[FLOWER]) == {"predictions": [ANSWER]}
    assert hook.test_service(service_name=service, body={"instances": [FLOWER]}).body == {"predictions": [ANSWER]}
    assert hook.test_service(service_name=service).status == 200, "the example of the signature is answered"
    headers = {"Host": hook.get_service(service).host, "Authorization": hook.get_access_key(service)}
    path = "/timl/gateway/v1/models/m:predict"
    answer = requests.post(plane.url + path, json={"instances": [FLOWER]}, headers=headers, timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [ANSWER]})
    assert answer.headers["X-TIML-Served-By"] == "flowers/v1"
    headers["Authorization"] = "wrong"
    assert requests.post(plane.url + path, json={}, headers=headers, timeout=30).status_code == 401


def test_release_and_rollback_by_the_hook(hook: TimlHook, service: str) -> None:
    before = hook.get_service(service).revision
    hook.deploy_service(service_name=service, model_name="iris", version=2)
    assert [v.traffic_percent for v in hook.get_service(service).versions] == [100, 0]
    hook.shift_traffic(service_name=service, traffic={1: 90, 2: 10})
    hook.shift_traffic(service_name=service, traffic={2: 100})
    assert hook.test_service(service_name=service).version == "flowers/v2"
    rolled_back = hook.rollback_service(service_name=service, revision=before)
    assert [(v.version, v.traffic_percent) for v in rolled_back.versions] == [(1, 100)]
    assert rolled_back.state is ServiceState.RUNNING
    actions = [revision.action for revision in hook.list_revisions(service)]
    assert actions[:2] == [f"rollback to revision {before}", "traffic 2=100"]
    events = [event.action for event in hook.list_events(f"service:{service}")]
    assert events[0] == actions[0]


def test_deploying_what_is_there_changes_nothing_and_another_model_is_refused(hook: TimlHook, service: str) -> None:
    before = hook.get_service(service).revision
    hook.deploy_service(service_name=service, model_name="iris", version=1)
    assert hook.get_service(service).revision == before
    with pytest.raises(ConflictError, match="serves model 'iris'"):
        hook.deploy_service(service_name=service, model_name="retried", version=1)


def test_wrong_traffic_is_refused_before_anything_changes(hook: TimlHook, service: str) -> None:
    before = hook.get_service(service).revision
    with pytest.raises(InvalidInputError, match="not 100"):
        hook.shift_traffic(service_name=service, traffic={1: 90})
    with pytest.raises(NotFoundError):
        hook.shift_traffic(service_name=service, traffic={7: 100})
    assert hook.get_service(service).revision == before


def test_wait_for_what_cannot_run_fails_with_the_reason(hook: TimlHook, iris: str) -> None:
    with pytest.raises(ServiceFailedError, match="64 GPU"):
        hook.deploy_service(service_name="greedy", model_name=iris, resources={"gpu": 64}, timeout_seconds=60)
    hook.delete_service(service_name="greedy")
    assert hook.find_service("greedy") is None


def test_added_key_works_and_a_disabled_one_does_not(hook: TimlHook, service: str) -> None:
    key = hook.create_key(service_name=service, name="second")
    hook.wait_for_service(service, timeout_seconds=30)
    headers = {"Host": hook.get_service(service).host, "Authorization": hook.get_access_key(service, "second")}
    url = hook.get_service(service).gateway_url + "/v1/models/m:predict"
    assert requests.post(url, json={"instances": [FLOWER]}, headers=headers, timeout=30).status_code == 200
    hook.set_key_enabled(service_name=service, key_id=key.id, enabled=False)
    hook.wait_for_service(service, timeout_seconds=30)
    assert requests.post(url, json={"instances": [FLOWER]}, headers=headers, timeout=30).status_code == 401
    assert "secret" not in json.dumps([found.model_dump(mode="json") for found in hook.list_keys(service)])


def test_body_over_the_limit_is_413_at_the_gateway(hook: TimlHook, service: str) -> None:
    found = hook.get_service(service)
    lines = [
        "POST /v1/models/m:predict HTTP/1.1",
        f"Host: {found.host}",
        f"Authorization: {hook.get_access_key(service)}",
        "Content-Length: 100000000",
    ]
    address = urlsplit(found.gateway_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        for _ in range(100):  # as curl does: stop sending when the answer is there
            if select.select([connection], [], [], 0)[0]:
                break
            connection.sendall(b" " * 1_000_000)
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert "larger than" in json.loads(answer.read())["error"]


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Host": "nobody.timl.local"}, 404, "no service at this host"),
        ({"Authorization": "0" * 40}, 401, "access key"),
        ({"Authorization": ""}, 401, "access key"),
        ({"X-TIML-Version": "99"}, 404, "no version 99; its versions: 1"),
    ],
)
def test_gateway_refuses_in_json_with_a_sentence(
    hook: TimlHook, service: str, headers: dict[str, str], status: int, words: str
) -> None:
    found = hook.get_service(service)
    sent = {"Host": found.host, "Authorization": hook.get_access_key(service), **headers}
    url = found.gateway_url + "/v1/models/m:predict"
    answer = requests.post(url, json={"instances": [FLOWER]}, headers=sent, timeout=30)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert words in answer.json()["error"]


def test_version_in_use_cannot_be_deleted_and_others_can(hook: TimlHook, service: str) -> None:
    with pytest.raises(ConflictError, match="flowers"):
        hook.delete_model_version("iris", 1)
    version = hook.save_model(model_name="iris", model_type="pmml", path=MODEL).version
    hook.delete_model_version("iris", version)
    assert version not in [found.version for found in hook.get_model("iris").versions]


def test_deleted_service_is_gone_and_deleting_again_is_no_error(hook: TimlHook, iris: str) -> None:
    hook.deploy_service(service_name="short", model_name=iris, version=1)
    hook.delete_service(service_name="short")
    assert hook.find_service("short") is None
    hook.delete_service(service_name="short")
