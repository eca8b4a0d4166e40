"""Threads of real libraries that hold one another up: ``convoys.py logging`` or ``requests PORT``.

Says "ready" once the first of them is where it stays.
"""

import logging
import os
import sys
import threading

import requests

LOCK = threading.Lock()
log = logging.getLogger("app")


def log_to_a_full_pipe():
    """A handler whose stream nobody reads: it keeps the handler's lock while it writes."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(write, True)
    log.addHandler(logging.StreamHandler(os.fdopen(write, "w")))
    log.setLevel(logging.INFO)
    log.propagate = False
    return read


def chatty(first):
    log.info("first" if first else "another")


def refresh(port, inside):
    """Ask a service that never answers, with the module's lock held."""
    with LOCK:
        inside.set()
        requests.get(f"http://127.0.0.1:{port}/", timeout=300)


def lookup():
    with LOCK:
        return 1


def main():
    inside = threading.Event()
    if sys.argv[1] == "logging":
        keep = log_to_a_full_pipe()
        first = threading.Thread(target=chatty, args=(True,), name="writer", daemon=True)
        first.start()
        others = [
            threading.Thread(target=chatty, args=(False,), name=f"logger-{n}", daemon=True)
            for n in range(3)
        ]
    else:
        keep = None
        first = threading.Thread(
            target=refresh, args=(int(sys.argv[2]), inside), name="refresher", daemon=True
        )
        first.start()
        inside.wait()
        others = [
            threading.Thread(target=lookup, name=f"lookup-{n}", daemon=True) for n in range(3)
        ]
    print("ready", flush=True)
    sys.stdin.readline()
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    return keep


if __name__ == "__main__":
    main()
