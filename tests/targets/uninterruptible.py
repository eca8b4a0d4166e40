"""One thread in an uninterruptible sleep, as a parent is after vfork(2); others go on.

It says ``ready``, and after each line on stdin how many rounds its loop has made.
"""

import ctypes
import sys
import threading

CLONE_VM, CLONE_VFORK, SIGCHLD = 0x100, 0x4000, 17
libc = ctypes.CDLL(None)
stack = ctypes.create_string_buffer(1 << 18)
rounds = [0]


def wait_for_child():
    """Shares memory with a child that sleeps; the kernel lets nobody interrupt that."""
    top = (ctypes.addressof(stack) + len(stack)) & ~0xFFF
    libc.clone(
        ctypes.cast(libc.sleep, ctypes.c_void_p),
        ctypes.c_void_p(top),
        CLONE_VM | CLONE_VFORK | SIGCHLD,
        ctypes.c_void_p(60),
    )


def count():
    while True:
        rounds[0] += 1


threading.Thread(target=wait_for_child, daemon=True).start()
threading.Thread(target=count, daemon=True).start()
print("ready")
for _ in sys.stdin:
    print(rounds[0])
