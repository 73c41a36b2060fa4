"""The gateway blueprint: forwards predictions to the gateway with the caller's own key and host.

So callers who reach only Airflow's address get the same semantics. There is no Airflow login here: the access check is
the gateway's, of the key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from airflow_provider_timl.api.context import Context

router = APIRouter(prefix="/gateway", tags=["gateway"])

_FORWARDED = ("authorization", "content-type", "content-encoding", "host", "x-timl-version")
_RETURNED = ("content-type", "retry-after", "x-timl-served-by")


@router.get("/v1/models/{path:path}")
@router.post("/v1/models/{path:path}")
async def forward(path: str, request: Request, context: Context) -> Response:
    """Status, metadata and predictions, as at the gateway itself."""
    limit = context.settings.max_request_bytes
    body = await _read_bounded(request.stream(), limit)
    if body is None:
        return _refuse(413, f"the request body is larger than {limit} bytes; send fewer instances at a time")
    client: httpx.AsyncClient = request.app.state.gateway_client
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    try:
        answer = await client.request(
            request.method,
            f"{context.settings.gateway_url}/v1/models/{path}",
            content=body,
            headers=headers,
            timeout=context.settings.request_timeout_seconds + 5,
        )
    except httpx.TimeoutException:
        return _refuse(504, "the gateway did not answer in time")
    except httpx.HTTPError:
        return _refuse(503, "the gateway does not answer; is `airflow timl controller` running?")
    returned = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
    return Response(answer.content, answer.status_code, returned)


async def _read_bounded(chunks: AsyncIterator[bytes], limit: int) -> bytes | None:
    """The whole body, or ``None`` as soon as it is too large."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
