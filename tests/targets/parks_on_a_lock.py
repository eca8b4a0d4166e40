"""Parks threads on a lock that another thread holds, as stdin says; tells who and what they are.

Lines: ``park SECONDS`` (one waiter), ``burst THREADS SECONDS``, ``catch`` (handle SIGUSR1).
Answers are lines of JSON.
"""

import json
import os
import signal
import sys
import threading
import time


class Shop:
    """What the lock guards."""

    def __init__(self):
        self.guard = threading.Lock()
        self.orders = {"number": 4711}


SHOP = Shop()
CAUGHT = []


def hold(entered, seconds):
    """Has the lock and sleeps."""
    with SHOP.guard:
        entered.set()
        time.sleep(seconds)


def wait_for_it():
    """Waits for it, with the lock and what it guards in variables of its own."""
    guard = SHOP.guard
    order = SHOP.orders
    with guard:
        return order


def threads(count, seconds):
    """Start them; the facts, and what ends with them."""
    entered = threading.Event()
    holder = threading.Thread(target=hold, args=(entered, seconds), name="holder")
    holder.start()
    entered.wait()
    waiters = [threading.Thread(target=wait_for_it, name="waiter") for _ in range(count)]
    for waiter in waiters:
        waiter.start()
    facts = {
        "lock": id(SHOP.guard),
        "orders": id(SHOP.orders),
        "holder": holder.native_id,
        "waiters": [waiter.native_id for waiter in waiters],
    }
    return facts, [holder, *waiters]


def say(what):
    """One line."""
    print(json.dumps(what), flush=True)


def main():
    """Do as told until stdin ends."""
    threading.stack_size(256 * 1024)
    print("ready", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "catch":
            signal.signal(signal.SIGUSR1, lambda *what: CAUGHT.append(what))
            say({"pid": os.getpid()})
        elif word == "caught":
            say({"caught": len(CAUGHT)})
        else:
            count = int(rest[0]) if word == "burst" else 1
            facts, running = threads(count, float(rest[-1]))
            say(facts)
            for one in running:
                one.join()
            say({"over": True})


main()
