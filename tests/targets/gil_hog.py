"""One thread keeps the GIL in a single C call for ever; the others want it.

Prints the hog's native id, then nobody but the hog runs.
"""

import threading
import time


def compute():
    print(threading.get_native_id(), flush=True)
    sum(range(10**15))


def want():
    while True:
        time.sleep(0.001)


for _ in range(3):
    threading.Thread(target=want, daemon=True).start()
time.sleep(0.1)
threading.Thread(target=compute, name="hog", daemon=True).start()
want()
