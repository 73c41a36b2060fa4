"""Envoy's own answers as callers read them, rendered as data: ``{"error": sentence}``, or for gRPC status and sentence.

Answers of model servers pass as they are.

:source: Envoy 1.40, ``LocalReplyConfig``: the first mapper that fits is used; a ``grpc-status`` that it adds is kept.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_timl.exceptions import REASON_METADATA, TooLargeError
from airflow_provider_timl.settings import Settings

Json = dict[str, Any]

_SENTENCES = {
    400: "this is not a well-formed HTTP request ({details})",
    401: "the access key is missing or wrong; send it in the header Authorization",
    408: "the request did not arrive completely in time; send it again",
    413: "the request body is larger than {limit} bytes; send fewer instances at a time",
    431: "the request's headers are too large",
    502: "the model server ended the connection; try again",
    503: "no instance of this service is ready; try again shortly",
    504: "the model did not answer within {timeout:g} s",
}
#: Otherwise Envoy would call most of them UNKNOWN, and what is not there UNIMPLEMENTED.
_RPC_STATUSES = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    404: 5,  # NOT_FOUND
    408: 4,  # DEADLINE_EXCEEDED
    413: 8,  # RESOURCE_EXHAUSTED
    431: 8,
    501: 12,  # UNIMPLEMENTED
    502: 14,  # UNAVAILABLE
    503: 14,
    504: 4,
}
_ROUTES_OWN = "%LOCAL_REPLY_BODY%"


def render_error_bodies(settings: Settings) -> Json:
    values = {
        "limit": settings.max_request_bytes,
        "timeout": settings.request_timeout_seconds,
        "details": "%RESPONSE_CODE_DETAILS%",
    }
    sentences = {status: sentence.format(**values) for status, sentence in _SENTENCES.items()}
    return {
        "mappers": [
            *[_render_rpc_mapper(status, sentences.get(status, _ROUTES_OWN)) for status in _RPC_STATUSES],
            *[
                {"filter": _render_status_filter(status), "body_format_override": {"json_format": {"error": sentence}}}
                for status, sentence in sentences.items()
            ],
        ],
        "body_format": {"json_format": {"error": _ROUTES_OWN}},
    }


def _render_rpc_mapper(status: int, sentence: str) -> Json:
    is_rpc = {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}
    headers = {"grpc-status": str(_RPC_STATUSES[status])}
    if status == TooLargeError.status:
        headers[REASON_METADATA] = TooLargeError.reason
    return {
        "filter": {"and_filter": {"filters": [{"header_filter": is_rpc}, _render_status_filter(status)]}},
        "headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in headers.items()
        ],
        "body_format_override": {"text_format_source": {"inline_string": sentence}},
    }


def _render_status_filter(status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"timl_{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
