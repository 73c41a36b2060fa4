"""Remembers which configuration each published version stands for: Envoy itself tells only the version."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airflow_provider_timl.backends.contract import GatewayConfig, GatewayKey, ServiceRoute, VersionRoute
from airflow_provider_timl.backends.local.private_files import write_private_file

log = logging.getLogger(__name__)


class PublishedConfigs:
    """The last configurations by version, in a private file: it holds access keys."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._configs: dict[str, GatewayConfig] = {}

    def load(self) -> None:
        """What an earlier controller published. Without a readable file, everything is published anew."""
        try:
            values = json.loads(self._path.read_text())
            self._configs = {version: _parse_config(routes) for version, routes in values.items()}
        except FileNotFoundError:
            self._configs = {}
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s cannot be read; the whole gateway is published anew", self._path)
            self._configs = {}

    def find(self, version: str) -> GatewayConfig | None:
        return self._configs.get(version)

    def remember(self, version: str, config: GatewayConfig, served: Iterable[str]) -> None:
        """Before it is published: whatever Envoy serves afterwards, the old or the new, is known then.

        :param served: versions that may be served now, and have to stay known.
        """
        kept = {known: self._configs[known] for known in served if known in self._configs}
        self._configs = {**kept, version: config}
        dumped = {known: dump_config(each) for known, each in self._configs.items()}
        write_private_file(self._path, json.dumps(dumped))


def dump_config(config: GatewayConfig) -> list[dict[str, Any]]:
    """The configuration as JSON, with keys: only for private files."""
    return [
        {
            **vars(route),
            "keys": [vars(key) for key in route.keys],
            "versions": [vars(version) for version in route.versions],
        }
        for route in config.routes
    ]


def _parse_config(routes: list[dict[str, Any]]) -> GatewayConfig:
    return GatewayConfig(
        tuple(
            ServiceRoute(
                service=route["service"],
                host=route["host"],
                keys=tuple(GatewayKey(**key) for key in route["keys"]),
                versions=tuple(
                    VersionRoute(
                        version["version"],
                        version["weight"],
                        tuple(version["addresses"]),
                        tuple(version["rpc_addresses"]),
                        tuple(version["labels"]),
                    )
                    for version in route["versions"]
                ),
            )
            for route in routes
        )
    )
