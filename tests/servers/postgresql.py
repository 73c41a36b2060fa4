"""A private PostgreSQL cluster: one server on a Unix socket, started and stopped by who makes a ``PostgresqlServer``.

PostgreSQL refuses to run as root; root lends it the user ``postgres`` that Debian's package makes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

import psycopg

_INSTALLED = Path("/usr/lib/postgresql")
_PORT = 5432  # names the socket file only; nothing listens on TCP
_ROLE = "timl"
_START_SECONDS = 60


def find_binaries() -> Path | None:
    """The folder with ``initdb`` and ``pg_ctl``: the newest of Debian's, else the one on the PATH."""
    installed = [path.parent for path in _INSTALLED.glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    return Path(found).parent if found else None


class PostgresqlServer:
    """Use as a context manager. Its folder is its own (short, as a socket's path must be) and removed at the end."""

    def __init__(self) -> None:
        binaries = find_binaries()
        assert binaries is not None, "PostgreSQL's server is not installed (Debian: the package postgresql)"
        self._binaries = binaries
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="timl-pg-"))

    def __enter__(self) -> PostgresqlServer:
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", _ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        options = f"-k {self._folder} -p {_PORT} -c listen_addresses='' -c fsync=off -c max_connections=200"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "-t", str(_START_SECONDS), "start")
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder)

    def create_database(self) -> str:
        """A new empty database; its SQLAlchemy URL."""
        name = f"timl_{uuid4().hex}"
        with psycopg.connect(
            f"host={self._folder} port={_PORT} user={_ROLE} dbname=postgres", autocommit=True
        ) as admin:
            admin.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://{_ROLE}@/{name}?host={self._folder}&port={_PORT}"

    def _run(self, program: str, *arguments: str) -> None:
        """Run to its end; what it says is shown only when it fails. Its output goes to a file, which the server that
        ``pg_ctl`` leaves running may keep open."""
        output = self._folder / f"{program}.out"
        with output.open("wb") as sink:
            result = subprocess.run(
                [str(self._binaries / program), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
                timeout=_START_SECONDS * 2,
            )
        assert result.returncode == 0, f"{program} ended with status {result.returncode}: {output.read_text()[-2000:]}"
