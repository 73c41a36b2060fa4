"""Where the demo keeps things, its secrets, its ports, and the environment that configures Airflow by them.

Secrets are made once, stay in files of mode 0600 below ``.timl/``, and reach programs by environment, never by
argument.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet

from demo.processes import MARK, ROOT

STATE = ROOT / ".timl"
AIRFLOW_HOME = STATE / "airflow"
STORAGE = STATE / "storage"
LOGS = STATE / "logs"
RESULT_FILE = STATE / "demo.json"
ENVIRONMENT_FILE = STATE / "demo.env"
LOCK_FILE = STATE / "demo.lock"
USERNAME = "admin"
#: Ports that people know by heart; another one is taken when somebody has them.
AIRFLOW_PORT, GATEWAY_PORT = 8080, 31292


def _make_token() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Secrets:
    """Kept from run to run: what is in the databases is encrypted with them."""

    password: str = field(default_factory=_make_token, repr=False)
    fernet_key: str = field(default_factory=lambda: Fernet.generate_key().decode(), repr=False)
    jwt_secret: str = field(default_factory=_make_token, repr=False)
    api_secret: str = field(default_factory=_make_token, repr=False)


@dataclass(frozen=True)
class Ports:
    airflow: int
    gateway: int


def make_folders() -> None:
    for folder in (STATE, AIRFLOW_HOME, STORAGE, LOGS):
        folder.mkdir(mode=0o700, exist_ok=True)


def ensure_secrets() -> Secrets:
    """Those of the run before, or new ones; writes Airflow's file of passwords too."""
    file = STATE / "secrets.json"
    values = Secrets(**json.loads(file.read_text())) if file.exists() else Secrets()
    write_private(file, json.dumps(asdict(values)))
    write_private(AIRFLOW_HOME / "passwords.json", json.dumps({USERNAME: values.password}))
    return values


def write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def choose_ports() -> Ports:
    """The usual ports when they are free, else ones that the kernel chooses."""
    with ExitStack() as stack:
        return Ports(*(_reserve(stack, wanted) for wanted in (AIRFLOW_PORT, GATEWAY_PORT)))


def _reserve(stack: ExitStack, wanted: int) -> int:
    for port in (wanted, 0):
        probe = stack.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
        except OSError:
            continue
    raise OSError("no port is free on 127.0.0.1")


def build_airflow_environment(values: Secrets, ports: Ports, cos_connection: Mapping[str, object]) -> dict[str, str]:
    """What configures Airflow and our provider, and nothing else."""
    url = f"http://127.0.0.1:{ports.airflow}"
    login = {"conn_type": "timl", "host": "127.0.0.1", "port": ports.airflow, "schema": "http"}
    return {
        "AIRFLOW_HOME": str(AIRFLOW_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": values.fernet_key,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(AIRFLOW_HOME / "passwords.json"),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports.airflow),
        "AIRFLOW__API__SECRET_KEY": values.api_secret,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": values.jwt_secret,
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__TIML__GATEWAY_PORT": str(ports.gateway),
        "AIRFLOW_CONN_COS_DEFAULT": json.dumps(cos_connection),
        "AIRFLOW_CONN_TIML_DEFAULT": json.dumps({**login, "login": USERNAME, "password": values.password}),
    }


def build_cos_connection(endpoint_url: str, access_key: str, secret_key: str) -> dict[str, object]:
    """As for COS, but with the bucket in the path: below 127.0.0.1 it cannot be in the host name."""
    extra = {
        "endpoint_url": endpoint_url,
        "region_name": "us-east-1",
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    return {"conn_type": "aws", "login": access_key, "password": secret_key, "extra": extra}


def build_process_environment(airflow: Mapping[str, str]) -> dict[str, str]:
    """The environment of what the demo starts: ours, without what would configure Airflow otherwise."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    path = os.pathsep.join([str(Path(sys.executable).parent), ours.get("PATH", os.defpath)])
    no_proxy = ",".join(filter(None, [ours.get("NO_PROXY"), ours.get("no_proxy"), "127.0.0.1"]))
    own = {"PATH": path, "VIRTUAL_ENV": sys.prefix, "NO_PROXY": no_proxy, "no_proxy": no_proxy, MARK: str(STATE)}
    # SPT_NOENV: programs that set their title would else overwrite the environment, and with it the mark.
    return {**ours, **airflow, **own, "SPT_NOENV": "1"}


def write_environment_file(airflow: Mapping[str, str]) -> None:
    """For a person's shell: with it, ``airflow timl ...`` talks to the demo."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in airflow.items()]
    write_private(ENVIRONMENT_FILE, "\n".join(lines) + "\n")
