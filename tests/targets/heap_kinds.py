"""Builds some dozens of kinds of objects, then tells the truth about all of them.

usage: heap_kinds.py TRUTH_FILE [HOW_MANY_OF_EACH] [WRITER_THREADS]

A forked child, in which everything stands at the same addresses, writes of every object
that gc.get_objects() or gc.get_referents() lead to: its id, whether the collector tracks
it, sys.getsizeof(), and the ids of its referents; all as 64-bit words, in that order,
the referents after their number. Then "ready" is said, and the parent stands still.
"""
# mypy: ignore-errors
# ruff: noqa: ARG005, DTZ001, PYI024, RUF012, UP031  one of each kind, the way old Pythons write it

import array
import asyncio
import collections
import contextvars
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import itertools
import operator
import os
import queue
import re
import sys
import threading
import time
import types
import weakref
from xml.etree import ElementTree


class Plain:
    """Attributes in the instance's own values."""

    def __init__(self, number):
        self.number = [number]
        self.name = "name %d" % number

    def method(self):
        return self.number

    @property
    def shown(self):
        return self.name


class Many:
    """More attributes than a shared table of keys takes."""

    def __init__(self, number):
        for index in range(40):
            setattr(self, "attribute_%d" % index, [number] if index % 10 == 0 else index)


class Slots:
    __slots__ = ("left", "right", "unset")

    def __init__(self, number):
        self.left, self.right = [number], "right %d" % number


class SlotsAndDict(Slots):
    def __init__(self, number):
        super().__init__(number)
        self.extra = [number]


class WeakSlots:
    __slots__ = ("__weakref__", "value")

    def __init__(self, number):
        self.value = [number]


class OwnDict(dict):
    pass


class OwnList(list):
    pass


class OwnTuple(tuple):  # noqa: SLOT001 it is to have a dict
    pass


class OwnStr(str):  # noqa: SLOT000
    pass


class OwnInt(int):
    pass


class OwnSet(set):
    pass


class Meta(type):
    pass


class Colour(enum.Enum):
    RED = [1]
    GREEN = [2]


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Record:
    one: list
    two: str


class Trouble(ValueError):
    def __init__(self, number):
        super().__init__([number])
        self.number = [number]


def generator(number):
    kept = [number]
    yield kept
    yield number


async def coroutine(number):
    kept = [number]
    await asyncio.sleep(0)
    return kept


async def asynchronous_generator(number):
    kept = [number]
    yield kept


def closure(number):
    kept = [number]

    def inner(default=(number,), *, keyword=kept):
        return kept, default, keyword

    return inner


def started(number):
    one = generator(number)
    next(one)
    return one


def started_coroutine(number):
    one = coroutine(number)
    one.send(None)
    return one


def raised(number):
    try:
        try:
            raise Trouble(number)
        except Trouble as first:
            raise OSError(number, "text %d" % number, "file %d" % number) from first
    except OSError as error:
        return error


@functools.lru_cache(maxsize=500)
def cached(number):
    return [number]


@functools.lru_cache(maxsize=None)
def cached_without_end(number):
    return [number]


def with_dict(number):
    one = Plain(number)
    one.__dict__["more"] = [number]
    return one


def in_deque(number):
    return collections.deque([[number], number] * (number % 90), maxlen=None)


def ordered(number):
    one = collections.OrderedDict((str(at), [number]) for at in range(number % 12))
    one.move_to_end("0") if number % 12 else None
    return one


def deleted(number):
    one = {at: [at] for at in range(20)}
    for at in range(0, 20, 3):
        del one[at]
    one["text"] = number
    return one


def collected_set(number):
    one = {str(at) for at in range(number % 30)}
    one.discard("3")
    return one


def in_default(number):
    one = collections.defaultdict(list)
    one[number].append([number])
    return one


def a_class(number):
    return Meta("Made%d" % number, (Plain,), {"value": [number], "__slots__": ("slot",)})


def in_context(number):
    context = contextvars.copy_context()
    context.run(VARIABLE.set, [number])
    return context


def an_element(number):
    one = ElementTree.Element("tag", {"key": "value %d" % number})
    one.text, one.tail = "text %d" % number, None
    for _ in range(number % 7):
        ElementTree.SubElement(one, "child").append(ElementTree.Element("below"))
    return one


def a_queue(number):
    one = queue.SimpleQueue()
    for _ in range(number % 20 + 3):
        one.put([number])
    one.get()
    return one


VARIABLE = contextvars.ContextVar("variable")
ZONE = datetime.timezone(datetime.timedelta(hours=1))
KINDS = {
    "plain": Plain,
    "materialised dict": with_dict,
    "many attributes": Many,
    "slots": Slots,
    "slots and dict": SlotsAndDict,
    "slots with weakref": WeakSlots,
    "dict": lambda n: {"key %d" % n: [n], n: "value"},
    "dict with deletions": deleted,
    "dict subclass": lambda n: OwnDict({n: [n]}),
    "list": lambda n: [[n]] * (n % 20),
    "list subclass": lambda n: OwnList([[n]]),
    "tuple": lambda n: ([n], str(n)),
    "tuple subclass": lambda n: OwnTuple([[n]]),
    "named tuple": lambda n: Point([n], n),
    "set": collected_set,
    "set subclass": lambda n: OwnSet({n, str(n)}),
    "frozenset": lambda n: frozenset({n, (n,)}),
    "str subclass": lambda n: OwnStr("text %d" % n),
    "int subclass": lambda n: OwnInt(n + 1000),
    "str of one byte": lambda n: "caf\xe9 %d" % n,
    "str of two bytes": lambda n: "\u03b1 %d" % n,
    "str of four bytes": lambda n: "\U0001f600 %d" % n,
    "bytes": lambda n: b"bytes %d" % n,
    "bytearray": lambda n: bytearray(b"bytes %d" % n),
    "large int": lambda n: 1 << (n * 7 % 900),
    "float": lambda n: n * 0.5,
    "complex": lambda n: complex(n, 1),
    "function with closure": closure,
    "bound method": lambda n: Plain(n).method,
    "bound method of C": lambda n: [n].append,
    "partial": lambda n: functools.partial(closure, n, key=[n]),
    "property": lambda n: property(closure(n), doc="doc %d" % n),
    "static method": lambda n: staticmethod(closure(n)),
    "class method": lambda n: classmethod(closure(n)),
    "generator": generator,
    "started generator": started,
    "coroutine": started_coroutine,
    "async generator": asynchronous_generator,
    "exception": raised,
    "weak reference": lambda n: weakref.ref(KEPT[n % len(KEPT)], closure(n)),
    "weak proxy": lambda n: weakref.proxy(KEPT[n % len(KEPT)]),
    "ordered dict": ordered,
    "default dict": in_default,
    "deque": in_deque,
    "array": lambda n: array.array("d", [n] * (n % 50)),
    "memoryview": lambda n: memoryview(b"some %d" % n),
    "slice": lambda n: slice([n], n, None),
    "range": lambda n: range(n, n + 10),
    "iterators": lambda n: [iter([n]), iter({n: n}), iter((n,)), iter({n}), iter(str(n)), zip([n])],
    "itertools": lambda n: [itertools.chain([n]), itertools.cycle([n]), itertools.islice([n], 2)],
    "cached": cached,
    "cached without end": cached_without_end,
    "dataclass": lambda n: Record([n], "record %d" % n),
    "enum": lambda n: [Colour.RED, Colour.GREEN],
    "datetime": lambda n: datetime.datetime(2020, 1, 1, n % 24),
    "aware datetime": lambda n: datetime.datetime(2020, 1, 1, n % 24, tzinfo=ZONE),
    "time": lambda n: [datetime.time(n % 24), datetime.time(n % 24, tzinfo=ZONE)],
    "decimal": lambda n: decimal.Decimal(n) / 7,
    "fraction": lambda n: fractions.Fraction(n, 7),
    "match": lambda n: re.match("(.)(.*)", "text %d" % n),
    "module": lambda n: types.ModuleType("module_%d" % n),
    "namespace": lambda n: types.SimpleNamespace(one=[n], two=n),
    "mapping proxy": lambda n: types.MappingProxyType({n: [n]}),
    "class": a_class,
    "getters": lambda n: [operator.itemgetter(n, str(n)), operator.attrgetter("a%d.b" % n)],
    "generic alias": lambda n: list[int] if n % 2 else dict[str, int],
    "super": lambda n: super(SlotsAndDict, SlotsAndDict(n)),
    "code": lambda n: compile("def f(a): return a + %d" % n, "file_%d" % n, "exec"),
    "stat result": lambda n: os.stat("/"),
    "context": in_context,
    "xml element": an_element,
    "simple queue": a_queue,
    "lock": lambda n: [threading.Lock(), threading.RLock(), threading.local()],
}
FEW = {"class": 20, "code": 10, "simple queue": 6, "exception": 2}
FEW.update(dict.fromkeys(("module", "many attributes", "context"), 4))
"""Kinds that bring so many objects with them that fewer will do: divisors."""
KEPT = [Plain(number) for number in range(50)]


def truth(path, known):
    """In the child: write what the interpreter itself says of every object.

    What the child itself made (os.fork() calls hooks) is left out: its id is not known.
    """
    objects = [one for one in gc.get_objects() if id(one) in known and one is not known]
    seen = {id(objects), id(sys._getframe())}
    words = array.array("Q")
    with open(path, "wb") as stream:
        tracked, queue = True, objects
        while queue:
            found = []
            for one in queue:
                if id(one) in seen and not tracked:
                    continue
                seen.add(id(one))
                referents = [
                    other
                    for other in gc.get_referents(one)
                    if other is not seen and other is not known
                ]
                words.extend((id(one), tracked, sys.getsizeof(one), len(referents)))
                words.extend(id(other) for other in referents)
                if len(words) > 1 << 20:
                    words.tofile(stream)
                    del words[:]
                found.extend(referents)
            if tracked:
                seen.update(id(one) for one in objects)
            tracked, queue = False, [one for one in found if id(one) not in seen]
        words.tofile(stream)


def write(number, heap, stop):
    """A thread that changes the heap all the time."""
    while not stop.is_set():
        heap[number] = [Plain(at) for at in range(200)]
        heap[-1 - number] = {str(at): [at] for at in range(100)}


def main():
    path = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    writers = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    heap = {}
    for name, make in KINDS.items():
        heap[name] = [make(number) for number in range(max(1, count // FEW.get(name, 1)))]
    gc.collect()
    if path != "-":
        gc.disable()
        known = array.array("Q", map(id, gc.get_objects()))
        child = os.fork()
        if child == 0:
            truth(path, set(known))
            os._exit(0)
        os.waitpid(child, 0)
        gc.enable()
    stop = threading.Event()
    for number in range(writers):
        threading.Thread(target=write, args=(number, heap, stop), daemon=True).start()
    print("ready", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
