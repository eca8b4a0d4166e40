"""Threads in every kind of wait, each checking its own result; and a child, and signals.

Says ``ready``; for each line on stdin one line of JSON: ``rounds`` of each wait so far,
``wrong`` results, ``sigchld`` and ``alarms`` seen, the states of its children, its open
files, ``gap_ns``: the longest gap in a tight loop since the last question.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

rounds, wrong = {}, []
seen = {"sigchld": 0, "alarms": 0, "gap_ns": 0}


def repeated(name, work):
    def run():
        # A signal may be given to any thread that does not block it: here the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGCHLD])
        while True:
            said = work()
            if said is not None:
                wrong.append([name, repr(said)])
            rounds[name] = rounds.get(name, 0) + 1

    rounds[name] = 0
    threading.Thread(target=run, daemon=True).start()


def lasts(seconds, work, result):
    """What is wrong with ``work()``, which should take that long and give that result."""
    began = time.monotonic()
    got = work()
    took = time.monotonic() - began
    return None if got == result and seconds * 0.99 <= took < seconds + 5 else (got, took)


def feeder(write):
    def run():
        number = 0
        while True:
            time.sleep(0.02)
            write(number.to_bytes(8, "little"))
            number += 1

    threading.Thread(target=run, daemon=True).start()


def in_order(read):
    """Reads numbers and says when one is missing, twice or late."""
    expected = [0]

    def work():
        got = int.from_bytes(read(8), "little")
        bad = got != expected[0]
        expected[0] = got + 1
        return ("not in order", got) if bad else None

    return work


def pipe():
    out, into = os.pipe()
    feeder(lambda data: os.write(into, data))
    repeated("read", in_order(lambda size: os.read(out, size)))


def sockets():
    ours, theirs = socket.socketpair()
    feeder(theirs.sendall)
    repeated("recv", in_order(ours.recv))


def timeouts():
    libc = ctypes.CDLL(None)
    quiet, _keep = os.pipe()
    poll, epoll = select.poll(), select.epoll()
    poll.register(quiet, select.POLLIN)
    epoll.register(quiet, select.EPOLLIN)
    held = threading.Lock()
    held.acquire()
    repeated("sleep", lambda: lasts(0.05, lambda: time.sleep(0.05), None))
    repeated("usleep", lambda: lasts(0.05, lambda: libc.usleep(50000), 0))
    repeated("poll", lambda: lasts(0.05, lambda: poll.poll(50), []))
    repeated("raw poll", lambda: lasts(0.05, lambda: libc.poll(None, 0, 50), 0))
    repeated("epoll", lambda: lasts(0.05, lambda: epoll.poll(0.05), []))
    repeated("lock", lambda: lasts(0.05, lambda: held.acquire(timeout=0.05), False))
    return _keep, held


def locks():
    lock, condition = threading.Lock(), threading.Condition()
    counter = [0, 0]

    def count():
        with lock:
            counter[0] += 1
            counter[1] += 1
            return None if counter[0] == counter[1] else tuple(counter)

    def wait():
        with condition:
            condition.wait(0.01)

    for _ in range(2):
        repeated("counter", count)
    repeated("condition", wait)


def spin():
    before = time.perf_counter_ns()
    while True:
        now = time.perf_counter_ns()
        seen["gap_ns"] = max(seen["gap_ns"], now - before)
        before = now


def answer(child):
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = None
    said = {
        "rounds": dict(rounds),
        "wrong": wrong[:20],
        "child": child.poll(),
        "waited": left,
        "fds": sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else [],
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
    }
    said.update(seen)
    seen["gap_ns"] = 0
    return said


def see(name):
    def handler(_signal, _frame):
        seen[name] += 1

    return handler


signal.signal(signal.SIGCHLD, see("sigchld"))
signal.signal(signal.SIGALRM, see("alarms"))
child = subprocess.Popen(
    [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
)
kept = timeouts()
pipe()
sockets()
locks()
if "spin" in sys.argv:
    threading.Thread(target=spin, daemon=True).start()
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
print("ready")
while sys.stdin.readline():
    print(json.dumps(answer(child)))
signal.setitimer(signal.ITIMER_REAL, 0)
child.communicate()
print(json.dumps({"status": child.returncode}))
