"""Calls that wait for the other end of a socket or a pipe, and for a child to end."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time

from truth_log import Clock, Log, join, main, start


def answer_late(log: Log, clock: Clock, peers: list[socket.socket]) -> None:
    """The slow peer: after each length of time one byte for everybody."""
    for length, _ in clock.lengths():
        with log.wait("sleep", "not answering", asked=length):
            time.sleep(length)
        for peer in peers:
            peer.sendall(b"x")
    for peer in peers:
        peer.close()


def receive(log: Log, own: socket.socket) -> None:
    """A blocking ``recv``."""
    while True:
        with log.wait("io", "recv"):
            got = own.recv(1)
        if not got:
            return


def receive_with_limit(log: Log, own: socket.socket) -> None:
    """``recv`` with a time limit: the interpreter polls first."""
    own.settimeout(60)
    receive(log, own)


def select_readable(log: Log, own: socket.socket) -> None:
    """``select`` before ``recv``."""
    while True:
        with log.wait("io", "select"):
            select.select([own], [], [])
        if not own.recv(1):
            return


def accept_and_receive(log: Log, server: socket.socket) -> None:
    """Accept on TCP, then wait for a client that says little."""
    with log.wait("io", "accept"):
        connection, _ = server.accept()
    receive(log, connection)
    connection.close()


def connect_late(log: Log, clock: Clock, address: tuple[str, int]) -> None:
    """The client of ``accept_and_receive``."""
    with log.wait("sleep", "not connecting", asked=0.4):
        time.sleep(0.4)
    with socket.create_connection(address) as client:
        answer_late(log, clock, [client])


def wait_for_child(log: Log, clock: Clock) -> None:
    """Children that say something late and end later."""
    program = "import os, time; time.sleep(.3); os.write(1, b'x'); time.sleep(.4)"
    while clock.left() > 1:
        own, other = os.pipe()
        child = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=other)
        os.close(other)
        with log.wait("io", "read from the child"):
            os.read(own, 1)
        os.close(own)
        with log.wait("child", "end of the child"):
            child.wait()


def run(log: Log, clock: Clock) -> None:
    """Socket pairs, a TCP connection, children."""
    pairs = [socket.socketpair() for _ in range(3)]
    server = socket.create_server(("127.0.0.1", 0))
    threads = start(
        ("peer", answer_late, log, clock, [peer for _, peer in pairs]),
        ("recv", receive, log, pairs[0][0]),
        ("recv-limit", receive_with_limit, log, pairs[1][0]),
        ("select", select_readable, log, pairs[2][0]),
        ("server", accept_and_receive, log, server),
        ("client", connect_late, log, clock, server.getsockname()),
        ("parent", wait_for_child, log, clock),
    )
    join(log, threads)
    server.close()


if __name__ == "__main__":
    main(run, seconds=8)
