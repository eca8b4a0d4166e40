"""Threads that take a few locks in every way there is, and log who has which.

    python lock_storm.py LOG SEED

LOG is a file that is mapped and written, ``ENTRY`` after ``ENTRY``: time (monotonic, ns),
address of the lock object, native id of the thread that has it, 0 for nobody. An entry is
written by the one who has the lock: after it was taken, and before it is let go. So a thread
has a lock at most from the entry before its own to the entry after. Says ``ready``; ends
when the log is full.
"""

import asyncio
import contextlib
import itertools
import mmap
import os
import random
import struct
import sys
import threading
import time

SLOTS, THREADS = 6, 14
ENTRY = struct.Struct("<QQQ")
ENTRIES = 2_000_000


class Log:
    """The mapped file."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            file.truncate(ENTRIES * ENTRY.size)
            self.memory = mmap.mmap(file.fileno(), ENTRIES * ENTRY.size)
        self.numbers = itertools.count()

    def put(self, lock, tid):
        number = next(self.numbers)
        if number >= ENTRIES:
            os._exit(0)
        ENTRY.pack_into(self.memory, number * ENTRY.size, time.monotonic_ns(), id(lock), tid)

    def taken(self, lock):
        self.put(lock, threading.get_native_id())

    def free(self, lock):
        self.put(lock, 0)


class Storm:
    """One method for each way to take a lock; each lets go of it before it returns."""

    def __init__(self, log, seed):
        self.log = log
        self.chance = random.Random(seed)
        self.locks = [threading.Lock() for _ in range(SLOTS)]

    def work(self):
        """Hold the lock for no time, a little, or long enough to be seen."""
        kind = self.chance.random()
        if kind < 0.3:
            time.sleep(self.chance.random() * 0.004)
        elif kind < 0.6:
            sum(range(self.chance.randrange(2000)))

    @contextlib.contextmanager
    def logged(self, lock):
        self.log.taken(lock)
        try:
            self.work()
            yield
        finally:
            self.log.free(lock)

    def plain(self, _slot, lock):
        with lock:
            self.log.taken(lock)
            self.work()
            self.log.free(lock)

    def acquired(self, _slot, lock):
        lock.acquire()
        with self.logged(lock):
            self.work()
        lock.release()

    def with_a_limit(self, _slot, lock):
        if lock.acquire(timeout=0.002):
            with self.logged(lock):
                pass
            lock.release()

    def recursive(self, slot, lock, others=None):
        """The same function again and again, one lock each: in the order of the slots."""
        if others is None:
            others = list(enumerate(self.locks))[slot + 1 :][:2]
        with lock:
            self.log.taken(lock)
            self.work()
            if others:
                (following, other), *rest = others
                self.recursive(following, other, rest)
            self.log.free(lock)

    def in_turn(self, _slot, lock):
        """One frame and one place on its stack for several locks."""
        for one in (*self.locks, lock):
            with one:
                self.log.taken(one)
                self.work()
                self.log.free(one)

    def raising(self, _slot, lock):
        with contextlib.suppress(ValueError), lock:
            self.log.taken(lock)
            try:
                self.work()
                raise KeyError
            except KeyError as error:
                self.work()
                self.log.free(lock)
                raise ValueError from error
        self.work()

    def finally_inside(self, _slot, lock):
        with lock:
            try:
                self.log.taken(lock)
                self.work()
            finally:
                self.work()
                self.log.free(lock)

    def generator(self, _slot, lock):
        def hold():
            with lock:
                self.log.taken(lock)
                yield
                self.log.free(lock)

        for _ in hold():
            self.work()

    def stacked(self, _slot, lock):
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock)
            stack.enter_context(self.logged(lock))
            self.work()

    def let_go_inside(self, _slot, lock):
        with lock:
            self.log.taken(lock)
            self.work()
            self.log.free(lock)
            lock.release()
            self.work()
            lock.acquire()
            self.log.taken(lock)
            self.log.free(lock)

    def waits_inside(self, _slot, lock):
        condition = threading.Condition(lock)
        with condition:
            self.log.taken(lock)
            self.log.free(lock)
            condition.wait(0.001)
            self.log.taken(lock)
            self.work()
            self.log.free(lock)

    def two_at_once(self, _slot, lock):
        other = self.locks[-1]
        if lock is other:
            return
        with lock, other:
            self.log.taken(lock)
            self.log.taken(other)
            self.work()
            self.log.free(other)
            self.log.free(lock)

    def handed_on(self, _slot, lock):
        """Taken here, let go by another thread."""
        lock.acquire()
        self.log.taken(lock)

        def let_go():
            self.work()
            self.log.free(lock)
            lock.release()

        thread = threading.Thread(target=let_go)
        thread.start()
        thread.join()

    def in_a_coroutine(self, _slot, lock):
        async def hold():
            with lock:
                self.log.taken(lock)
                self.work()
                self.log.free(lock)

        asyncio.run(hold())

    def new_one(self, slot, lock):
        """A new lock object, as a rule where one has just been freed."""
        with lock:
            self.log.taken(lock)
            if self.locks[slot] is lock:
                self.locks[slot] = threading.Lock()
            self.log.free(lock)

    def go_on(self, number):
        ways = (
            self.plain, self.plain, self.acquired, self.with_a_limit, self.recursive, self.in_turn,
            self.raising, self.finally_inside, self.generator, self.stacked, self.let_go_inside,
            self.waits_inside, self.two_at_once, self.handed_on,
        )  # fmt: skip
        rare = (self.in_a_coroutine,)
        chance = random.Random(number)
        while True:
            slot = min(chance.randrange(SLOTS), chance.randrange(SLOTS))
            way = chance.choice(rare if chance.random() < 0.002 else ways)
            way(slot, self.locks[slot])


def brief(storm):
    """Two threads on a lock that is freed at once, over and over: its address comes again."""
    while True:
        lock = threading.Lock()

        def hold(lock=lock):
            storm.plain(None, lock)

        threads = [threading.Thread(target=hold) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del lock, hold, threads


def main():
    storm = Storm(Log(sys.argv[1]), int(sys.argv[2]))
    for number in range(THREADS):
        threading.Thread(target=storm.go_on, args=(number,), daemon=True).start()
    threading.Thread(target=brief, args=(storm,), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


main()
