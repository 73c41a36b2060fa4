"""What is rendered for Envoy, as data. Whether Envoy understands it is tested with Envoy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from airflow_provider_timl.backends.contract import GatewayConfig, GatewayKey, ServiceRoute, VersionRoute
from airflow_provider_timl.backends.local import envoy_config
from airflow_provider_timl.settings import Settings

SETTINGS = Settings(data_dir=Path("/data"), database_url="", artifact_store="", encryption_key="")
SECRET = "0123456789abcdef"
ROUTE = ServiceRoute(
    "iris",
    "iris.timl.local",
    (GatewayKey("iris/default", SECRET),),
    (VersionRoute(1, 9_999, ("unix:/run/a.sock", "unix:/run/b.sock")), VersionRoute(2, 1, ("unix:/run/c.sock",))),
)
CONFIG = GatewayConfig((ROUTE,))


def get_version(config: GatewayConfig, settings: Settings = SETTINGS) -> str:
    return str(envoy_config.render_routes(settings, config)["version_info"])


def test_version_is_the_same_for_the_same_content_and_differs_with_each_part() -> None:
    other_key = replace(ROUTE, keys=(GatewayKey("iris/default", "another"),))
    other_weights = replace(ROUTE, versions=(VersionRoute(1, 10_000, ()), VersionRoute(2, 0, ())))
    versions = {get_version(GatewayConfig((route,))) for route in (ROUTE, other_key, other_weights)}
    assert len(versions) == 3
    assert get_version(CONFIG) == get_version(GatewayConfig((replace(ROUTE),)))


def test_changed_settings_change_the_version_so_that_they_are_published() -> None:
    assert get_version(CONFIG) != get_version(CONFIG, replace(SETTINGS, request_timeout_seconds=1))


def test_routes_do_not_change_when_an_instance_comes_or_goes() -> None:
    fewer = replace(ROUTE, versions=(VersionRoute(1, 9_999, ("unix:/run/a.sock",)), ROUTE.versions[1]))
    assert get_version(GatewayConfig((fewer,))) == get_version(CONFIG)
    before, after = (
        envoy_config.render_clusters(envoy_config.list_clusters(GatewayConfig((route,)))) for route in (ROUTE, fewer)
    )
    assert before["version_info"] != after["version_info"]


def test_keys_are_in_the_routes_alone() -> None:
    assert SECRET in json.dumps(envoy_config.render_routes(SETTINGS, CONFIG))
    assert SECRET not in json.dumps(envoy_config.render_clusters(envoy_config.list_clusters(CONFIG)))
    assert SECRET not in json.dumps(envoy_config.render_listeners(SETTINGS, Path("/data/rds.json")))
    assert SECRET not in repr(CONFIG)


def test_the_smallest_share_is_a_hundredth_of_a_percent() -> None:
    (host, _) = envoy_config.render_routes(SETTINGS, CONFIG)["resources"][0]["virtual_hosts"]
    split = host["routes"][-1]["route"]["weighted_clusters"]["clusters"]
    assert [(cluster["name"], cluster["weight"]) for cluster in split] == [("timl|iris|v1", 9_999), ("timl|iris|v2", 1)]


RPC_ROUTE = replace(
    ROUTE,
    versions=(
        replace(ROUTE.versions[0], rpc_addresses=("unix:/run/a.rpc", "unix:/run/b.rpc")),
        ROUTE.versions[1],
        VersionRoute(3, 0, ()),
    ),
)


def test_grpc_has_a_cluster_of_its_own_with_http2_and_its_own_health_check() -> None:
    clusters = envoy_config.list_clusters(GatewayConfig((RPC_ROUTE,)))
    assert clusters["timl|iris|v1|rpc"] == ("unix:/run/a.rpc", "unix:/run/b.rpc")
    assert "timl|iris|v2|rpc" not in clusters
    resources = {each["name"]: each for each in envoy_config.render_clusters(clusters)["resources"]}
    assert "grpc_health_check" in resources["timl|iris|v1|rpc"]["health_checks"][0]
    assert "http2_protocol_options" in json.dumps(resources["timl|iris|v1|rpc"])
    assert "http2" not in json.dumps(resources["timl|iris|v1"])


def test_grpc_calls_are_matched_before_the_requests_for_all() -> None:
    (host, _) = envoy_config.render_routes(SETTINGS, GatewayConfig((RPC_ROUTE,)))["resources"][0]["virtual_hosts"]
    rpc = [index for index, route in enumerate(host["routes"]) if "grpc" in route["match"]]
    assert rpc == [0, 1, 2, len(host["routes"]) - 2]
    first, second, third, split = (host["routes"][index] for index in rpc)
    assert first["route"]["weighted_clusters"]["clusters"][0]["name"] == "timl|iris|v1|rpc"
    assert second["direct_response"]["status"] == 501, "its instances have no gRPC"
    assert third["direct_response"]["status"] == 503, "it has no instance yet, so nobody knows"
    assert [cluster["weight"] for cluster in split["route"]["weighted_clusters"]["clusters"]] == [9_999]
