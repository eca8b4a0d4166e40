"""Things in containers of all kinds, a part of which is replaced by others each round.

usage: replacing.py FILE. Says "ready"; for each line on stdin some are replaced, a few
moved, and then FILE has a line for each thing: its address and a number that no other
thing ever has; then "done" is said.
"""
# mypy: ignore-errors

import random
import sys

COUNT = 2000
CHANCE = random.Random(1)
NUMBERS = iter(range(1 << 40))


class Thing:
    __slots__ = ("number", "payload")

    def __init__(self):
        self.number = next(NUMBERS)
        self.payload = (self.number, str(self.number))


class Plain:
    def __init__(self):
        self.number = next(NUMBERS)
        self.label = f"plain {self.number}"


class Holder:
    pass


def new():
    return Thing() if CHANCE.random() < 0.5 else Plain()


TABLE = {number: new() for number in range(COUNT)}
ROW = [new() for _ in range(COUNT)]
BAG = {new() for _ in range(COUNT)}
HOLDERS = [Holder() for _ in range(COUNT)]
for holder in HOLDERS:
    holder.thing = new()


def replace():
    for key in CHANCE.sample(list(TABLE), COUNT // 4):
        TABLE[key] = new()
    for place in CHANCE.sample(range(COUNT), COUNT // 4):
        ROW[place] = new()
    for thing in CHANCE.sample(sorted(BAG, key=id), COUNT // 4):
        BAG.remove(thing)
        del thing
        BAG.add(new())
    for holder in CHANCE.sample(HOLDERS, COUNT // 4):
        holder.thing = None
        holder.thing = new()
    for key in CHANCE.sample(list(TABLE), COUNT // 50):
        TABLE[key], ROW[key] = ROW[key], TABLE[key]


def tell(path):
    things = [*TABLE.values(), *ROW, *BAG, *(holder.thing for holder in HOLDERS)]
    with open(path, "w", encoding="ascii") as stream:
        stream.writelines(f"{id(thing)} {thing.number}\n" for thing in things)


print("ready", flush=True)
for _ in sys.stdin:
    replace()
    tell(sys.argv[1])
    print("done", flush=True)
