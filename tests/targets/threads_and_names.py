"""Threads with names and stacks of many shapes; says what Python itself knows of them.

Arguments: the number of threads, then any of: fork (a child says it), sub
(sub-interpreters with threads of their own, 3.12 on). One JSON object on stdout:
{"pid", "names": {native id: name}, "frames": {native id: [[module, qualified name,
file, line], ...]}}, innermost first. Then it stays as it is until it is killed.
"""

import json
import linecache
import os
import sys
import threading
import time

count = int(sys.argv[1])
release = threading.Event()
all_there = threading.Barrier(count + 1)


def descend(depth):
    if depth:
        descend(depth - 1)
    else:
        all_there.wait()
        release.wait()


def generate(depth):
    yield (depth)
    yield [descend(one) for one in (depth,)]


class Worker(threading.Thread):
    """Names of all kinds of str, instance dicts of all kinds."""

    def __init__(self, number):
        names = (
            None,
            "w\u00f6rker",
            "\u65e5\u672c-" + str(number),
            "\U0001d11e",
            "plain",
            "x" * 300,
        )
        super().__init__(name=names[number % len(names)])
        self.depth = number % 20
        self.daemon = True
        if number % 3 == 0:
            self.__dict__["materialised"] = 1

    def run(self):
        for _ in sorted(generate(self.depth), key=id):
            pass


def outwards(frame):
    while frame is not None:
        yield frame
        frame = frame.f_back


def told():
    ids = {thread.ident: thread.native_id for thread in threading.enumerate()}
    if ids[threading.get_ident()] != threading.get_native_id():
        ids[threading.get_ident()] = threading.get_native_id()  # a fork, until 3.12
    frames = {}
    for ident, innermost in sys._current_frames().items():
        stack = []
        for frame in outwards(innermost):
            code = frame.f_code
            stack.append(
                [frame.f_globals["__name__"], code.co_qualname, code.co_filename, frame.f_lineno]
            )
        if ident != threading.get_ident():
            frames[ids[ident]] = stack
    names = {ids[thread.ident]: thread.name for thread in threading.enumerate()}
    return {"pid": os.getpid(), "names": names, "frames": frames}


kept = []  # 3.12 ends a sub-interpreter that nobody refers to


def start_sub_interpreters():
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    inside = (
        "import threading, time\n"
        "thread = threading.Thread(target=time.sleep, args=(600,), name='inside')\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    kept.extend(interpreters.create() for _ in range(2))
    for one in kept:
        threading.Thread(
            target=interpreters.run_string, args=(one, inside), name="outside", daemon=True
        ).start()


for number in range(count):
    Worker(number).start()
all_there.wait()


def all_wait():
    """Every other thread stands in the call that it will not return from."""
    for ident, innermost in sys._current_frames().items():
        frame = innermost
        if ident == threading.get_ident():
            continue
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        names = [frame.f_code.co_name]
        while len(names) < 3 and frame.f_back is not None:
            frame = frame.f_back
            names.append(frame.f_code.co_name)
        waits = "waiter.acquire()" in line and names == ["wait", "wait", "descend"]
        if not waits or frame.f_lineno != descend.__code__.co_firstlineno + RELEASE:
            return False
    return True


RELEASE = 5  # descend's line with release.wait()
while not all_wait():
    time.sleep(0.01)
if "fork" in sys.argv and os.fork():
    release.wait()
truth = told()
if "sub" in sys.argv:
    start_sub_interpreters()
print(json.dumps(truth), flush=True)
while True:
    time.sleep(600)
