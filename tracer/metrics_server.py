"""The HTTP endpoint: ``/metrics``, ``/-/healthy`` and a page that says so.

It only reads what the sink has published, so nothing here can hold up the collector but
the interpreter's lock: a few threads at most, one rendering per snapshot, and a switch
interval of half a millisecond while it is up (``tracer.metrics``). Whoever connects is
untrusted: a request has a size, a time limit, and as a flood it is turned away.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from collector.metrics.exposition import Renderer
from probes.errors import EndpointError, PermissionDenied
from tracer.metrics_address import Address
from tracer.version import VERSION

MAX_CONNECTIONS = 8
IDLE_S = 5.0
"""A client that sends or takes nothing for so long is let go …"""
WHOLE_S = 15.0
"""… and any client after so long, however it drips."""
_LOOK_S = 0.2
_CLOSE_S = 2.0
_MAX_ACCEPT = 1024
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"
_PAGE = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Parkscope</title></head>
<body><h1>Parkscope {VERSION}</h1>
<p>Parks, locks and deadlocks of live Python processes.</p>
<ul><li><a href="/metrics">metrics</a></li><li><a href="/-/healthy">health</a></li></ul>
</body></html>
""".encode()

Unwell = Callable[[], str | None]
"""Why the readings may not be true any more, None when all is well."""


class MetricsServer:
    """Bound when constructed, answering from ``start`` to ``close``.

    Raises EndpointError when the address cannot be had, PermissionDenied for a port that
    this user may not bind.
    """

    def __init__(self, address: Address, renderer: Renderer, unwell: Unwell) -> None:
        try:
            self._server = _Server(address, renderer, unwell)
        except OSError as error:
            raise _refusal(address, error) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_LOOK_S,),
            name="parkscope-metrics",
            daemon=True,
        )

    @property
    def url(self) -> str:
        """Where the metrics are, with the port that was really bound."""
        host, port = self._server.server_address[:2]
        shown = f"[{host!s}]" if self._server.address_family == socket.AF_INET6 else str(host)
        return f"http://{shown}:{port}/metrics"

    def start(self) -> None:
        """Answer from now on, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, let those that run finish, for at most two seconds."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.finish(_CLOSE_S)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: Address, renderer: Renderer, unwell: Unwell) -> None:
        self.address_family = address.family
        self.renderer = renderer
        self.unwell = unwell
        self._slots = threading.Semaphore(MAX_CONNECTIONS)
        self._open: dict[int, tuple[float, Any]] = {}
        super().__init__(address.sockaddr, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, as ``HTTPServer`` would."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the request, if there are not too many."""
        if not self._slots.acquire(blocking=False):
            with suppress(OSError):  # it may have not even room for that
                request.settimeout(0)
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        self._open[id(request)] = time.monotonic(), request
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One request, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(id(request), None)
            self._slots.release()

    def service_actions(self) -> None:
        """Let go of clients that take too long in all."""
        now = time.monotonic()
        for since, request in list(self._open.values()):
            if now - since > WHOLE_S:
                with suppress(OSError):  # it may have gone by itself
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's error; nothing is printed."""

    def finish(self, seconds: float) -> None:
        """Wait for requests that are being answered."""
        deadline = time.monotonic() + seconds
        for _ in range(MAX_CONNECTIONS):
            if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_S

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path == "/-/healthy":
            why = self.server.unwell()
            status = HTTPStatus.OK if why is None else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "text/plain; charset=utf-8", f"{why or 'well'}\n".encode())
        elif path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", _PAGE)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"try /metrics\n")

    def do_HEAD(self) -> None:
        """The same without the body."""
        self.do_GET()

    def _metrics(self) -> None:
        accept = self.headers.get("Accept") or ""
        body, content_type = self.server.renderer.render(accept[:_MAX_ACCEPT])
        self._answer(HTTPStatus.OK, content_type, body)

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Who answers; not which Python."""
        return f"parkscope/{VERSION}"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base's name
        """Nothing: stderr is for the person who started this."""


def _refusal(address: Address, error: OSError) -> EndpointError | PermissionDenied:
    host, port = address.sockaddr[:2]
    if error.errno == errno.EADDRINUSE:
        return EndpointError(
            f"{host} port {port} is in use",
            hint=f"Another Parkscope may serve there ('ss -tlnp sport = :{port}' names it). "
            "Choose another port; 0 takes any free one.",
        )
    if error.errno == errno.EACCES:
        return PermissionDenied(
            f"port {port} may not be bound by this user",
            hint="Ports from 1024 on need no rights.",
        )
    return EndpointError(f"{host} port {port} cannot be bound: {error.strerror}")
