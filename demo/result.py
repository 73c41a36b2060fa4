"""What the demo leaves for people and programs: the printed summary and ``.timl/demo.json``."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from demo.airflow_api import AirflowAPI

#: The service to begin with, and a flower that others publish the answer for; the other models' examples are those of
#: their signatures.
FIRST = "iris"
FIRST_EXAMPLE = {"instances": [{"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}]}
_TIML = "/timl/api/v1"


@dataclass(frozen=True)
class DemoService:
    """One service as a caller needs it."""

    name: str
    model_type: str
    host: str
    access_key: str
    example: dict[str, Any]


@dataclass(frozen=True)
class DemoResult:
    """The content of ``demo.json``: it holds secrets."""

    airflow_url: str
    username: str
    password: str
    gateway_url: str
    services: list[DemoService]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def describe(self) -> str:
        lines = [
            "",
            f"  Airflow    {self.airflow_url}",
            f"  login      {self.username}",
            f"  password   {self.password}",
            f"  gateway    {self.gateway_url}",
        ]
        for service in self.services:
            lines += [
                "",
                f"  service    {service.name} ({service.model_type})",
                f"  host       {service.host}",
                f"  key        {service.access_key}",
                "",
                render_curl(self.gateway_url, service),
            ]
        return "\n".join(lines)


def read_result(api: AirflowAPI, username: str, password: str) -> DemoResult:
    """Ask the control plane for the services and their keys, as the page of a service does."""
    services, gateway_url = [], ""
    found = api.get(f"{_TIML}/services", limit=100)["items"]
    for service in sorted(found, key=lambda service: service["name"] != FIRST):
        gateway_url = service["gateway_url"]
        keys = api.get(f"{_TIML}/services/{service['name']}/keys")
        key = next(key for key in keys if key["enabled"])
        secret = api.get(f"{_TIML}/services/{service['name']}/keys/{key['id']}/secret")["secret"]
        example = FIRST_EXAMPLE if service["name"] == FIRST else _get_example(api, service)
        services.append(DemoService(service["name"], service["model_type"], service["host"], secret, example))
    return DemoResult(api.url, username, password, gateway_url, services)


def _get_example(api: AirflowAPI, service: dict[str, Any]) -> dict[str, Any]:
    version = service["versions"][0]["version"]
    found = api.get(f"{_TIML}/models/{service['model']}/versions/{version}")
    return dict(found["inspection"]["signature"]["example"])


def render_curl(gateway_url: str, service: DemoService) -> str:
    """The documented call with its variables filled in; runs as it is printed."""
    return (
        f'curl -H "Content-Type: application/json" -H "Authorization: {service.access_key}" '
        f'-H "Host: {service.host}" \\\n'
        f"     -X POST -d {shlex.quote(json.dumps(service.example))} \\\n"
        f"     {gateway_url}/v1/models/m:predict"
    )
