"""Airflow's API server with our plugin, on a thread of this process, over a ``Stack``."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import uvicorn

from airflow_provider_timl import config
from airflow_provider_timl.api.context import ContextHolder, build_context
from tests.servers.stack import Stack, find_free_port
from tests.waiting import wait_until

PASSWORD = "only-here"
_OPTIONS = ("data_dir", "database_url", "artifact_store", "encryption_key", "gateway_port")


class ControlPlane:
    """``url`` is Airflow's address; the connection ``timl_default`` logs in as an administrator."""

    def __init__(self, stack: Stack) -> None:
        for option in _OPTIONS:
            os.environ[f"AIRFLOW__TIML__{option.upper()}"] = str(getattr(stack.settings, option))
        config.get_settings.cache_clear()
        self.app = self._build_app()
        port = find_free_port()
        self.url = f"http://127.0.0.1:{port}"
        os.environ["AIRFLOW_CONN_TIML_DEFAULT"] = f"timl://admin:{PASSWORD}@127.0.0.1:{port}/http"
        self._server = uvicorn.Server(uvicorn.Config(self.app, "127.0.0.1", port, log_level="warning", ws="none"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        wait_until(lambda: self._server.started, timeout_seconds=60)

    def get_token(self, role: str) -> str:
        """A login of that role: VIEWER, USER, OP or ADMIN."""
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

        token: str = self.app.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username=role.lower(), role=role))
        return token

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        for option in _OPTIONS:
            del os.environ[f"AIRFLOW__TIML__{option.upper()}"]
        config.get_settings.cache_clear()

    @staticmethod
    def _build_app() -> Any:
        from airflow.api_fastapi.app import create_app
        from airflow.configuration import conf
        from airflow.utils.db import initdb

        passwords = Path(conf.get("core", "simple_auth_manager_passwords_file"))
        passwords.touch(mode=0o600)
        passwords.write_text(f'{{"admin": "{PASSWORD}"}}')
        initdb()
        app = create_app(apps="core")
        (ours,) = [route.app for route in app.routes if getattr(route, "path", "") == "/timl"]
        ours.state.context = ContextHolder(build_context)  # the plugin's app is made once a process, for all tests
        return app
