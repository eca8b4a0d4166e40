"""A guarded ConcurrentMap whose iterations fail because threads write to the map.

    map_breaker.py PATH         PATH: where the package concurrent_map lies

Each iteration stands at its first entry until a writer has changed the map, so that it
fails by what really happens, and always. The breaker has its own numbers (60 %, 100, 30 s);
its clock is the process's, and is put forward when told so. Commands, an answer each:

``fail``      iterate beside a writer until the breaker is open, then try to write
``rest``      put the clock forward by 30 s
``half``      begin the iteration that is the probe
``again``     a writer that goes by the guard changes the map: the probe fails
``through``   nobody does: the probe gets through
"""

import json
import sys
import threading
import time

sys.path.insert(0, sys.argv[1])

from concurrent_map import ConcurrentMap, GuardedMap, MapUnavailableError, StaleIterationError

KEYS = 200
ahead = [0.0]
changes = []


def on_change(transition):
    changes.append(
        {
            "from": transition.old,
            "to": transition.new,
            "failures": transition.failures,
            "samples": transition.samples,
            "tid": threading.get_native_id(),
            "ns": time.monotonic_ns(),
        }
    )


orders = ConcurrentMap({n: n for n in range(KEYS)}, name="orders")
guarded = GuardedMap(orders, clock=lambda: time.monotonic() + ahead[0], on_change=on_change)
probe = []


class Writer(threading.Thread):
    """Stores and deletes a key of its own by ``through``, as fast as it can."""

    def __init__(self, through):
        super().__init__(name="writer")
        self.through, self.over, self.refused = through, threading.Event(), 0

    def run(self):
        while not self.over.is_set():
            try:
                self.through.store("new", 1)
                self.through.load_and_delete("new")
            except MapUnavailableError:
                self.refused += 1
                self.over.wait(0.001)


def step(walk):
    """One entry, and then a change by somebody else."""
    next(walk)
    seen = orders.version
    while orders.version == seen:
        time.sleep(0)


def stale(walk):
    try:
        for _ in walk:
            pass
    except StaleIterationError:
        return True
    return False


def fail():
    """Nothing is left out: each iteration is one of the breaker's samples."""
    writer = Writer(guarded)
    writer.start()
    failed = 0
    while guarded.state == "closed":
        walk = guarded.iterate()
        step(walk)
        failed += stale(walk)
    while not writer.refused:
        time.sleep(0)
    writer.over.set()
    writer.join()
    served = sum(key in orders or key == "new" for key, _ in guarded.items())
    return {"failed": failed, "refused": writer.refused, "served": served, "load": guarded.load(7)}


def again():
    writer = Writer(orders)
    writer.start()
    seen = orders.version
    while orders.version == seen:
        time.sleep(0)
    failed = stale(probe.pop())
    writer.over.set()
    writer.join()
    return {"failed": failed}


def obey(command):
    if command == "fail":
        return fail()
    if command == "rest":
        ahead[0] += 30
    elif command == "half":
        probe.append(guarded.iterate())
        next(probe[0])
    elif command == "again":
        return again()
    elif command == "through":
        failed = stale(probe.pop())
        guarded.store("new", 2)
        return {"failed": failed}
    return {}


def main():
    print("ready", flush=True)
    for line in sys.stdin:
        found = obey(line.strip())
        known = {"state": guarded.state, "address": hex(id(orders)), "changes": changes}
        print(json.dumps({**found, **known}), flush=True)


main()
