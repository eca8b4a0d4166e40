"""Threads that start and end all the time, and children that are started and waited for.

Says ``ready``; after each line on stdin one line of JSON: threads and children so far, and
what went wrong.
"""

import json
import subprocess
import sys
import threading

SAYS = ["/bin/sh", "-c", "echo $0; exit 7", "said"]
seen = {"threads": 0, "children": 0}
wrong = []


def start_threads():
    while True:
        group = [threading.Thread(target=sum, args=([1, 2],)) for _ in range(4)]
        for thread in group:
            thread.start()
        for thread in group:
            thread.join()
        seen["threads"] += len(group)


def start_children():
    while True:
        done = subprocess.run(SAYS, check=False, capture_output=True)
        if (done.returncode, done.stdout, done.stderr) != (7, b"said\n", b""):
            wrong.append(repr(done))
        seen["children"] += 1


for work in (start_threads, start_threads, start_children, start_children):
    threading.Thread(target=work, daemon=True).start()
print("ready")
for _ in sys.stdin:
    print(json.dumps(dict(seen, wrong=wrong)))
