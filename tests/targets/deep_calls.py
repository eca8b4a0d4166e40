"""Makes getppid calls from a given depth of Python calls, until its stdin ends.

One argument: the depth. Says ``ready`` first.
"""

import os
import sys
import threading


def at_depth(depth: int) -> None:
    if depth > 1:
        return at_depth(depth - 1)
    while not over.is_set():
        os.getppid()
    return None


def until_the_end() -> None:
    sys.stdin.read()
    over.set()


over = threading.Event()
threading.Thread(target=until_the_end, daemon=True).start()
print("ready", flush=True)
at_depth(int(sys.argv[1]))
