"""What a target notices of many images, and of a tracer or an injector that is killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests import capturing
from tests.benchmarks.pairs import TARGETS, interpreter
from tests.interpreters import launch
from tests.processes import read_line, started, wait_ready, wait_until

CLIENTS = 4
STEPS = {
    "stop-and-copy": "ready seized stopping stopped copied released",
    "clone": "ready seized stopping stopped preferred injecting injected released held copying"
    " killed reaped",
    "precopy": "seized stopping stopped injecting injected lent released watched precopied"
    " ready copied unwatched",
}
"""Named steps of each engine outside of its dangerous window (``step`` in freeze/*.c)."""


class Client(threading.Thread):
    """Asks and checks the answer, again and again."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.done = 0
        self.failed: list[str] = []
        self.slowest_s = 0.0
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port)) as connection:
                self._ask(connection)
        except OSError as error:
            self.failed.append(repr(error))

    def _ask(self, connection: socket.socket) -> None:
        answers = connection.makefile("rb")
        while not self.stop.is_set():
            number = self.done
            lines = "\n".join(f"{number}:{i}" for i in range(number % 50))
            expected = f"{number} {hashlib.sha256(lines.encode()).hexdigest()}\n"
            began = time.monotonic()
            connection.sendall(f"{number}\n".encode())
            if answers.readline().decode() != expected:
                self.failed.append(f"request {number}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.done += 1
            self.stop.wait(0.002)


@dataclass(slots=True)
class Served:
    """A server under load, and what of it must stay as it was."""

    pid: int
    process: subprocess.Popen[bytes]
    clients: list[Client]
    before: dict[str, Any] = field(default_factory=dict)

    def harm(self) -> list[str]:
        """What is not as before."""
        if self.process.poll() is not None:
            return [f"the target ended: {self.process.returncode}"]
        found = [why for client in self.clients for why in client.failed]
        done = [client.done for client in self.clients]
        try:
            wait_until(lambda: capturing.is_running(self.pid), "no thread stopped", 20)
            wait_until(lambda: capturing.counts(self.pid) == self.before, "all as before", 20)
            wait_until(
                lambda: all(c.done > n for c, n in zip(self.clients, done, strict=True)),
                "requests are answered",
                20,
            )
        except AssertionError as error:
            found.append(f"{error}: {capturing.counts(self.pid)}")
        return found

    def requests(self) -> int:
        """Answered so far."""
        return sum(client.done for client in self.clients)


@contextmanager
def served(megabytes: int) -> Iterator[Served]:
    """A server with such a heap, and clients."""
    process = launch(
        interpreter("pyenv-3.13", "system-3.11"),
        TARGETS / "serve.py",
        [str(megabytes)],
        stdout=subprocess.PIPE,
    )
    with started(process):
        wait_ready(process, 60)
        port = int(read_line(process))
        target = Served(process.pid, process, [Client(port) for _ in range(CLIENTS)])
        for client in target.clients:
            client.start()
        wait_until(lambda: all(c.done > 10 for c in target.clients), "requests are answered")
        target.before = capturing.counts(process.pid)
        yield target
        for client in target.clients:
            client.stop.set()
        for client in target.clients:
            client.join(10)


def many(target: Served, times: int) -> list[str]:
    """So many images by each engine in turn; what harm they did."""
    for at in range(times):
        capturing.take(target.pid, capturing.ENGINES[at % 3]).close()
    return target.harm()


def killed_at(target: Served, engine: str, who: str, step: str) -> list[str]:
    """One image, with somebody killed at that step; what harm it did."""
    before = capturing.injectors()
    status = capturing.sacrificed(target.pid, engine, f"{who}@{step}")
    capturing.wait_no_injector(before)
    missed = [] if status else [f"nobody was killed at {step}"]
    return missed + [f"{engine}, {who}@{step}: {why}" for why in target.harm()]


def killed_at_random(target: Served, times: int, seed: int = 0) -> list[str]:
    """The tracer killed so many times while it takes one image after another."""
    chance, harm = random.Random(seed), []
    for at in range(times):
        before = capturing.injectors()
        child = os.fork()
        if not child:
            while True:
                capturing.take(target.pid, capturing.ENGINES[at % 3]).close()
        time.sleep(chance.uniform(0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        capturing.wait_no_injector(before)
        harm += target.harm()
    return harm
