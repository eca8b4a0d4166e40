"""Threads whose stacks never hold still: odd and even call each other, up and down."""

import threading


def odd(depth):
    return even(depth - 1) if depth else 0


def even(depth):
    return odd(depth - 1) if depth else 0


def climb(depth):
    while True:
        odd(depth % 40)
        depth += 1


for number in range(3):
    threading.Thread(target=climb, args=(number,), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
