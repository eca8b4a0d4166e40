"""A known number of parks of known lengths, each in the log: see examples/scenarios/truth_log.py.

Rounds in which the main thread sleeps with a lock and a waiter waits for it, while nobody
computes. Then it waits for a line on stdin, and ends.
"""

import sys
import threading
import time

from truth_log import Log

ROUNDS = 3
HELD_S = 0.3
SHORT_S = 0.02


def wait_for(log, lock):
    """Take the lock, which somebody has."""
    with log.wait("lock", "the lock"):
        lock.acquire()
    lock.release()


def a_round(log, lock):
    """One long sleep, one long wait for the lock, and a short one of both."""
    for length in (HELD_S, SHORT_S):
        with lock:
            waiter = threading.Thread(target=wait_for, args=(log, lock), name="waiter-7")
            waiter.start()
            with log.wait("sleep", "holding"):
                time.sleep(length)
        waiter.join()


def main():
    """Wait for the word, do the rounds, wait for the word again."""
    log, lock = Log(sys.argv[1]), threading.Lock()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(ROUNDS):
        a_round(log, lock)
    print("done", flush=True)
    sys.stdin.readline()


main()
