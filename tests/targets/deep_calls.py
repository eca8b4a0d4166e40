"""Makes getppid calls from a given depth of Python calls, until its stdin ends.

One argument: the depth. Each call is of a function of its own, and all have been called
before. Says ``ready`` first.
"""

import os
import sys
import threading
from typing import Any

SOURCE = "def level{0}(inner, *more):\n    return inner(*more)\n"
WARM = 20


def innermost() -> None:
    while calling:
        os.getppid()
        if over.is_set():
            break


def functions(depth: int) -> list[Any]:
    """So many that call one another, from the outermost to ``innermost``."""
    names: dict[str, Any] = {}
    for level in range(depth - 1):
        exec(SOURCE.format(level), names)
    return [*[names[f"level{level}"] for level in range(depth - 1)], innermost]


def until_the_end() -> None:
    sys.stdin.read()
    over.set()


over = threading.Event()
threading.Thread(target=until_the_end, daemon=True).start()
outermost, *inner = functions(int(sys.argv[1]))
calling = False
for _ in range(WARM):
    outermost(*inner)
calling = True
print("ready", flush=True)
outermost(*inner)
