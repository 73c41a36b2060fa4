"""The model server with an Angel model, as clients of Angel Serving see it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_provider_timl.runtimes.angel.monitor import AngelMonitor
from tests.contract.test_model_server import Server, start_server, stop_server
from tests.models import ANGEL_LR

MONITOR = "/monitoring/prometheus/metrics"
BODY = json.dumps({"instances": [{"sparseIndices": [1], "sparseValues": [1.0], "key": "a"}]}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    names = {"model_names": ["m", "lr"], "model_path": str(ANGEL_LR.parent)}
    server = start_server(tmp_path_factory.mktemp("angel"), runtime="angel", **names)
    yield server
    stop_server(server)


def test_status_has_the_strings_of_protobuf(server: Server) -> None:
    _, status = server.send(b"", "/v1/models/lr", "GET")
    assert status["model_version_status"][0]["version"] == "6"
    assert (status["dim"], status["typeMap"]) == ("123", {"valueType": "DT_FLOAT", "keyType": "DT_INT32"})


def test_metrics_are_those_of_angel_serving_and_never_late(server: Server) -> None:
    assert server.send(b"", MONITOR, "GET") == (200, {})
    for path in ("lr", "lr", "m", "lr/versions/6"):
        assert server.send(BODY, f"/v1/models/{path}:predict")[0] == 200
    assert server.send(b"{}", "/v1/models/lr:predict")[0] == 400
    assert server.send(BODY, "/v1/models/lr/versions/7:predict")[0] == 404
    models = server.send(b"", MONITOR, "GET")[1]["models"]
    assert {name: list(model["versions"]) for name, model in models.items()} == {"lr": ["0", "6"], "m": ["0"]}
    latest, pinned = models["lr"]["versions"]["0"], models["lr"]["versions"]["6"]
    counts = ("prediction_count_total", "prediction_count_success", "prediction_count_failed")
    assert [latest[name] for name in counts] == ["3", "2", "1"]
    assert "model_version" not in latest
    assert (pinned["model_name"], pinned["model_version"], pinned["prediction_count_total"]) == ("lr", 6, "1")
    assert "prediction_count_failed" not in pinned


def test_time_falls_into_angels_buckets() -> None:
    monitor = AngelMonitor()
    assert monitor.render() == b"{\n}"
    for milliseconds in (5, 6, 10, 15, 16, 4000):
        monitor.count("lr", "6", is_success=True, seconds=milliseconds / 1000 + 1e-6)
    monitor.count("lr", "6", is_success=False, seconds=9)
    assert json.loads(monitor.render())["models"]["lr"]["versions"]["6"] == {
        "model_name": "lr",
        "model_version": 6,
        "prediction_count_total": "7",
        "prediction_count_success": "6",
        "prediction_count_failed": "1",
        "total_predict_time_ms": 4052.0,
        "count_distribution0": "1",
        "count_distribution1": "2",
        "count_distribution2": "1",
        "count_distribution3": "2",
    }


def test_methods_that_angel_serving_leaves_empty_are_not_found(server: Server) -> None:
    for verb in ("classify", "regress"):
        assert server.send(BODY, f"/v1/models/lr:{verb}")[0] == 404
