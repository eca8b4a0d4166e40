"""Uses the toy of a native map as it is told, one command per line on stdin.

    native_map.py LIBRARY [--late]

``--late``: the library is loaded by the command ``load`` only. Each answer is a line of
JSON with what the map itself has counted so far.

``load``                    load the library
``hold SHARD MS WAITERS``   one thread holds a shard's lock, others wait for it
``range MODE OUTCOME N``    one range over N entries
``mix THREADS ROUNDS``      a bit of everything, in C, from several threads
``more``                    splits, retired and stale buckets, retries, views: one each
``breaker OLD NEW FAILURES SAMPLES``   a circuit breaker changes its state
``abandon MS``              a wait for a shard that a signal ends, then one for a lock
``leave N``                 ranges that begin and never end
``plain MS ENTRIES``        functions without probes: a wait, and two ranges of which one fails
``end THREADS``             threads that end inside of a wait: how many were unwound to the end
``truth``                   nothing but the answer
"""

import ctypes
import json
import sys
import threading
import time

COUNTS = [
    "ranges", "complete", "stopped", "stale", "errors", "items", "splits", "moved", "retired",
    "stale_buckets", "retries", "opened", "closed",
]  # fmt: skip


class Lock(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32) for name in ("word", "owner_tid", "shard", "waits", "released")
    ]


class Truth(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in COUNTS]


class ConcurrentMap:
    """``name`` stands behind the object's head, as in the real one."""

    __slots__ = ("name", "shards")

    def __init__(self, name, shards):
        self.name = name
        self.shards = shards


SHARDS = 4
sessions = ConcurrentMap("sessions", SHARDS)
unnamed = ConcurrentMap(None, SHARDS)
locks = (Lock * SHARDS)(*[Lock(0, 0, n) for n in range(SHARDS)])
truths = [Truth()]
loaded = []


def load():
    loaded.append(ctypes.CDLL(sys.argv[1]))


def where(of=sessions):
    return ctypes.c_void_p(id(of))


def lock_at(shard):
    return ctypes.byref(locks[shard])


def hold(shard, milliseconds, waiters, *, of=sessions):
    """The convoy: says who holds and who waits."""
    held = threading.Event()
    found = {"waiters": []}

    def holder():
        found["holder"] = [threading.get_native_id()]
        loaded[0].toy_acquire(where(of), lock_at(shard))
        held.set()
        time.sleep(milliseconds / 1000)  # the holder's line
        loaded[0].toy_release(where(of), lock_at(shard))

    def waiter():
        found["waiters"].append(threading.get_native_id())
        held.wait()
        began = time.monotonic_ns()
        loaded[0].toy_acquire(where(of), lock_at(shard))
        found.setdefault("waits", []).append((began, time.monotonic_ns()))
        loaded[0].toy_release(where(of), lock_at(shard))

    threads = [threading.Thread(target=holder, name="holder")]
    threads += [threading.Thread(target=waiter, name=f"waiter-{n}") for n in range(waiters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def mix(threads, rounds):
    more = [Truth() for _ in range(threads)]
    truths.extend(more)

    def run(truth):
        loaded[0].toy_mix(
            where(), locks, ctypes.c_uint64(SHARDS), ctypes.c_uint64(rounds), ctypes.byref(truth)
        )

    running = [threading.Thread(target=run, args=(truth,)) for truth in more]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def range_over(mode, outcome, items):
    numbers = [ctypes.c_uint64(one) for one in (mode, outcome, items)]
    loaded[0].toy_range(where(), *numbers, ctypes.byref(truths[0]))


def more():
    truth = ctypes.byref(truths[0])
    two, five = ctypes.c_uint64(2), ctypes.c_uint64(5)
    loaded[0].toy_split(where(), two, five, truth)
    for one in (loaded[0].toy_retire, loaded[0].toy_stale, loaded[0].toy_retry, loaded[0].toy_view):
        one(where(), two, truth)


def plain(milliseconds, items):
    """The functions without probes: a wait that ends, a range that does and one that fails."""
    locks[1].word = 1

    def let_go():
        time.sleep(milliseconds / 1000)
        loaded[0].toy_release(where(), lock_at(1))

    thread = threading.Thread(target=let_go, name="lets-go")
    thread.start()
    loaded[0].plain_wait(where(), lock_at(1))
    thread.join()
    for count in (items, -1):
        loaded[0].plain_range(where(), ctypes.c_long(count))


def abandon(milliseconds):
    found = {}
    lock = threading.Lock()
    lock.acquire()

    def run():
        found["abandoner"] = threading.get_native_id()
        loaded[0].toy_abandon(where(), lock_at(1))
        lock.acquire()

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(milliseconds / 1000)
    lock.release()
    thread.join()
    return found


def obey(words):
    name, numbers = words[0], [int(word) for word in words[1:]]
    if name == "load":
        load()
    elif name == "hold":
        return hold(*numbers)
    elif name == "hold-unnamed":
        return hold(*numbers, of=unnamed)
    elif name == "range":
        range_over(*numbers)
    elif name == "mix":
        mix(*numbers)
    elif name == "more":
        more()
    elif name == "breaker":
        loaded[0].toy_breaker(where(), *map(ctypes.c_uint64, numbers))
    elif name == "abandon":
        return abandon(*numbers)
    elif name == "leave":
        loaded[0].toy_leave_ranges(where(), ctypes.c_uint64(*numbers))
    elif name == "plain":
        plain(*numbers)
    elif name == "end":
        loaded[0].plain_threads_end.restype = ctypes.c_long
        return {"unwound": loaded[0].plain_threads_end(lock_at(1), ctypes.c_long(*numbers))}
    return {}


def main():
    if "--late" not in sys.argv:
        load()
    print("ready", flush=True)
    for line in sys.stdin:
        found = obey(line.split())
        truth = {name: sum(getattr(one, name) for one in truths) for name in COUNTS}
        for name in ("waits", "released"):
            truth[name] = sum(getattr(lock, name) for lock in locks)
        known = {"map": id(sessions), "unnamed": id(unnamed), "lock": ctypes.addressof(locks)}
        print(json.dumps({**found, **known, "truth": truth}), flush=True)


main()
