"""200 idle workers of one pool; SIGUSR1 makes one of them wait a second for a lock.

Says ``ready``, and after each such wait when it began and ended (CLOCK_MONOTONIC ns).
"""

import concurrent.futures
import signal
import threading
import time

WORKERS = 200
lock = threading.Lock()


def stall():
    start_ns = time.monotonic_ns()
    with lock:
        return f"{start_ns} {time.monotonic_ns()}"


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
all_there = threading.Barrier(WORKERS)
list(pool.map(lambda _: all_there.wait(), range(WORKERS)))
print("ready", flush=True)
while True:
    signal.sigwait({signal.SIGUSR1})
    with lock:
        stalled = pool.submit(stall)
        time.sleep(1.0)
    print(stalled.result(), flush=True)
