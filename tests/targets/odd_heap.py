"""A heap with what an export may stumble over, then "ready".

Rings of objects that nothing leads to but that lead to living ones; names with quotes,
line ends, control characters and half a surrogate pair; a name that is a formula.
"""
# mypy: ignore-errors

import gc
import time


class Node:
    pass


NAMES = ('"quoted",\n\\', "\udc80 half", "=1+1", "\x1b[31mred", "\u202e", "ordinary")
KEPT = [Node() for _ in range(50)]
gc.disable()


def ring(length):
    first = previous = Node()
    previous.kept = KEPT
    for number in range(length):
        node = Node()
        node.previous, previous.next = previous, node
        node.text = f"text {number}"
        previous = node
    previous.next = first


for number, node in enumerate(KEPT):
    node.items = [str(number), (number,), {number: node, "other": None}]
    for name in NAMES:
        setattr(node, name, [name])
for length in range(200):
    ring(length)
Odd = type(NAMES[0], (Node,), {"odd": Node()})
ODD = Odd()
globals()[NAMES[1]] = Node()
print("ready", flush=True)
while True:
    time.sleep(3600)
