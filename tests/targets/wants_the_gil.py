"""Three threads that compute in Python, so that two of them wait for the GIL at any time.

With the argument sub the same in two sub-interpreters with GILs of their own (3.12 on).
"""

import sys
import threading

COMPUTE = """
import threading
def compute():
    while True:
        pass
for _ in range(3):
    threading.Thread(target=compute, daemon=not INSIDE).start()
"""

if "sub" in sys.argv:
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    kept = [interpreters.create() for _ in range(2)]  # 3.12 ends one that nobody refers to
    for one in kept:
        code = COMPUTE.replace("INSIDE", "True")
        threading.Thread(target=interpreters.run_string, args=(one, code), daemon=True).start()
exec(COMPUTE.replace("INSIDE", "False"))
print("ready", flush=True)
threading.Event().wait()
