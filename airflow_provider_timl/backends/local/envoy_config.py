"""Envoy's files, rendered from a ``GatewayConfig``: pure functions that return data.

Three files are published: listeners (LDS), routes with hosts, keys and weights (RDS), clusters with endpoints (CDS).
Endpoints stand inside static clusters, because Envoy opens an inotify instance for every EDS file. The version of each
file is the digest of what is in it, so it changes with the settings and with this module, too.
``render_validation`` gives the same as one static bootstrap, which is what ``envoy --mode validate`` can check.

:source: Envoy 1.40, ``envoy.config.*.v3``; measured choices are in docs/adr.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_provider_timl.backends.contract import GatewayConfig, ServiceRoute, VersionRoute
from airflow_provider_timl.backends.local.envoy_errors import render_error_bodies
from airflow_provider_timl.settings import Settings

Json = dict[str, Any]

_ROUTES_NAME = "timl"
_STAT_PREFIX = "gw"
#: Prefixes of Envoy's statistics for each of the three files.
LISTENERS, CLUSTERS = "listener_manager.lds", "cluster_manager.cds"
ROUTES = f"http.{_STAT_PREFIX}.rds.{_ROUTES_NAME}"
_VERSION_HEADER = "x-timl-version"
_SERVED_BY_HEADER = "x-timl-served-by"
_CLIENT_HEADER = "x-timl-client"
_TYPE = "type.googleapis.com/envoy."
_KEY_FILTER = "envoy.filters.http.api_key_auth"
_MOST_CONNECTIONS = 20_000
_MOST_UPSTREAM_REQUESTS = 16_384
_MOST_DRAWS = 50
#: What may pass without a byte beyond the longest prediction: then a client is called stalled.
_STALL_SECONDS = 30.0
_HEADERS_SECONDS = 30.0
_UNKNOWN_HOST = "there is no service at this host; the header Host says which service is meant"
_NO_TRAFFIC = "no version of this service is ready yet; try again shortly"
_NO_RPC = "this model is not served by gRPC; use REST: POST /v1/models/m:predict"
_RPC_SUFFIX = "|rpc"
#: TensorFlow Serving's ways to name a version in a path.
_VERSION_PATH = "/v1/models/[^/:]+/versions/{version}([/:].*)?"
_LABEL_PATH = "(/v1/models/[^/:]+)/labels/{label}([/:].*)?"


def build_cluster_name(service: str, version: int) -> str:
    return f"timl|{service}|v{version}"


def build_rpc_cluster_name(service: str, version: int) -> str:
    """gRPC needs HTTP/2, which is a cluster's matter."""
    return build_cluster_name(service, version) + _RPC_SUFFIX


def render_bootstrap(folder: Path, admin_socket: Path) -> Json:
    """What Envoy starts with: where its files are, and its administration on a private socket."""
    return {
        "node": {"id": "timl", "cluster": "timl"},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": _render_file_source(folder / "lds.json"),
            "cds_config": _render_file_source(folder / "cds.json"),
        },
        "overload_manager": _render_overload_manager(),
    }


def render_listeners(settings: Settings, routes_file: Path) -> Json:
    source = {"config_source": _render_file_source(routes_file), "route_config_name": _ROUTES_NAME}
    listener = _render_listener(settings, {"rds": source})
    return _render_discovery([{"@type": _TYPE + "config.listener.v3.Listener", **listener}])


def render_routes(settings: Settings, config: GatewayConfig) -> Json:
    resource = {"@type": _TYPE + "config.route.v3.RouteConfiguration", **_render_route_configuration(settings, config)}
    return _render_discovery([resource])


def render_clusters(addresses: Mapping[str, tuple[str, ...]]) -> Json:
    """:param addresses: endpoints by cluster name."""
    return _render_discovery(
        [
            {"@type": _TYPE + "config.cluster.v3.Cluster", **_render_cluster(name, endpoints)}
            for name, endpoints in sorted(addresses.items())
        ]
    )


def render_validation(settings: Settings, config: GatewayConfig) -> Json:
    """All in one static bootstrap, with every route's cluster checked to exist."""
    routes = {**_render_route_configuration(settings, config), "validate_clusters": True}
    return {
        "static_resources": {
            "listeners": [_render_listener(settings, {"route_config": routes})],
            "clusters": [_render_cluster(name, endpoints) for name, endpoints in list_clusters(config).items()],
        },
        "overload_manager": _render_overload_manager(),
    }


def list_clusters(config: GatewayConfig) -> dict[str, tuple[str, ...]]:
    """Endpoints by cluster name. A version without gRPC has no cluster for it."""
    clusters = {}
    for route in config.routes:
        for version in route.versions:
            clusters[build_cluster_name(route.service, version.version)] = version.addresses
            if version.rpc_addresses:
                clusters[build_rpc_cluster_name(route.service, version.version)] = version.rpc_addresses
    return clusters


def _render_discovery(resources: list[Json]) -> Json:
    return {"version_info": hashlib.sha256(json.dumps(resources).encode()).hexdigest()[:24], "resources": resources}


def _render_file_source(path: Path) -> Json:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def _render_overload_manager() -> Json:
    limit = {
        "@type": _TYPE + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": _MOST_CONNECTIONS,
    }
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return {"resource_monitors": [{"name": name, "typed_config": limit}]}


def _render_listener(settings: Settings, routes: Json) -> Json:
    manager = {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": _STAT_PREFIX,
        **routes,
        "strip_any_host_port": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "use_remote_address": True,
        "request_headers_timeout": f"{_HEADERS_SECONDS}s",
        "stream_idle_timeout": f"{settings.request_timeout_seconds + _STALL_SECONDS}s",
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "none"},
        "early_header_mutation_extensions": [_render_header_removal()],
        "local_reply_config": render_error_bodies(settings),
        "http_filters": [
            {"name": _KEY_FILTER, "typed_config": {"@type": _TYPE + _key_auth("ApiKeyAuth"), **_render_key_source()}},
            {
                "name": "envoy.filters.http.body_size_limit",
                "typed_config": {
                    "@type": _TYPE + "extensions.filters.http.body_size_limit.v3.BodySizeLimit",
                    "max_request_bytes": settings.max_request_bytes,
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": _TYPE + "extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }
    address = {"socket_address": {"address": settings.gateway_host, "port_value": settings.gateway_port}}
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": "gateway",
        "address": address,
        # otherwise a second gateway could listen there, too, and get half of the requests
        "enable_reuse_port": False,
        "filter_chains": [{"filters": filters}],
    }


def _key_auth(message: str) -> str:
    return f"extensions.filters.http.api_key_auth.v3.{message}"


def _render_key_source() -> Json:
    return {"key_sources": [{"header": "Authorization"}]}


def _render_header_removal() -> Json:
    """Callers may not claim to be a client that a key stands for, nor tell Envoy how to retry or when to give up."""
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": _TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove": _CLIENT_HEADER}, {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}],
        },
    }


def _render_route_configuration(settings: Settings, config: GatewayConfig) -> Json:
    hosts = [_render_virtual_host(settings, route) for route in config.routes]
    return {"name": _ROUTES_NAME, "virtual_hosts": [*hosts, _render_unknown_host()]}


def _render_virtual_host(settings: Settings, route: ServiceRoute) -> Json:
    return {
        "name": route.host,
        "domains": [route.host],
        "typed_per_filter_config": {
            _KEY_FILTER: {
                "@type": _TYPE + _key_auth("ApiKeyAuthPerRoute"),
                "credentials": [{"key": key.secret, "client": key.client} for key in route.keys],
                # must be repeated here: a virtual host that overrides the filter loses what the filter says
                "forwarding": {"header": _CLIENT_HEADER, "hide_credentials": True},
            }
        },
        "routes": _render_routes(settings, route),
    }


def _render_routes(settings: Settings, route: ServiceRoute) -> list[Json]:
    """The first that matches is taken: the version in the header, then in the path, then by weight; gRPC's own before
    those for all."""
    versions = route.versions
    return [
        *[_render_rpc_pin(settings, route.service, version) for version in versions],
        *[_render_pin(settings, route.service, version, _match_header(version.version)) for version in versions],
        _render_unknown_version(route, {"prefix": "/", "headers": [{"name": _VERSION_HEADER, "present_match": True}]}),
        *[_render_pin(settings, route.service, version, _match_path(version.version)) for version in versions],
        _render_unknown_version(route, _match_path("[^/:]+")),
        *[_render_label(settings, route.service, version, label) for version in versions for label in version.labels],
        _render_unknown_label(route),
        _render_rpc_split(settings, route),
        _render_split(settings, route),
    ]


def _match_header(version: int) -> Json:
    return {"prefix": "/", "headers": [{"name": _VERSION_HEADER, "string_match": {"exact": str(version)}}]}


def _match_path(version: int | str) -> Json:
    return {"safe_regex": {"regex": _VERSION_PATH.format(version=version)}}


def _render_pin(settings: Settings, service: str, version: VersionRoute, match: Json) -> Json:
    clusters = [_render_weighted_cluster(service, version, weight=1)]
    return {"match": match, "route": _render_action(settings, clusters)}


def _render_label(settings: Settings, service: str, version: VersionRoute, label: str) -> Json:
    """A pin by another name. Model servers know versions by number, so the path is made to say that."""
    regex = _LABEL_PATH.format(label=label)
    rewrite = {"pattern": {"regex": regex}, "substitution": rf"\1/versions/{version.version}\2"}
    pin = _render_pin(settings, service, version, {"safe_regex": {"regex": regex}})
    return {**pin, "route": {**pin["route"], "regex_rewrite": rewrite}}


def _render_unknown_label(route: ServiceRoute) -> Json:
    labels = ", ".join(sorted(label for version in route.versions for label in version.labels)) or "none"
    sentence = (
        f"no version of this service has the label in %REQ(:PATH):80%; its labels (aliases of the model): {labels}"
    )
    match = {"safe_regex": {"regex": _LABEL_PATH.format(label="[^/:]+")}}
    body = {"text_format_source": {"inline_string": sentence}}
    return {"match": match, "direct_response": {"status": 404, "body_format": body}}


def _render_rpc_pin(settings: Settings, service: str, version: VersionRoute) -> Json:
    match = {**_match_header(version.version), "grpc": {}}
    if not version.addresses:
        return _render_answer(match, 503, _NO_TRAFFIC)
    if not version.rpc_addresses:
        return _render_answer(match, 501, _NO_RPC)
    clusters = [_render_weighted_cluster(service, version, weight=1, rpc=True)]
    return {"match": match, "route": _render_action(settings, clusters)}


def _render_unknown_version(route: ServiceRoute, match: Json) -> Json:
    """The version is what the request says, by header or by path."""
    asked = f"%REQ({_VERSION_HEADER}):20%" if "headers" in match else "as in %REQ(:PATH):80%"
    versions = ", ".join(str(version.version) for version in route.versions) or "none yet"
    sentence = f"this service has no version {asked}; its versions: {versions}"
    body = {"text_format_source": {"inline_string": sentence}}
    return {"match": match, "direct_response": {"status": 404, "body_format": body}}


def _render_split(settings: Settings, route: ServiceRoute) -> Json:
    serving = [version for version in route.versions if version.weight]
    if not serving:
        return _render_answer({"prefix": "/"}, 503, _NO_TRAFFIC)
    clusters = [_render_weighted_cluster(route.service, version, version.weight) for version in serving]
    return {"match": {"prefix": "/"}, "route": _render_action(settings, clusters)}


def _render_rpc_split(settings: Settings, route: ServiceRoute) -> Json:
    """By the same weights, among the versions that have gRPC: no call fails because others have traffic as well."""
    match: Json = {"prefix": "/", "grpc": {}}
    serving = [version for version in route.versions if version.weight]
    with_rpc = [version for version in serving if version.rpc_addresses]
    if with_rpc:
        clusters = [_render_weighted_cluster(route.service, each, each.weight, rpc=True) for each in with_rpc]
        return {"match": match, "route": _render_action(settings, clusters)}
    return _render_answer(match, 501, _NO_RPC) if serving else _render_answer(match, 503, _NO_TRAFFIC)


def _render_answer(match: Json, status: int, sentence: str) -> Json:
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": sentence}}}


def _render_weighted_cluster(service: str, version: VersionRoute, weight: int, *, rpc: bool = False) -> Json:
    served_by = {"key": _SERVED_BY_HEADER, "value": f"{service}/v{version.version}"}
    build_name = build_rpc_cluster_name if rpc else build_cluster_name
    return {
        "name": build_name(service, version.version),
        "weight": weight,
        "response_headers_to_add": [{"header": served_by, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _render_action(settings: Settings, clusters: list[Json]) -> Json:
    """Predictions have no side effects, so a request that was cut off may be sent to another instance.

    A caller's own gRPC deadline passes through: the model server ends the call then.
    """
    return {
        "weighted_clusters": {"clusters": clusters},
        "timeout": f"{settings.request_timeout_seconds}s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset",
            "num_retries": 3,
            # a dead instance has the fewest requests, so three draws of four give it again
            "host_selection_retry_max_attempts": _MOST_DRAWS,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {"@type": _TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
                }
            ],
        },
    }


def _render_unknown_host() -> Json:
    """Without keys of its own the filter would say 401; it is disabled, so that the answer is 404."""
    disabled = {
        "@type": _TYPE + "config.route.v3.FilterConfig",
        "disabled": True,
        "config": {},
    }
    response = {"status": 404, "body": {"inline_string": _UNKNOWN_HOST}}
    return {
        "name": "unknown",
        "domains": ["*"],
        "typed_per_filter_config": {_KEY_FILTER: disabled},
        "routes": [{"match": {"prefix": "/"}, "direct_response": response}],
    }


def _render_cluster(name: str, addresses: tuple[str, ...]) -> Json:
    endpoints = [{"endpoint": {"address": _render_address(address)}} for address in addresses]
    is_rpc = name.endswith(_RPC_SUFFIX)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "lb_policy": "LEAST_REQUEST",
        # without it a removed but healthy instance keeps getting requests
        "ignore_health_on_host_removal": True,
        "common_lb_config": {
            # never send requests to instances that are known to be down
            "healthy_panic_threshold": {"value": 0},
            # otherwise what health checks find may reach the workers a second late
            "update_merge_window": "0s",
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "unhealthy_interval": "0.25s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                **_render_health_check(is_rpc),
            }
        ],
        **(_render_http2() if is_rpc else {}),
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _MOST_UPSTREAM_REQUESTS,
                    "max_pending_requests": _MOST_UPSTREAM_REQUESTS,
                    "max_requests": _MOST_UPSTREAM_REQUESTS,
                    "max_retries": 256,
                }
            ]
        },
    }


def _render_health_check(is_rpc: bool) -> Json:
    if is_rpc:
        return {"grpc_health_check": {"authority": "timl"}}
    return {"http_health_check": {"path": "/readyz", "host": "timl"}}


def _render_http2() -> Json:
    options = {
        "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}


def _render_address(address: str) -> Json:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
