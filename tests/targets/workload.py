"""Work for benchmarks: does one kind of it for as long as stdin says, and reports how much.

    python workload.py NAME

prints ``ready``; then, for every line with a number of seconds on stdin, one line of JSON:
``work`` (operations done), ``wall_ns`` and ``cpu_ns`` (of the whole process) they took.
Ends with its stdin. Runs on every CPython from 3.8 on, with nothing but its library.
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import time
from typing import Callable

BULK = 1000
DOCUMENT = {
    "users": [
        {"id": number, "name": f"user {number}", "tags": ["a", "b", str(number)], "score": 0.5}
        for number in range(50)
    ]
}


def lock_loop(until: float) -> int:
    """``with lock:`` that nobody contends for."""
    lock = threading.Lock()
    done = 0
    while time.perf_counter() < until:
        for _ in range(BULK):
            with lock:
                pass
        done += BULK
    return done


def bulk_queue(until: float) -> int:
    """One thread puts, another one gets; the queue is hardly ever empty or full."""
    items: queue.Queue[int] = queue.Queue(10 * BULK)
    taken = [0]

    def consume() -> None:
        while items.get() >= 0:
            taken[0] += 1

    consumer = threading.Thread(target=consume)
    consumer.start()
    while time.perf_counter() < until:
        for number in range(BULK):
            items.put(number)
    items.put(-1)
    consumer.join()
    return taken[0]


def lockstep_queue(until: float) -> int:
    """Ping-pong over two queues of one place: each item costs several switches."""
    ping: queue.Queue[int] = queue.Queue(1)
    pong: queue.Queue[int] = queue.Queue(1)

    def answer() -> None:
        while True:
            number = ping.get()
            pong.put(number)
            if number < 0:
                return

    thread = threading.Thread(target=answer)
    thread.start()
    done = 0
    while time.perf_counter() < until:
        ping.put(done)
        done = pong.get() + 1
    ping.put(-1)
    thread.join()
    return done


def gil_threads(until: float) -> int:
    """Four threads that compute and want the GIL all the time."""
    done = [0] * 4

    def compute(slot: int) -> None:
        while time.perf_counter() < until:
            total = 0
            for number in range(BULK):
                total += number * number
            done[slot] += 1

    threads = [threading.Thread(target=compute, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


def echo(until: float) -> int:
    """Four clients and their four server threads, over local sockets."""
    done = [0] * 4

    def serve(end: socket.socket) -> None:
        while True:
            data = end.recv(256)
            if not data:
                return
            end.sendall(data)

    def ask(end: socket.socket, slot: int) -> None:
        with end:
            while time.perf_counter() < until:
                end.sendall(b"x" * 64)
                end.recv(256)
                done[slot] += 1

    threads = []
    for slot in range(4):
        near, far = socket.socketpair()
        threads.append(threading.Thread(target=serve, args=(far,)))
        threads.append(threading.Thread(target=ask, args=(near, slot)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


def json_trips(until: float) -> int:
    """Objects to text and back."""
    done = 0
    while time.perf_counter() < until:
        json.loads(json.dumps(DOCUMENT))
        done += 1
    return done


def dict_churn(until: float) -> int:
    """Dictionaries that grow and are thrown away."""
    done = 0
    while time.perf_counter() < until:
        table = {number: (number, str(number)) for number in range(BULK)}
        for number in range(0, BULK, 2):
            del table[number]
        done += 1
    return done


WORK = {
    work.__name__: work
    for work in (
        lock_loop,
        bulk_queue,
        lockstep_queue,
        gil_threads,
        echo,
        json_trips,
        dict_churn,
    )
}


def main(name: str) -> None:
    """Serve requests until stdin ends."""
    work: Callable[[float], int] = WORK[name]
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
        done = work(time.perf_counter() + float(line))
        answer = {
            "work": done,
            "wall_ns": time.perf_counter_ns() - wall_ns,
            "cpu_ns": time.process_time_ns() - cpu_ns,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
