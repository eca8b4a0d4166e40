"""A program on ``concurrent_map.ConcurrentMap`` that does as it is told, and says what was true.

    map_convoy.py PATH          PATH: where the package concurrent_map lies, "" if installed

One command per line on stdin, one line of JSON each:

``convoy MS WAITERS``   a thread holds a key's shard, others want to store there
``ranges ROUNDS``       iterations of all modes while another thread writes
``mixed``               then numbers of seconds: the mixed load, as ``workload.py`` answers
``stats``               the map's own ``stats()``
"""

import contextlib
import json
import sys
import threading
import time

if sys.argv[1:] and sys.argv[1]:
    sys.path.insert(0, sys.argv[1])

from concurrent_map import ConcurrentMap, StaleIterationError

sessions = ConcurrentMap(name="sessions", shards=4)
others = ConcurrentMap(shards=1)
KEYS = 5_000


def convoy(milliseconds, waiters):
    """Holder and waiters, with the lines that they stand at."""
    held, waiting = threading.Event(), []
    found = {"waiters": waiting, "shard": sessions.shard_of("key")}

    def holder():
        found["holder"] = threading.get_native_id()
        with sessions.exclusive("key"):
            held.set()
            time.sleep(milliseconds / 1000)  # holds the shard

    def waiter():
        waiting.append(threading.get_native_id())
        held.wait()
        sessions.store("key", 1)  # waits for the shard

    threads = [threading.Thread(target=holder, name="holder")]
    threads += [threading.Thread(target=waiter, name=f"waiter-{n}") for n in range(waiters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def one_range(mode, n):
    """Complete, stopped by the callback, failed by it; stale when it is."""
    seen = []

    def callback(key, _value):
        seen.append(key)
        if n % 7 == 3 and len(seen) > 5:
            return False
        if n % 11 == 5 and len(seen) > 5:
            raise KeyError(key)
        return None

    with contextlib.suppress(StaleIterationError, KeyError):
        sessions.range(callback, mode)


def ranges(rounds):
    stop = threading.Event()

    def writer():
        n = 0
        while not stop.is_set():
            sessions.store(n % KEYS, n)
            sessions.load_and_delete((n * 7) % KEYS)
            n += 1

    thread = threading.Thread(target=writer, name="writer")
    thread.start()
    for n in range(rounds):
        one_range(("weak", "strict", "snapshot", "view")[n % 4], n)
        others.store(n, n)
        list(others.iterate("weak"))
        with sessions.read_view() as view:
            view.load(n)
    stop.set()
    thread.join()
    return {}


def mixed(seconds):
    """Loads, stores and now and then a range, on two threads; operations done."""
    for key in range(KEYS):
        sessions.store(key, key)
    end, done = time.monotonic() + seconds, [0, 0]
    began, began_cpu = time.monotonic_ns(), time.process_time_ns()

    def work(index):
        n = index
        while time.monotonic() < end:
            for _ in range(2000):
                n += 1
                key = (n * 2654435761) % KEYS
                if n % 10:
                    sessions.load(key)
                elif n % 20:
                    sessions.store(key, n)
                else:
                    sessions.load_and_delete(key)
            for _ in sessions.iterate("weak"):
                pass
            done[index] += 2000

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "work": sum(done),
        "wall_ns": time.monotonic_ns() - began,
        "cpu_ns": time.process_time_ns() - began_cpu,
    }


def obey(words):
    if words[0] == "convoy":
        return convoy(int(words[1]), int(words[2]))
    if words[0] == "ranges":
        return ranges(int(words[1]))
    if words[0] == "stats":
        return {"address": id(sessions), "stats": sessions.stats(), "others": others.stats()}
    return mixed(float(words[0]))


def main():
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(line.split())), flush=True)


main()
