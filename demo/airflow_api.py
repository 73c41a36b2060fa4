"""Airflow's REST API and the provider's control plane, as a person with a login uses them."""

from __future__ import annotations

from typing import Any

import requests

from demo.errors import DemoFailedError

_CALL_SECONDS = 60.0
_COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


class AirflowAPI:
    """:param url: of the API server, such as ``http://127.0.0.1:8080``."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self._login = {"username": username, "password": password}
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy is asked for what is on this machine
        self._session.headers["X-Requested-With"] = "timl"

    def find_unhealthy(self) -> list[str]:
        """The parts that are not up yet; all while the server does not answer."""
        try:
            answer = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=_CALL_SECONDS)
            answer.raise_for_status()
        except requests.RequestException:
            return ["api-server"]
        health = answer.json()
        return [name for name in _COMPONENTS if (health.get(name) or {}).get("status") != "healthy"]

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params=params)

    def find(self, path: str) -> Any | None:
        """What is there; ``None`` when nothing is (404)."""
        return self._call("GET", path, allow_missing=True)

    def post(self, path: str, body: Any) -> Any:
        return self._call("POST", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        return self._call("PATCH", path, json=body)

    def _call(self, method: str, path: str, *, allow_missing: bool = False, **arguments: Any) -> Any:
        if "Authorization" not in self._session.headers:
            self._log_in()
        answer = self._send(method, path, **arguments)
        if answer.status_code == 401:  # the token ran out
            self._log_in()
            answer = self._send(method, path, **arguments)
        if answer.status_code == 404 and allow_missing:
            return None
        if not answer.ok:
            raise DemoFailedError(f"{method} {path} answered {answer.status_code}: {answer.text[:1000]}")
        return answer.json()

    def _log_in(self) -> None:
        answer = self._send("POST", "/auth/token", json=self._login)
        if not answer.ok:
            raise DemoFailedError(f"Airflow refused the login of the demo: {answer.status_code} {answer.text[:300]}")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        try:
            return self._session.request(method, self.url + path, **arguments, timeout=_CALL_SECONDS)
        except requests.RequestException as error:
            raise DemoFailedError(f"Airflow at {self.url} does not answer any more: {error}") from error
