"""Threads that wake one another at places that they log.

One argument: how a waiting thread is woken (``WAYS``). First line: ``ready`` and its native
id. For each line on stdin a thread waits for that many seconds, until another one wakes it;
the answer is one line of JSON: both native ids, and where the waker stood, as a list of
[function, line], innermost first, down to the thread's own function. ``many`` gives a list
of those, of rounds at once.
"""

import functools
import importlib
import json
import os
import queue
import socket
import sys
import threading
import time
import types
from typing import Any

HERE = os.path.basename(__file__)


def place():
    """The stack of who calls it, as it will be one line further on."""
    found: list[list[Any]] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if os.path.basename(frame.f_code.co_filename) == HERE:
            found.append([frame.f_code.co_name, frame.f_lineno])
        frame = frame.f_back
    found[0][1] += 1
    return found


class Lock:
    def __init__(self):
        self.held = threading.Lock()
        self.held.acquire()

    def wait(self):
        self.held.acquire()

    def let_go(self, told):
        told += place()
        self.held.release()


class Event:
    def __init__(self):
        self.event = threading.Event()

    def wait(self):
        self.event.wait()

    def give_sign(self, told):
        told += place()
        self.event.set()


class Queue:
    def __init__(self):
        self.queue = queue.Queue()

    def wait(self):
        self.queue.get()

    def put_one(self, told):
        told += place()
        self.queue.put(1)


class Socket:
    def __init__(self):
        self.ours, self.theirs = socket.socketpair()

    def wait(self):
        self.ours.recv(1)

    def send_byte(self, told):
        told += place()
        self.theirs.send(b"x")


class Pipe:
    def __init__(self):
        self.read, self.write = os.pipe()

    def wait(self):
        os.read(self.read, 1)

    def write_byte(self, told):
        told += place()
        os.write(self.write, b"x")


def deep(depth, work, told):
    if depth:
        return deep(depth - 1, work, told)
    return work(told)


class Deep(Lock):
    def at_depth(self, told):
        deep(40, self.let_go, told)


class Dying(Lock):
    """The code that wakes is gone right after, and its memory is used again."""

    SOURCE = "def short_lived(held):\n    held.release()\n"

    def wake_and_die(self, told):
        names = {}
        exec(self.SOURCE, names)
        told += place()
        names.pop("short_lived")(self.held)
        for number in range(300):
            exec(self.SOURCE.replace("short_lived", f"later{number}"), names)


class Turns(Lock):
    """A function wakes, then another one of its form in its place, after which it is back.

    Each is called often enough before to be remembered for what it was.
    """

    SOURCE = "def {}(held):\n    held.release()\n"
    in_place: Any = None

    def put(self, name):
        Turns.in_place = None
        names: dict[str, Any] = {}
        exec(self.SOURCE.format(name), names)
        Turns.in_place = names.pop(name)
        for _ in range(20):
            lock = threading.Lock()
            lock.acquire()
            Turns.in_place(lock)

    def wake(self, told):
        told.append([Turns.in_place.__name__, 2])
        Turns.in_place(self.held)

    def wake_in_turn(self, told):
        again = Turns.in_place is not None
        self.put("right" if again else "left")
        self.wake(told)
        if again:
            self.put("left")


class Foreign(Pipe):
    """It is woken from within another interpreter, by a function ``inner``; nothing is told."""

    CODE = "import os\ndef inner():\n    os.write({}, b'x')\ninner()\n"

    def run_elsewhere(self, _told):
        name = "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
        module = importlib.import_module(name)
        run = getattr(module, "run_string", None) or module.exec
        run(module.create(), self.CODE.format(self.write))


WAYS = {
    "lock": (Lock, "let_go"),
    "event": (Event, "give_sign"),
    "queue": (Queue, "put_one"),
    "socket": (Socket, "send_byte"),
    "pipe": (Pipe, "write_byte"),
    "deep": (Deep, "at_depth"),
    "foreign": (Foreign, "run_elsewhere"),
    "dying": (Dying, "wake_and_die"),
    "turns": (Turns, "wake_in_turn"),
}


def many(seconds):
    """As many rounds at once, each waker at a depth of its own."""
    answers: list[Any] = []

    class Each(Lock):
        def __init__(self, depth):
            super().__init__()
            self.depth = depth

        def at_own_depth(self, told):
            deep(self.depth, self.let_go, told)

    def one(depth):
        answers.append(one_round("", seconds, lambda: Each(depth), "at_own_depth"))

    threads = [threading.Thread(target=one, args=(depth,)) for depth in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def one_round(way, seconds, kind=None, name=None):
    if kind is None:
        kind, name = WAYS[way]
    thing: Any = kind()
    answer: dict[str, Any] = {}
    told: list[Any] = []

    def waiter():
        answer["waiter"] = threading.get_native_id()
        thing.wait()

    def waker():
        answer["waker"] = threading.get_native_id()
        time.sleep(seconds)
        getattr(thing, name)(told)

    threads = [threading.Thread(target=one, name=one.__name__) for one in (waiter, waker)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer["told"] = told
    return answer


print("ready", flush=True)
for line in sys.stdin:
    way, seconds = line.split()
    told_of = many if way == "many" else functools.partial(one_round, way)
    print(json.dumps(told_of(float(seconds))), flush=True)
