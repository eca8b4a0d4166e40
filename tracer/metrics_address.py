"""Where metrics are to go: an address to serve them at, a file to write them to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import EndpointError, UsageError

DEFAULT_ADDRESS = "127.0.0.1:9464"
"""9464 is the default of OpenTelemetry's Prometheus exporters."""

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([A-Za-z0-9._-]*)):(\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """What a socket is bound to: ``family`` and ``sockaddr`` as ``socket.bind`` takes them."""

    family: int
    sockaddr: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Exports:
    """Where metrics go. ``file`` ends in ``.prom``, as node_exporter wants it."""

    address: Address | None = None
    file: Path | None = None


def exports(address: str | None, file: Path | None, *, anywhere: bool = False) -> Exports | None:
    """What was asked for, None for nothing. Raises UsageError, EndpointError."""
    if file is not None and file.suffix != ".prom":
        raise UsageError(
            f"{file} does not end in .prom", hint="node_exporter reads no other textfiles."
        )
    if address is None and anywhere:
        raise UsageError(
            "--listen-anywhere without --metrics", hint="Add '--metrics ADDRESS:PORT'."
        )
    if address is None and file is None:
        return None
    return Exports(None if address is None else resolved(address, anywhere=anywhere), file)


def split(text: str) -> tuple[str, int]:
    """Host and port of an address to listen at. Raises UsageError."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        number = (
            f"; PIDs go before '--metrics', a port alone is ':{text}'" if text.isdigit() else ""
        )
        raise UsageError(
            f"{text[:100]!r} is no address to listen at",
            hint=f"Write HOST:PORT, such as {DEFAULT_ADDRESS}{number}.",
        )
    return found[1] or found[2] or "127.0.0.1", int(found[3])


def resolved(text: str, *, anywhere: bool = False) -> Address:
    """``127.0.0.1:9464``, ``[::1]:9464``, ``localhost:0``, ``:9464`` (on 127.0.0.1).

    Raises UsageError for other text and, unless ``anywhere``, for what is not loopback;
    EndpointError for a name that has no address.
    """
    import socket

    host, port = split(text)
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EndpointError(f"{host!r} has no address here: {error.strerror}") from None
    family, _, _, _, sockaddr = known[0]
    if not anywhere and not all(_is_loopback(str(one[4][0])) for one in known):
        raise UsageError(
            f"{text} can be reached from other machines",
            hint="Names of threads, programs and maps are read there, by anyone. If that is "
            "meant, add '--listen-anywhere'.",
        )
    return Address(family, sockaddr)


def _is_loopback(host: str) -> bool:
    import ipaddress

    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
