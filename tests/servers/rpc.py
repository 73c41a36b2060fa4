"""gRPC as callers speak it, with the bytes of messages: one call, and steady load."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from airflow_provider_timl.hooks import prediction
from airflow_provider_timl.hooks.prediction import PredictionHook
from airflow_provider_timl.hooks.tensor_messages import build_request, read_response
from tests.servers.load import Load
from tests.servers.local import KEY, LocalMachine, build_host

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


@dataclass(frozen=True)
class RpcAnswer:
    """``content`` is empty unless ``code`` is OK."""

    code: grpc.StatusCode
    details: str
    served_by: str | None
    content: bytes
    trailers: dict[str, Any]

    @property
    def outputs(self) -> dict[str, Any]:
        return read_response(self.content)


def build_faults(model: str = "m", **faults: Any) -> bytes:
    """A prediction that tells the faulty runtime what to do."""
    return build_request(model, "", {"faults": [json.dumps(faults)]})


@contextmanager
def open_channel(target: str, host: str) -> Iterator[grpc.Channel]:
    """With a connection of its own."""
    options = [
        ("grpc.default_authority", host),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    with grpc.insecure_channel(target, options=options) as channel:
        yield channel


def call(
    channel: grpc.Channel, message: bytes, method: str = PREDICT, timeout_seconds: float = 20, **metadata: str
) -> RpcAnswer:
    """:param metadata: beside the key; an underscore is a hyphen."""
    sent = {"authorization": KEY.secret, **{name.replace("_", "-"): value for name, value in metadata.items()}}
    under_way = channel.unary_unary(method).future(message, timeout=timeout_seconds, metadata=tuple(sent.items()))
    served_by = dict(under_way.initial_metadata()).get("x-timl-served-by")
    content = under_way.result() if under_way.code() is grpc.StatusCode.OK else b""
    trailers = dict(under_way.trailing_metadata())
    return RpcAnswer(
        under_way.code(), under_way.details(), served_by or trailers.get("x-timl-served-by"), content, trailers
    )


class ControlPlane:
    """Says what a service's host and key are, in the place of ``TimlHook``."""

    default_conn_name = "timl_default"
    host = build_host("iris")
    key = KEY.secret
    gateway_url = ""

    def __init__(self, _conn_id: str) -> None: ...

    def get_service(self, _name: str) -> Any:
        return SimpleNamespace(host=self.host, gateway_url=self.gateway_url)

    def get_access_key(self, _name: str) -> str:
        return self.key


@contextmanager
def open_hook(machine: LocalMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[PredictionHook]:
    """For the service ``iris`` of a machine."""
    monkeypatch.setattr(prediction, "TimlHook", ControlPlane)
    monkeypatch.setattr(ControlPlane, "gateway_url", machine.settings.gateway_url)
    hook = PredictionHook("iris", timeout_seconds=20)
    try:
        yield hook
    finally:
        hook.close()


class RpcLoad(Load):
    """Predictions of the service ``iris`` by gRPC; ``body`` are faults."""

    def _connect(self) -> Any:
        options = [("grpc.default_authority", build_host("iris")), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options)

    def _record(self, connection: Any) -> None:
        answer = call(connection, build_faults(**json.loads(self._body)))
        if answer.code is grpc.StatusCode.OK:
            self._succeed(answer.served_by)
        else:
            self._fail(f"{time.strftime('%X')} {answer.code} {answer.details}")
