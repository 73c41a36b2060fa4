"""HTTP/1.1 for the model server: one ``asyncio.Protocol`` for each connection, on httptools' parser.

It owns framing, limits, keep-alive and the order of answers; what an answer says is the application's. Requests of one
connection are answered one after the other: while one is being worked on, further ones wait unread.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol, cast

import httptools

_MOST_HEADER_BYTES = 64 * 1024
_LINGER_SECONDS = 2.0
_JSON = b"application/json"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


@dataclass
class HttpRequest:
    """``headers`` have lower-case names. ``abandoned`` turns true when the client goes away."""

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    abandoned: bool = False


@dataclass(frozen=True)
class HttpResponse:
    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Application(Protocol):
    """What a connection hands its requests to."""

    draining: bool
    max_request_bytes: int

    def handle(self, request: HttpRequest, connection: HttpConnection) -> None:
        """Call ``connection.respond(request, response)`` once, now or later, on the event loop."""

    def build_error(self, status: int, message: str) -> HttpResponse:
        """An error in the form that clients of this server know."""

    def connection_opened(self, connection: HttpConnection) -> None: ...

    def connection_closed(self, connection: HttpConnection) -> None: ...


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._parser = httptools.HttpRequestParser(self)
        self._request = HttpRequest()
        self._chunks: list[bytes] = []
        self._received = 0
        self._header_bytes = 0
        self._in_headers = False
        self._waiting: deque[HttpRequest] = deque()
        self._active: HttpRequest | None = None
        self._discarding = False
        self._transport: asyncio.Transport

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._application.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        was_in_headers = self._in_headers
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "upgrading the protocol is not supported")
        except httptools.HttpParserError:
            if not self._discarding:
                self._refuse(400, "this is not a valid HTTP/1.1 request")
        if was_in_headers and self._in_headers and not self._discarding:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES:
                self._refuse(431, "the request's headers are too large")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._discarding = True
        if self._active is not None:
            self._active.abandoned = True
        self._waiting.clear()
        self._application.connection_closed(self)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._request = HttpRequest()
        self._chunks = []
        self._received = 0
        self._in_headers = True
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_headers = False
        request = self._request
        request.method = self._parser.get_method().decode()
        request.keep_alive = self._parser.should_keep_alive()
        length = request.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._application.max_request_bytes:
            self._refuse_body()
        elif request.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        if self._discarding:
            return
        self._received += len(chunk)
        if self._received > self._application.max_request_bytes:
            self._refuse_body()
        else:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._discarding:
            return
        request = self._request
        request.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        if self._active is None and not self._waiting:
            self._start(request)
        else:
            self._waiting.append(request)
            self._transport.pause_reading()

    # answers

    def respond(self, request: HttpRequest, response: HttpResponse) -> None:
        """Send the answer to the request that is being worked on, and begin with the next one."""
        if request.abandoned or request is not self._active:
            return
        keep_alive = request.keep_alive and not self._application.draining
        self._write(response, keep_alive)
        self._active = None
        if not keep_alive:
            self._discarding = True
            self._transport.close()
        elif self._waiting:  # not at once: many that wait, each answered at once, would call each other ever deeper
            asyncio.get_running_loop().call_soon(self._start_next)

    def close_if_idle(self) -> None:
        """Close unless a request is under way; used when draining ends."""
        if self._active is None:
            self._transport.close()

    def _start_next(self) -> None:
        if self._waiting:
            request = self._waiting.popleft()
            if not self._waiting:
                self._transport.resume_reading()
            self._start(request)

    def _start(self, request: HttpRequest) -> None:
        self._active = request
        encoding = request.headers.get(b"content-encoding", b"identity").lower()
        if encoding == b"gzip":
            body = _inflate(request.body, self._application.max_request_bytes)
            if body is None:
                self.respond(
                    request, self._application.build_error(400, "the gzip body is damaged or inflates too far")
                )
                return
            request.body = body
        elif encoding != b"identity":
            message = f"Content-Encoding {encoding.decode('latin-1')!r} is not supported; use gzip or none"
            self.respond(request, self._application.build_error(415, message))
            return
        self._application.handle(request, self)

    def _write(self, response: HttpResponse, keep_alive: bool) -> None:
        lines = [
            _STATUS_LINES[response.status],
            b"content-type: %b\r\ncontent-length: %d\r\n" % (response.content_type, len(response.body)),
        ]
        lines.extend(b"%b: %b\r\n" % header for header in response.headers)
        if not keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        lines.append(response.body)
        self._transport.write(b"".join(lines))

    def _refuse_body(self) -> None:
        limit = self._application.max_request_bytes
        self._refuse(413, f"the request body is larger than {limit} bytes; send fewer instances at a time")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without reading on. What still arrives is thrown away for a moment, or the client would see a reset
        instead of the answer."""
        self._discarding = True
        self._chunks = []
        self._write(self._application.build_error(status, message), keep_alive=False)
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.close)


def _inflate(body: bytes, most_bytes: int) -> bytes | None:
    """The decompressed body, or ``None`` when it is damaged or too large."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, most_bytes + 1)
    except zlib.error:
        return None
    return inflated if inflater.eof and len(inflated) <= most_bytes else None
