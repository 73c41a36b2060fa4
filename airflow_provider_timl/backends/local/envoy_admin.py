"""Asks Envoy what it does, over its administration socket: the versions it serves, what it refused, who is healthy."""

from __future__ import annotations

import json
from http.client import HTTPException
from pathlib import Path
from typing import Any

from airflow_provider_timl.backends.local.unix_http import UnixConnection
from airflow_provider_timl.exceptions import ExternalSystemError

_TIMEOUT_SECONDS = 2.0
_VERSION = ".version_text"
_REFUSALS = ("update_rejected", "update_failure")
_WARMING = "cluster_manager.warming_clusters"


class EnvoyAdmin:
    """Every method raises ``ExternalSystemError`` while Envoy does not answer.

    A *subscription* is one of the files that Envoy follows, by the prefix of its statistics.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def read_versions(self) -> dict[str, str]:
        """``version_info`` of what Envoy took over last, by subscription."""
        readouts = self._read_stats("type=TextReadouts&filter=version_text")
        return {name.removesuffix(_VERSION): value for name, value in readouts.items() if name.endswith(_VERSION)}

    def count_refusals(self, subscription: str) -> int:
        """How often Envoy refused an update of a subscription since it started."""
        counters = self._read_stats("type=Counters&filter=" + "|".join(_REFUSALS))
        return sum(counters.get(f"{subscription}.{name}", 0) for name in _REFUSALS)

    def count_warming_clusters(self) -> int:
        """Clusters that changed and wait for their first health checks; until then the ones before are used."""
        return int(self._read_stats(f"type=Gauges&filter={_WARMING}")[_WARMING])

    def list_healthy(self) -> frozenset[str]:
        """Addresses that pass the health checks."""
        clusters = self._ask("/clusters?format=json").get("cluster_statuses", ())
        return frozenset(
            _read_address(host["address"])
            for cluster in clusters
            for host in cluster.get("host_statuses", ())
            if "failed_active_health_check" not in host["health_status"]
        )

    def _read_stats(self, query: str) -> dict[str, Any]:
        return {stat["name"]: stat["value"] for stat in self._ask(f"/stats?format=json&{query}")["stats"]}

    def _ask(self, path: str) -> dict[str, Any]:
        connection = UnixConnection(str(self._socket_path), _TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError) as exc:
            raise ExternalSystemError(f"the gateway's administration does not answer: {exc}") from exc
        finally:
            connection.close()
        return answer


def _read_address(address: dict[str, Any]) -> str:
    if "pipe" in address:
        return f"unix:{address['pipe']['path']}"
    socket_address = address["socket_address"]
    return f"{socket_address['address']}:{socket_address['port_value']}"
