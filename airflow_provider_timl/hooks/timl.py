"""The control plane for tasks and the CLI: every call is HTTP to Airflow's API server, with a user's login.

Tasks open neither the database nor the backend. Files of a model go straight from the worker to the artifact store.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import requests
from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret
from pydantic import TypeAdapter
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from airflow_provider_timl import exceptions
from airflow_provider_timl.artifacts import open_store, put_folder
from airflow_provider_timl.entities import (
    AccessKey,
    AccessKeySecret,
    Event,
    Lineage,
    LogChunk,
    Model,
    ModelDetail,
    ModelVersion,
    Resources,
    Revision,
    Runtime,
    Service,
    TestAnswer,
    Upload,
)
from airflow_provider_timl.hooks.cos import COSHook
from airflow_provider_timl.states import ServiceState

_API = "/timl/api/v1"
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
#: Uploads are inspected, and imports copied, before they are answered.
_LONG_ANSWER_SECONDS = 3600.0
_LONGEST_POLL_SECONDS = 30.0
_PAGE = 1000
T = TypeVar("T")


class TimlHook(BaseHook):
    """:param timl_conn_id: connection of type ``timl``: Airflow's API server and a user who may operate services.

    Methods raise the classes of ``exceptions``, by the reason that the API gives.
    """

    conn_name_attr = "timl_conn_id"
    default_conn_name = "timl_default"
    conn_type = "timl"
    hook_name = "TIML"

    def __init__(self, timl_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.timl_conn_id = timl_conn_id
        self._session: requests.Session | None = None
        self._base_url = ""

    # models

    def save_model(
        self,
        *,
        model_name: str,
        model_type: str,
        path: str | Path,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        aliases: list[str] | None = None,
        lineage: Lineage | None = None,
    ) -> ModelVersion:
        """Save a file or a folder as the next version of a model.

        With ``lineage``, saving the same content again from the same task instance answers the version it made before.

        :raises InvalidModelError: inspection refused the model; nothing was registered.
        """
        source = Path(path)
        if not source.exists():
            raise exceptions.InvalidInputError(f"{source} does not exist", field="path")
        begin = {"model_type": model_type}
        upload = self._call("POST", f"/models/{_quote(model_name)}/versions:begin", Upload, json=begin)
        files = _upload(upload, source)
        return self._call(
            "POST",
            f"/models/{_quote(model_name)}/versions:commit",
            ModelVersion,
            json={
                "upload_id": upload.id,
                "model_type": model_type,
                "files": files,
                **_describe(metrics, tags, aliases, lineage),
            },
            timeout_seconds=_LONG_ANSWER_SECONDS,
        )

    def import_model(
        self,
        *,
        model_name: str,
        model_type: str,
        cos_path: str,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        aliases: list[str] | None = None,
        lineage: Lineage | None = None,
    ) -> ModelVersion:
        """Import a model from COS: a file, a prefix, or an archive, at ``cos://bucket/key`` and the like."""
        body = {"model_name": model_name, "model_type": model_type, "cos_path": cos_path}
        description = _describe(metrics, tags, aliases, lineage)
        return self._call(
            "POST", "/imports", ModelVersion, json={**body, **description}, timeout_seconds=_LONG_ANSWER_SECONDS
        )

    def list_models(self) -> list[Model]:
        return self._list("/models", Model)

    def get_model(self, model_name: str) -> ModelDetail:
        return self._call("GET", f"/models/{_quote(model_name)}", ModelDetail)

    def get_model_version(self, model_name: str, version: int) -> ModelVersion:
        return self._call("GET", f"/models/{_quote(model_name)}/versions/{version}", ModelVersion)

    def resolve_model_version(
        self, model_name: str, version: int | None = None, alias: str | None = None
    ) -> ModelVersion:
        """The version of that number, or that the alias points to, or else the latest."""
        if version is None:
            model = self.get_model(model_name)
            version = model.aliases.get(alias) if alias else model.latest_version
        if version is None:
            raise exceptions.NotFoundError("alias" if alias else "version", f"{alias or ''} of model {model_name}")
        return self.get_model_version(model_name, version)

    def delete_model_version(self, model_name: str, version: int) -> None:
        self._call("DELETE", f"/models/{_quote(model_name)}/versions/{version}", None)

    def set_alias(self, model_name: str, alias: str, version: int) -> ModelVersion:
        path = f"/models/{_quote(model_name)}/aliases/{_quote(alias)}"
        return self._call("PUT", path, ModelVersion, json={"version": version})

    def list_runtimes(self) -> list[Runtime]:
        return self._call("GET", "/runtimes", list[Runtime])

    # services

    def deploy_service(
        self,
        *,
        service_name: str,
        model_name: str,
        version: int | None = None,
        alias: str | None = None,
        instances: int = 1,
        resources: Resources | Mapping[str, Any] | None = None,
        runtime: str | None = None,
        options: Mapping[str, Any] | None = None,
        lineage: Lineage | None = None,
        wait: bool = True,
        timeout_seconds: float = 600.0,
    ) -> Service:
        """Deploy a model version. A new service gives it all traffic once it is ready; a service that serves the model
        already gets it as a further version with 0 %. What is there already stays as it is.

        :param options: of the runtime; ``list_runtimes`` has their schemas.
        :raises ConflictError: the service serves another model, or this version with another specification.
        """
        specification: dict[str, Any] = {
            "version": version,
            "alias": alias,
            "instances": instances,
            "resources": resources,
            "runtime": runtime,
            "options": options,
            "lineage": lineage,
        }
        existing = self.find_service(service_name)
        if existing is not None and existing.model != model_name:
            raise exceptions.ConflictError(f"service {service_name!r} serves model {existing.model!r}")
        if existing is not None:
            waiting: dict[str, Any] = {"wait": wait, "timeout_seconds": timeout_seconds}
            return self.add_version(service_name=service_name, **specification, **waiting)
        body = {"name": service_name, "model": model_name, **_build_version_body(**specification)}
        service = self._call("POST", "/services", Service, json=body)
        return self.wait_for_service(service_name, timeout_seconds=timeout_seconds) if wait else service

    def add_version(
        self,
        *,
        service_name: str,
        version: int | None = None,
        alias: str | None = None,
        instances: int = 1,
        resources: Resources | Mapping[str, Any] | None = None,
        runtime: str | None = None,
        options: Mapping[str, Any] | None = None,
        lineage: Lineage | None = None,
        wait: bool = True,
        timeout_seconds: float = 600.0,
    ) -> Service:
        """Add a version of the service's model, with 0 % of the traffic."""
        body = _build_version_body(
            version=version,
            alias=alias,
            runtime=runtime,
            options=options,
            resources=resources,
            instances=instances,
            lineage=lineage,
        )
        service = self._call("POST", f"/services/{_quote(service_name)}/versions", Service, json=body)
        return self.wait_for_service(service_name, timeout_seconds=timeout_seconds) if wait else service

    def remove_version(
        self, *, service_name: str, version: int, wait: bool = True, timeout_seconds: float = 600.0
    ) -> Service:
        """Stop a version that has no traffic."""
        service = self._call("DELETE", f"/services/{_quote(service_name)}/versions/{version}", Service)
        return self.wait_for_service(service_name, timeout_seconds=timeout_seconds) if wait else service

    def shift_traffic(
        self,
        *,
        service_name: str,
        traffic: Mapping[int, float],
        lineage: Lineage | None = None,
        wait: bool = True,
        timeout_seconds: float = 600.0,
    ) -> Service:
        """Split the traffic: percent by version, sum exactly 100."""
        body = {"traffic": {str(version): percent for version, percent in traffic.items()}, **_trace(lineage)}
        service = self._call("PUT", f"/services/{_quote(service_name)}/traffic", Service, json=body)
        return self.wait_for_service(service_name, timeout_seconds=timeout_seconds) if wait else service

    def rollback_service(
        self,
        *,
        service_name: str,
        revision: int,
        lineage: Lineage | None = None,
        wait: bool = True,
        timeout_seconds: float = 600.0,
    ) -> Service:
        """Go back to what a revision wanted: versions, instances, traffic."""
        body = {"revision": revision, **_trace(lineage)}
        service = self._call("POST", f"/services/{_quote(service_name)}/rollback", Service, json=body)
        return self.wait_for_service(service_name, timeout_seconds=timeout_seconds) if wait else service

    def delete_service(self, *, service_name: str, wait: bool = True, timeout_seconds: float = 600.0) -> None:
        """Stop serving. A service that does not exist is no error."""
        try:
            service = self._call("DELETE", f"/services/{_quote(service_name)}", Service)
        except exceptions.NotFoundError:
            return
        if wait and service.state is not ServiceState.DELETED:
            seconds = {"wait": timeout_seconds}
            path = f"/services/{_quote(service_name)}"
            try:
                self._call("DELETE", path, Service, params=seconds, timeout_seconds=timeout_seconds + _ANSWER_SECONDS)
            except exceptions.NotFoundError:
                return

    def get_service(self, service_name: str) -> Service:
        return self._call("GET", f"/services/{_quote(service_name)}", Service)

    def find_service(self, service_name: str) -> Service | None:
        try:
            return self.get_service(service_name)
        except exceptions.NotFoundError:
            return None

    def list_services(self) -> list[Service]:
        return self._list("/services", Service)

    def list_revisions(self, service_name: str) -> list[Revision]:
        """Newest first."""
        return self._list(f"/services/{_quote(service_name)}/revisions", Revision)

    def wait_for_service(self, service_name: str, *, timeout_seconds: float = 600.0) -> Service:
        """The service, as soon as the gateway serves exactly what is wanted of it.

        :raises ServiceFailedError: it failed; with its reason and last log lines.
        :raises TimeoutExpiredError: not in time; with its actual state.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            left_seconds = deadline - time.monotonic()
            try:
                return self.poll_service(service_name, max(0.1, min(left_seconds, _LONGEST_POLL_SECONDS)))
            except exceptions.TimeoutExpiredError:
                if left_seconds <= _LONGEST_POLL_SECONDS:
                    raise

    def poll_service(self, service_name: str, wait_seconds: float) -> Service:
        """The service when it is in sync within ``wait_seconds``; the API does the waiting.

        :raises TimeoutExpiredError: it is not yet.
        """
        path = f"/services/{_quote(service_name)}/sync"
        timeout_seconds = wait_seconds + _ANSWER_SECONDS
        return self._call("GET", path, Service, params={"wait": wait_seconds}, timeout_seconds=timeout_seconds)

    def test_service(
        self, *, service_name: str, body: Mapping[str, Any] | None = None, version: int | None = None
    ) -> TestAnswer:
        """Send a prediction through the gateway; without a body, the version's example."""
        request = {"body": body, "version": version}
        path = f"/services/{_quote(service_name)}/test"
        return self._call("POST", path, TestAnswer, json=request, timeout_seconds=2 * _ANSWER_SECONDS)

    def get_logs(self, service_name: str, version: int | None = None) -> list[LogChunk]:
        params = {"version": version} if version else {}
        return self._call("GET", f"/services/{_quote(service_name)}/logs", list[LogChunk], params=params)

    # keys and audit

    def list_keys(self, service_name: str) -> list[AccessKey]:
        return self._call("GET", f"/services/{_quote(service_name)}/keys", list[AccessKey])

    def create_key(self, *, service_name: str, name: str) -> AccessKey:
        return self._call("POST", f"/services/{_quote(service_name)}/keys", AccessKey, json={"name": name})

    def set_key_enabled(self, *, service_name: str, key_id: int, enabled: bool) -> AccessKey:
        path = f"/services/{_quote(service_name)}/keys/{key_id}"
        return self._call("PATCH", path, AccessKey, json={"enabled": enabled})

    def get_access_key(self, service_name: str, key_name: str | None = None) -> str:
        """The secret of the first enabled key, or of the named one. It is masked in logs from here on.

        :raises NotFoundError: there is no such enabled key.
        """
        keys = [key for key in self.list_keys(service_name) if key.enabled and key_name in (None, key.name)]
        if not keys:
            raise exceptions.NotFoundError("key", f"{key_name or '(enabled)'} of service {service_name}")
        path = f"/services/{_quote(service_name)}/keys/{keys[0].id}/secret"
        secret = self._call("GET", path, AccessKeySecret).secret
        mask_secret(secret)
        return secret

    def list_events(self, subject: str | None = None) -> list[Event]:
        return self._list("/events", Event, {"subject": subject} if subject else {})

    # connection

    def get_conn(self) -> requests.Session:
        """A session that is logged in. Requests that change nothing are repeated when the server is away."""
        if self._session is None:
            connection = self.get_connection(self.timl_conn_id)
            host = connection.host or "127.0.0.1"
            port = f":{connection.port}" if connection.port else ""
            self._base_url = f"{connection.schema or 'http'}://{host}{port}"
            session = requests.Session()
            retry = Retry(
                total=6,
                backoff_factor=0.5,
                status_forcelist=(502, 503),
                allowed_methods=("GET", "PUT", "DELETE"),
                raise_on_status=False,
            )
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
            session.headers["X-Requested-With"] = "timl"
            self._session = session
            self._log_in(connection.login, connection.password)
        return self._session

    def get_service_url(self, service_name: str) -> str:
        """Where the API describes a service."""
        self.get_conn()
        return f"{self._base_url}{_API}/services/{_quote(service_name)}"

    def get_model_version_url(self, model_name: str, version: int) -> str:
        """Where the API describes a model version."""
        self.get_conn()
        return f"{self._base_url}{_API}/models/{_quote(model_name)}/versions/{version}"

    def test_connection(self) -> tuple[bool, str]:
        """For the connection form's "Test" button."""
        try:
            count = len(self.list_services())
        except exceptions.TimlError as exc:
            return False, str(exc)
        return True, f"logged in; {count} service(s)"

    def _log_in(self, login: str | None, password: str | None) -> None:
        if self._session is None:
            raise exceptions.UnauthorizedError("not connected")
        body = {"username": login or "", "password": password or ""}
        try:
            answer = self._session.post(
                f"{self._base_url}/auth/token", json=body, timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS)
            )
        except requests.RequestException as exc:
            self._session = None
            raise exceptions.ExternalSystemError(f"Airflow's API at {self._base_url} does not answer: {exc}") from exc
        if answer.status_code not in {200, 201}:
            self._session = None
            raise exceptions.UnauthorizedError(
                f"Airflow at {self._base_url} refused the login of connection {self.timl_conn_id!r} "
                f"({answer.status_code}); check its user and password"
            )
        token = answer.json()["access_token"]
        mask_secret(token)
        self._session.headers["Authorization"] = f"Bearer {token}"

    def _list(self, path: str, kind: type[T], params: Mapping[str, Any] | None = None) -> list[T]:
        """Every page of a list."""
        items: list[T] = []
        while True:
            page = {"limit": _PAGE, "offset": len(items), **(params or {})}
            answer = self._call("GET", path, dict[str, Any], params=page)
            items += TypeAdapter(list[kind]).validate_python(answer["items"])  # type: ignore[valid-type]
            if len(items) >= answer["total"] or not answer["items"]:
                return items

    def _call(
        self,
        method: str,
        path: str,
        kind: type[T] | None,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        timeout_seconds: float = _ANSWER_SECONDS,
    ) -> T:
        """Call the API and parse its answer; a token that ran out is renewed once."""
        for attempt in (1, 2):
            session = self.get_conn()
            try:
                answer = session.request(
                    method,
                    f"{self._base_url}{_API}{path}",
                    json=json,
                    params=params,
                    timeout=(_CONNECT_SECONDS, timeout_seconds),
                )
            except requests.RequestException as exc:
                raise exceptions.ExternalSystemError(
                    f"Airflow's API at {self._base_url} does not answer: {exc}"
                ) from exc
            if answer.status_code != 401 or attempt == 2:
                break
            self._session = None
        if not answer.ok:
            raise _build_error(answer)
        return TypeAdapter(kind).validate_python(answer.json()) if kind is not None else None  # type: ignore[return-value]


def _quote(name: str) -> str:
    return quote(name, safe="")


def _trace(lineage: Lineage | None) -> dict[str, Any]:
    return {"lineage": lineage.model_dump()} if lineage else {}


def _describe(
    metrics: Mapping[str, float] | None,
    tags: Mapping[str, str] | None,
    aliases: list[str] | None,
    lineage: Lineage | None,
) -> dict[str, Any]:
    return {"metrics": dict(metrics or {}), "tags": dict(tags or {}), "aliases": aliases or [], **_trace(lineage)}


def _build_version_body(
    *,
    version: int | None,
    alias: str | None,
    runtime: str | None,
    options: Mapping[str, Any] | None,
    resources: Resources | Mapping[str, Any] | None,
    instances: int,
    lineage: Lineage | None,
) -> dict[str, Any]:
    wanted = resources if isinstance(resources, Resources) else Resources(**(resources or {}))
    body = {"version": version, "alias": alias, "runtime": runtime, "instances": instances}
    return {
        **body,
        "options": dict(options or {}),
        "resources": wanted.model_dump(exclude_unset=True),
        **_trace(lineage),
    }


def _upload(upload: Upload, source: Path) -> list[dict[str, Any]]:
    """Write a file, or a folder's files, to the artifact store; their digests."""
    conn_id = upload.conn_id
    store = open_store(upload.uri, COSHook(aws_conn_id=conn_id).get_conn if conn_id else None)
    with tempfile.TemporaryDirectory(prefix="timl-save-") as temporary:
        folder = source
        if source.is_file():
            folder = Path(temporary)
            shutil.copy2(source, folder / source.name)
        return [file.model_dump() for file in put_folder(store, upload.uri, folder)]


def _build_error(answer: requests.Response) -> exceptions.TimlError:
    """The exception that the API's reason stands for."""
    try:
        content = answer.json()["error"]
        reason, message, details = content["reason"], content["message"], content["details"]
    except (ValueError, KeyError, TypeError):
        reason, details = "", {}
        message = f"Airflow's API answered {answer.status_code}: {answer.text[:200]}"
    kind = exceptions.find_class(reason) or exceptions.ExternalSystemError
    if kind is exceptions.NotFoundError and {"kind", "name"} <= details.keys():
        return kind(details["kind"], details["name"])
    if issubclass(kind, exceptions.InvalidInputError):
        return kind(message, details.get("field"))
    return exceptions.ExternalSystemError(message) if kind is exceptions.NotFoundError else kind(message, details)
