"""Two interpreters more, each with a class and objects of its own; says "ready", stands still."""

import threading

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

CODE = """
import threading
class OnlyIn{number}:
    def __init__(self, number):
        self.number = [number]
kept = [OnlyIn{number}(at) for at in range(100)]
"""
KEPT = [interpreters.create() for _ in range(2)]
for number, one in enumerate(KEPT):
    if hasattr(interpreters, "exec"):
        interpreters.exec(one, CODE.format(number=number))
    else:
        interpreters.run_string(one, CODE.format(number=number))
print("ready", flush=True)
while True:
    threading.Event().wait(3600)
