"""Plants structures that one object alone keeps, and says how many bytes each of them has.

usage: kept_objects.py TRUTH_FILE. The file is JSON: of each object its address, what a
program calls it, and the bytes (sys.getsizeof) of all that would go with it, or null.
"""

import gc
import json
import sys
import threading
import types

EACH = 40
SHARED_KINDS = (type, types.ModuleType, types.FunctionType, types.CodeType, type(None))


def fresh(text, number):
    """A str that nothing else refers to."""
    return "".join([text, "-", str(number)])


def large(number):
    """An int that nothing else refers to."""
    return 10**15 + number


class Item:
    def __init__(self, number, before):
        self.payload = [large(number), fresh("payload", number)]
        self.before = before


class Cache:
    registry = {}  # noqa: RUF012

    def __init__(self):
        self._items = {}
        last = None
        for number in range(EACH):
            last = self._items[fresh("item", number)] = Item(number, last)


class Node:
    __slots__ = ("following", "weight")

    def __init__(self, following, number):
        self.following = following
        self.weight = bytearray(number)


class Holder:
    def __init__(self, shared, number):
        self.shared = shared
        self.own = [large(number)]


class Request:
    def __init__(self):
        self.body = bytearray(50000)
        self.headers = {fresh("header", number): large(number) for number in range(20)}


def counter():
    state = [large(number) for number in range(10)]
    unused = [fresh("unused", 1)]

    def count():
        state.append(large(len(state)))
        return unused

    return count


def generated():
    kept_in_generator = [large(number) for number in range(10)]
    yield 1
    yield kept_in_generator


def handle(request, started, never):
    started.set()
    never.wait()
    return request


def chain(length):
    node = None
    for number in range(length):
        node = Node(node, number)
    return node


def going_with(start):
    """The bytes of all that `start` leads to, but for what the whole program shares."""
    seen, todo, total = {id(start)}, [start], 0
    while todo:
        one = todo.pop()
        total += sys.getsizeof(one)
        # The collector does not look at keys that are all str.
        for other in gc.get_referents(one) + (list(one) if type(one) is dict else []):
            if id(other) not in seen and not isinstance(other, SHARED_KINDS):
                seen.add(id(other))
                todo.append(other)
    return total


def lose_a_cycle():
    first, second = Holder(None, 1), Holder(None, 2)
    first.shared, second.shared = second, first
    return id(first)


gc.collect()
gc.disable()
CACHE = Cache()
Cache.registry[fresh("first", 1)] = [fresh("registered", 1)]
HEAD = chain(2000)
COMMON = [large(number) for number in range(EACH)]
HOLDERS = [Holder(COMMON[:], 1), Holder(None, 2)]
HOLDERS[1].shared = HOLDERS[0].shared
ASKED = Holder(None, 3)
vars(ASKED)
COUNTERS = {large(1): counter()}
GENERATORS = (generated(),)
next(GENERATORS[0])
LOST = lose_a_cycle()
STARTED, NEVER = threading.Event(), threading.Event()
thread = threading.Thread(target=handle, args=(Request(), STARTED, NEVER), name="worker")
thread.daemon = True
thread.start()
STARTED.wait()
(REQUEST,) = [one for one in gc.get_objects() if type(one) is Request]
ITEM = CACHE._items["item-7"]
STATE = COUNTERS[large(1)].__closure__[0].cell_contents
IN_GENERATOR = GENERATORS[0].gi_frame.f_locals["kept_in_generator"]
TRUTH = [
    (CACHE, "__main__.CACHE", going_with(CACHE)),
    (CACHE._items, "__main__.CACHE._items", going_with(CACHE._items)),
    (ITEM.payload, "__main__.CACHE._items['item-7'].payload", going_with(ITEM.payload)),
    (Cache.registry, "__main__.Cache.registry", going_with(Cache.registry)),
    (HEAD, "__main__.HEAD", going_with(HEAD)),
    (HEAD.following.following, "__main__.HEAD.following.following",
     going_with(HEAD.following.following)),
    (HOLDERS[0], "__main__.HOLDERS[0]", going_with(HOLDERS[0]) - going_with(HOLDERS[0].shared)),
    (HOLDERS[0].shared, "__main__.HOLDERS[0].shared", going_with(HOLDERS[0].shared)),
    (HOLDERS[1].own, "__main__.HOLDERS[1].own", going_with(HOLDERS[1].own)),
    (ASKED, "__main__.ASKED",
     sys.getsizeof(ASKED) + sys.getsizeof(vars(ASKED)) + going_with(ASKED.own)),
    (ASKED.own, "__main__.ASKED.own", going_with(ASKED.own)),
    (STATE, "__main__.counter.<locals>.count<closure state>", going_with(STATE)),
    (IN_GENERATOR, "__main__.GENERATORS[0]<variable kept_in_generator of generated>",
     going_with(IN_GENERATOR)),
    (REQUEST, "(thread worker) handle request", going_with(REQUEST)),
]  # fmt: skip
FACTS = {
    "objects": [
        {"address": id(one), "name": name, "retained": retained} for one, name, retained in TRUTH
    ],
    "garbage": LOST,
    "types": {
        "__main__.Cache": going_with(CACHE),
        "__main__.Node": going_with(HEAD),
        "__main__.Request": going_with(REQUEST),
    },
}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(FACTS, file)
del REQUEST, ITEM, STATE, IN_GENERATOR, TRUTH, FACTS, COMMON
print("ready", flush=True)
NEVER.wait()
