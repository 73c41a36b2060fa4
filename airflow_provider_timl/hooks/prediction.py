"""Predictions for tasks: REST and gRPC through the gateway, with a service's own host and key.

What gRPC needs (``grpcio``, ``protobuf``, NumPy) is imported by the first such call. ``close`` ends the connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from airflow.sdk import BaseHook

from airflow_provider_timl.exceptions import (
    REASON_METADATA,
    ExternalSystemError,
    InvalidInputError,
    NotReadyError,
    QueueFullError,
    TimeoutExpiredError,
    TimlError,
    TooLargeError,
    UnauthorizedError,
)
from airflow_provider_timl.hooks.timl import TimlHook

if TYPE_CHECKING:
    import grpc

    from airflow_provider_timl.hooks.tensor_messages import Array

_ERRORS: dict[int, type[TimlError]] = {
    400: InvalidInputError,
    401: UnauthorizedError,
    413: TooLargeError,
    429: QueueFullError,
    503: NotReadyError,
    504: TimeoutExpiredError,
}
_RPC_ERRORS: dict[str, type[TimlError]] = {
    "INVALID_ARGUMENT": InvalidInputError,
    "UNAUTHENTICATED": UnauthorizedError,
    "RESOURCE_EXHAUSTED": QueueFullError,
    "UNAVAILABLE": NotReadyError,
    "DEADLINE_EXCEEDED": TimeoutExpiredError,
}
_MODEL_NAME = "m"
_MODEL_PATH = f"/v1/models/{_MODEL_NAME}"
_RPC_METHOD = "/tensorflow.serving.PredictionService/Predict"
_VERSION_HEADER = "X-TIML-Version"
_UNLIMITED_BYTES = -1


class PredictionHook(BaseHook):
    """Calls one service. Its host and key are fetched once, through the control plane.

    :param timeout_seconds: for one call.
    """

    def __init__(
        self, service_name: str, timl_conn_id: str = TimlHook.default_conn_name, timeout_seconds: float = 60.0
    ) -> None:
        super().__init__()
        self.service_name = service_name
        self.timl_conn_id = timl_conn_id
        self.timeout_seconds = timeout_seconds
        self._session: requests.Session | None = None
        self._channel: grpc.Channel | None = None
        self._gateway_url = ""

    def get_conn(self) -> requests.Session:
        """A session with the service's host and key."""
        if self._session is None:
            timl = TimlHook(self.timl_conn_id)
            service = timl.get_service(self.service_name)
            self._gateway_url = service.gateway_url
            self._session = requests.Session()
            key = timl.get_access_key(self.service_name)
            self._session.headers.update({"Host": service.host, "Authorization": key})
        return self._session

    def close(self) -> None:
        """End the connections; the next call makes new ones."""
        if self._channel is not None:
            self._channel.close()
        if self._session is not None:
            self._session.close()
        self._channel = self._session = None

    def predict(
        self,
        *,
        instances: Sequence[Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> dict[str, Any]:
        """Predict rows (``instances``) or columns (``inputs``).

        :param version: ask this version, whatever its traffic.
        :return: the answer's body, ``{"predictions": [...]}``.
        :raises TimlError: by the answer's status; its message is the server's.
        """
        body = {"instances": instances} if instances is not None else {"inputs": inputs}
        return self._call("POST", ":predict", version, body)

    def classify(
        self, *, examples: Sequence[Mapping[str, Any]], signature_name: str | None = None, version: int | None = None
    ) -> dict[str, Any]:
        """Classes and scores of examples, of a TensorFlow model that has such a signature.

        :param examples: features by name; one value or a list of them.
        :return: the answer's body, ``{"results": [[[class, score], ...], ...]}``.
        """
        return self._call("POST", ":classify", version, _build_examples(examples, signature_name))

    def regress(
        self, *, examples: Sequence[Mapping[str, Any]], signature_name: str | None = None, version: int | None = None
    ) -> dict[str, Any]:
        """A value for each example, of a TensorFlow model that has such a signature.

        :return: the answer's body, ``{"results": [value, ...]}``.
        """
        return self._call("POST", ":regress", version, _build_examples(examples, signature_name))

    def predict_rpc(
        self,
        inputs: Mapping[str, Any],
        *,
        signature_name: str = "serving_default",
        output_filter: Sequence[str] = (),
        version: int | None = None,
    ) -> dict[str, Array]:
        """Predict arrays by gRPC, as they lie in memory: for large inputs, which JSON makes slow.

        :param inputs: by name, of the shape and exactly the dtype that the model takes; text as ``str`` or ``bytes``.
        :param output_filter: names of the outputs to answer; all when empty.
        :param version: ask this version, whatever its traffic.
        :return: the outputs by name; text as ``bytes`` in an array of objects, ``bfloat16`` as ``float32``.
        :raises TimlError: by the call's status; its message is the server's.
        """
        import grpc

        from airflow_provider_timl.hooks import tensor_messages

        message = tensor_messages.build_request(_MODEL_NAME, signature_name, inputs, output_filter)
        channel = self._get_channel()
        key = str(self.get_conn().headers["Authorization"])
        metadata = [("authorization", key)]
        if version is not None:
            metadata.append((_VERSION_HEADER.lower(), str(version)))
        try:
            answer = channel.unary_unary(_RPC_METHOD)(message, timeout=self.timeout_seconds, metadata=metadata)
        except grpc.RpcError as exc:
            raise _build_rpc_error(exc) from exc
        return tensor_messages.read_response(answer)

    def get_status(self, version: int | None = None) -> dict[str, Any]:
        """Status and input schema of the model."""
        return self._call("GET", "", version, None)

    def get_metadata(self, version: int | None = None) -> dict[str, Any]:
        """The model's signature."""
        return self._call("GET", "/metadata", version, None)

    def _get_channel(self) -> grpc.Channel:
        """One for all calls, to the gateway in the service's name."""
        import grpc

        if self._channel is None:
            host = str(self.get_conn().headers["Host"])
            options = [
                ("grpc.default_authority", host),
                ("grpc.max_receive_message_length", _UNLIMITED_BYTES),
                ("grpc.max_send_message_length", _UNLIMITED_BYTES),  # the gateway says what is too large
            ]
            self._channel = grpc.insecure_channel(urlsplit(self._gateway_url).netloc, options=options)
        return self._channel

    def _call(self, method: str, suffix: str, version: int | None, body: Any) -> dict[str, Any]:
        session = self.get_conn()
        headers = {_VERSION_HEADER: str(version)} if version is not None else {}
        url = f"{self._gateway_url}{_MODEL_PATH}{suffix}"
        try:
            answer = session.request(method, url, json=body, headers=headers, timeout=self.timeout_seconds)
            content: dict[str, Any] = answer.json()
        except (requests.RequestException, ValueError) as exc:
            raise ExternalSystemError(f"the gateway did not answer for service {self.service_name!r}: {exc}") from exc
        if not answer.ok:
            raise _ERRORS.get(answer.status_code, ExternalSystemError)(str(content.get("error", content)))
        return content


def _build_examples(examples: Sequence[Mapping[str, Any]], signature_name: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"examples": list(examples)}
    return body if signature_name is None else {"signature_name": signature_name, **body}


def _build_rpc_error(error: Any) -> TimlError:
    """:param error: a ``grpc.RpcError`` that is a call, as those of a channel are."""
    reason = dict(error.trailing_metadata() or ()).get(REASON_METADATA)
    if reason == TooLargeError.reason:  # its status is that of a full queue, which a retry may find empty
        return TooLargeError(error.details())
    return _RPC_ERRORS.get(error.code().name, ExternalSystemError)(error.details())
