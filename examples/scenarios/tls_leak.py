"""A threaded TLS server without a time limit, and peers that never finish the handshake.

Each such peer costs one parked thread and one socket more, for as long as it likes. Other
peers say hello, are answered and go: what they leave behind is nothing. No certificates:
the cipher is an anonymous one, good for a connection to oneself.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time

from truth_log import Clock, Log, join, main, start

EVERY_S = 0.25
"""So often another peer comes."""

HONEST = 3
"""Peers that finish the handshake, for each that does not."""


def new_context(side: ssl._SSLMethod) -> ssl.SSLContext:
    """TLS 1.2 with keys that nobody vouches for."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


def handle(log: Log, context: ssl.SSLContext, connection: socket.socket) -> None:
    """One peer: shake hands, send back what it says. There is no limit to either."""
    try:
        with log.wait("io", "the handshake"):
            secure = context.wrap_socket(connection, server_side=True)
        with secure:
            secure.sendall(secure.recv(100))
    except (OSError, ValueError):
        connection.close()  # the peer went away


def accept(log: Log, context: ssl.SSLContext, server: socket.socket, ending: list[bool]) -> None:
    """A thread for each peer."""
    threads: list[threading.Thread] = []
    while True:
        with log.wait("io", "accept"):
            connection, _ = server.accept()
        if ending:
            connection.close()
            break
        thread = threading.Thread(target=handle, args=(log, context, connection), daemon=True)
        thread.start()
        threads = [*filter(threading.Thread.is_alive, threads), thread]
    join(log, threads)


def finish(context: ssl.SSLContext, address: tuple[str, int]) -> None:
    """A peer that behaves."""
    with context.wrap_socket(socket.create_connection(address)) as secure:
        secure.sendall(b"hello")
        secure.recv(100)


def come_and_go(log: Log, clock: Clock, address: tuple[str, int]) -> None:
    """Peers, one after another; some of them only connect."""
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    silent = []
    while clock.left() > EVERY_S:
        silent.append(socket.create_connection(address))
        for _ in range(HONEST):
            finish(context, address)
        with log.wait("sleep", "the next peer", asked=EVERY_S):
            time.sleep(EVERY_S)
    for connection in silent:  # one by one: handlers that woke together would wait for the GIL
        connection.close()
        time.sleep(0.005)


def run(log: Log, clock: Clock) -> None:
    """The server and its peers, in one process."""
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    ending: list[bool] = []
    context = new_context(ssl.PROTOCOL_TLS_SERVER)
    acceptor = start(("acceptor", accept, log, context, server, ending))
    join(log, start(("peers", come_and_go, log, clock, address)))
    ending.append(True)
    socket.create_connection(address).close()
    join(log, acceptor)
    server.close()


if __name__ == "__main__":
    main(run, seconds=8)
