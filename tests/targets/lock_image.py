"""A few threads that wait, to be recorded: says what each waits for, then stays as it is.

One JSON object on stdout: {native id: [type, name, native id of the holder or null]}.
"""

import json
import threading
import time


class Pool:
    def __init__(self):
        self.lock = threading.Lock()


POOL = Pool()
STATE = threading.RLock()
READY = threading.Event()
forever = threading.Event()
truth = {}


def hold():
    with POOL.lock, STATE:
        there.set()
        forever.wait()


def wait_lock():
    with POOL.lock:
        raise AssertionError


def wait_state():
    with STATE:
        raise AssertionError


there = threading.Event()
holder = threading.Thread(target=hold, name="holder", daemon=True)
holder.start()
there.wait()
for function, kind, name, tid in (
    (wait_lock, "Lock", "__main__.POOL.lock", holder.native_id),
    (wait_state, "RLock", "__main__.STATE", holder.native_id),
    (READY.wait, "Event", "__main__.READY", None),
    (holder.join, "Thread", "holder", holder.native_id),
):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    truth[thread.native_id] = kind, name, tid
time.sleep(0.5)  # so that each has come to its wait
print(json.dumps(truth), flush=True)
forever.wait()
