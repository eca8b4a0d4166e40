"""Many threads that do nothing for ever: ``python many_threads.py COUNT``."""

import sys
import threading

threading.stack_size(64 * 1024)
never = threading.Event()
for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=never.wait, daemon=True).start()
print("ready", flush=True)
never.wait()
