"""Does what it is told, one command per line on stdin, and logs its own truth.

``sleep S``, ``lock S`` (a thread waits until another thread releases), ``socket S``
(a thread waits for data), ``threads N`` (that stay), ``thread`` (starts and ends),
``spin S``, ``fork S`` (the child sleeps and exits), ``exec``, ``syscalls N`` (makes that
many getppid calls), ``exit CODE``. The answer is one line of JSON; times are
CLOCK_MONOTONIC ns.
"""

import json
import os
import socket
import sys
import threading
import time

now = time.monotonic_ns
stay = threading.Event()


def in_thread(work):
    """Run ``work()``, a function of no arguments that returns a dict, in a new thread."""
    found = {}

    def run():
        found["tid"] = threading.get_native_id()
        found["start_ns"] = now()
        work(found)
        found["end_ns"] = now()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def sleep(seconds):
    start = now()
    time.sleep(float(seconds))
    return {"tid": threading.get_native_id(), "start_ns": start, "end_ns": now()}


def released_after(seconds, work, release):
    thread, found = in_thread(work)
    time.sleep(float(seconds))
    found["released_ns"] = now()
    found["releaser"] = threading.get_native_id()
    release()
    thread.join()
    return found


def lock(seconds):
    held = threading.Lock()
    held.acquire()
    return released_after(seconds, lambda _: held.acquire(), held.release)


def wait_for_data(seconds):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = released_after(seconds, lambda _: ours.recv(1), lambda: theirs.send(b"x"))
        return {**answer, "fd": ours.fileno()}


def threads(count):
    tids = []
    for _ in range(int(count)):
        thread = threading.Thread(target=stay.wait, daemon=True)
        thread.start()
        tids.append(thread.native_id)
    return {"tids": tids}


def one_thread():
    thread, found = in_thread(lambda _: None)
    thread.join()
    return found


def spin(seconds):
    start = now()
    while now() < start + float(seconds) * 1e9:
        pass
    return {"tid": threading.get_native_id(), "start_ns": start, "end_ns": now()}


def fork(seconds):
    start = now()
    child = os.fork()
    if not child:
        time.sleep(float(seconds))
        os._exit(3)
    _, status = os.waitpid(child, 0)
    return {"child": child, "start_ns": start, "end_ns": now(), "status": status}


def syscalls(count):
    for _ in range(int(count)):
        os.getppid()
    return {"calls": int(count)}


def execute():
    os.execv(sys.executable, [sys.executable, __file__])


COMMANDS = {
    "sleep": sleep,
    "lock": lock,
    "socket": wait_for_data,
    "threads": threads,
    "thread": one_thread,
    "spin": spin,
    "fork": fork,
    "exec": execute,
    "syscalls": syscalls,
    "exit": lambda code: os._exit(int(code)),
}

threading.stack_size(65536)
print("ready", flush=True)
for line in sys.stdin:
    name, *arguments = line.split()
    print(json.dumps(COMMANDS[name](*arguments)), flush=True)  # type: ignore[operator]
