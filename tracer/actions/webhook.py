"""An HTTP POST of the facts as JSON: to this machine unless more is allowed.

The addresses of the host are looked up once and the connection goes to one of them, so
that a name cannot be local when it is checked and remote when it is used. Redirects are
answers like any other that is not 2xx: failures.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from collector.trace.lines import dump
from probes.errors import ActionFailed
from tracer.triggers.job import Running
from tracer.version import VERSION

_MAX_ANSWER = 65536
_PORTS = {"http": 80, "https": 443}


def run(running: Running) -> dict[str, Any]:
    """Post it. Raises ActionFailed when that is not allowed, fails or takes too long."""
    job = running.job
    limit_s = job.options["timeout"] / 1e9
    deadline = time.monotonic() + limit_s
    url = urlsplit(job.options["url"])
    body = dump(job.told())
    try:
        address = _address(url, remote=job.options["allow_remote"])
        stream = socket.create_connection(address, timeout=limit_s)
        connection = http.client.HTTPConnection(url.hostname or "", url.port or _PORTS[url.scheme])
        # A limit for each reading alone would let a server answer a byte at a time, for ever.
        over = threading.Timer(max(0.0, deadline - time.monotonic()), lambda: _shut(stream))
        over.start()
        try:
            if url.scheme == "https":
                context = ssl.create_default_context()
                stream = context.wrap_socket(stream, server_hostname=url.hostname)
            connection.sock = stream
            status = _post(connection, url, body)
        finally:
            over.cancel()
            stream.close()
    except TimeoutError:
        raise ActionFailed(f"{url.netloc} did not answer within {limit_s:g} s") from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        if time.monotonic() >= deadline:
            raise ActionFailed(f"{url.netloc} did not answer within {limit_s:g} s") from None
        raise ActionFailed(f"{url.netloc}: {error}") from None
    if not 200 <= status < 300:
        raise ActionFailed(f"{url.netloc} answered {status}")
    return {"status_code": status}


def _post(connection: http.client.HTTPConnection, url: SplitResult, body: bytes) -> int:
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    headers = {"Content-Type": "application/json", "User-Agent": f"parkscope/{VERSION}"}
    connection.request("POST", target, body, headers)
    answer = connection.getresponse()
    answer.read(_MAX_ANSWER)
    return answer.status


def _shut(stream: socket.socket) -> None:
    """In another thread: whoever reads from it finds its end."""
    with suppress(OSError):
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


def _address(url: SplitResult, *, remote: bool) -> tuple[str, int]:
    """Where to connect to. Raises ActionFailed for another machine, OSError."""
    port = url.port or _PORTS[url.scheme]
    found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        host = str(address[0])
        if remote or ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            return host, port
    raise ActionFailed(f"{url.hostname} is another machine: set allow_remote = true for it")
