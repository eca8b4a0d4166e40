"""Waits of several kinds, for ever: a lock, a queue, a pipe, a loop of short sleeps."""

import os
import queue
import threading
import time


def nap():
    while True:
        time.sleep(0.05)


lock = threading.Lock()
lock.acquire()
read_end, write_end = os.pipe()
for wait in (lock.acquire, queue.Queue().get, lambda: os.read(read_end, 1), nap):
    threading.Thread(target=wait, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
