"""What a person would call an object: where it lives, searched within bounds.

In this order: a global of a module of one of the frames, then of any module
(``app.cache._lock``); an attribute or item of an object in such a global, two steps deep
(``app.POOL._lock``); the same of an object that a frame works on (``Worker.queue.mutex``);
of objects in the globals of all modules; a local variable. A search is done in slices, so
that it holds up nobody, and gives up after ``MAX_VISITED`` objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NamedTuple, TypeVar

from collector.context import NameFound
from probes.errors import MemoryReadError
from tracer.pymem.frames import Glance
from tracer.pymem.graph import Contents, GraphReader
from tracer.pymem.layout import Layout
from tracer.pymem.locks.slots import SlotReader, Slots
from tracer.pymem.locks.waits import LIBRARY
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader, word
from tracer.pymem.runtime import RuntimeReader

MAX_VISITED = 20_000
"""Objects that a search for one name looks into at most."""
SLICE_NS = 3_000_000
"""How long one slice of a search lasts, about."""
_BATCH = 256
_BESIDE = 8  # modules that the frames' modules refer to, which count as near
_DEEP = 2
_MAX_FOLLOWED = 256  # of the values of one object, on the way to the next step
_MAX_KNOWN = 1024
_MAX_OPEN = 64
_MAX_FRAMES = 512
_AGAIN_NS = 10_000_000_000  # after so long a search that found nothing is made again
_DETOURS = frozenset({"._args", "._kwargs"})  # what a Thread was given is no place to live
_LONGEST_KEY = 64  # characters
_NOWHERE = 1  # no object has this address
_WORD = 8

T = TypeVar("T")
Places = tuple[tuple[int, int], ...]


class _Step(NamedTuple):
    """An attribute (``.``) or item (``=``) by the address of its key, an item (``#``) by index."""

    kind: str
    value: int


@dataclass(frozen=True, slots=True)
class _Root:
    """An object to search from: what to call it, and the words that lead to it.

    ``steps``: from what ``name`` is the name of; they are given words when one is wanted.
    """

    name: str
    address: int
    places: Places
    steps: tuple[_Step, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """A name that was found. It holds while every word of ``places`` has its value."""

    name: str
    places: Places


@dataclass(slots=True)
class _Search:
    """A search that goes on: ``steps`` gives None after each batch, at last what it found."""

    steps: Iterator[_Known | None]
    visited: list[int] = field(default_factory=lambda: [0])


class NameSearch:
    """Names of objects of one target. Raises nothing for what cannot be read."""

    def __init__(
        self,
        memory: MemoryReader,
        layout: Layout,
        objects: ObjectReader,
        runtime: RuntimeReader,
        slots: SlotReader,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._memory = memory
        self._layout = layout
        self._objects = objects
        self._runtime = runtime
        self._slots = slots
        self._graph = GraphReader(memory, layout, objects)
        self._now_ns = now_ns
        self._known: dict[int, _Known] = {}
        self._open: dict[int, _Search] = {}
        self._failed: dict[int, int] = {}

    def known(self, address: int) -> str | None:
        """The name that was found earlier, if the way to the object is still the same."""
        found = self._known.get(address)
        if found is None:
            return None
        raws = self._memory.read_many([(at, _WORD) for at, _ in found.places])
        if all(
            raw is not None and word(raw, 0) & self._slots.mask == value & self._slots.mask
            for raw, (_, value) in zip(raws, found.places, strict=True)
        ):
            return found.name
        del self._known[address]
        return None

    def begin(self, address: int, stacks: Sequence[Glance], interpreter: int) -> None:
        """Begin a search for an object's name; nothing is read before ``resume``.

        ``stacks``: where to look for it, the best first.
        """
        if address in self._open or self._failed.get(address, 0) > self._now_ns():
            return
        if len(self._open) >= _MAX_OPEN:
            self._open.pop(next(iter(self._open)))
        search = _Search(iter(()))
        search.steps = self._steps(address, stacks, interpreter, search.visited)
        self._open[address] = search
        self._graph.forget()

    def warm_up(self, stacks: Sequence[Glance], interpreter: int) -> None:
        """Meet what every search meets, for the time of a slice, so that the first is as quick."""
        end_ns = self._now_ns() + SLICE_NS
        for _ in self._steps(_NOWHERE, stacks, interpreter, [0]):
            if self._now_ns() >= end_ns:
                return

    def resume(self, address: int, slice_ns: int = SLICE_NS) -> NameFound:
        """A slice of a search that was begun; it lasts about ``slice_ns``."""
        search = self._open.get(address)
        if search is None:
            return NameFound(self.known(address), done=True)
        end_ns = self._now_ns() + slice_ns
        for found in search.steps:
            if found is not None:
                del self._open[address]
                _bounded(self._known)[address] = found
                return NameFound(self.known(address), done=True)
            if self._now_ns() >= end_ns:
                return NameFound(None, done=False)
        del self._open[address]
        _bounded(self._failed)[address] = self._now_ns() + _AGAIN_NS
        return NameFound(None, done=True)

    def _steps(
        self, target: int, stacks: Sequence[Glance], interpreter: int, visited: list[int]
    ) -> Iterator[_Known | None]:
        """All places in turn; ends after a name, or when there is nothing left to look at."""
        frames = _namespaces(stacks)
        near = list(frames.items())
        yield from self._globals(target, near)
        every = self._modules(interpreter, near)
        yield from self._globals(target, every)
        own = [one for one in near if one[1] not in LIBRARY]
        yield from self._deeper(target, self._roots([*own, *every[:_BESIDE]]), visited)
        slots = self._frames(stacks)
        yield from self._deeper(target, self._worked_on(slots), visited)
        yield from self._deeper(target, self._roots(every), visited)
        local = self._local(target, slots)
        if local is not None:
            yield local

    def _globals(
        self, target: int, namespaces: Sequence[tuple[int, str]]
    ) -> Iterator[_Known | None]:
        """The target as a global of one of these modules."""
        for batch in _batches(namespaces, _BATCH // 4):
            tables = self._graph.dicts([at for at, _ in batch])
            for (_, module), contents in zip(batch, tables, strict=True):
                if contents is not None and target in contents.values:
                    index = contents.values.index(target)
                    name = self._key(contents, index)
                    if name is not None:
                        yield _Known(f"{module}.{name}", ((contents.place(index), target),))
                        return
            yield None

    def _roots(self, namespaces: Sequence[tuple[int, str]]) -> Iterator[_Root | None]:
        """What the globals of these modules hold; None now and then, for a pause."""
        for batch in _batches(namespaces, _BATCH // 4):
            tables = self._graph.dicts([at for at, _ in batch])
            for (_, module), contents in zip(batch, tables, strict=True):
                for index, value in enumerate(contents.values if contents else ()):
                    if contents is not None and value:
                        yield _Root(
                            module,
                            value,
                            ((contents.place(index), value),),
                            (_Step(".", contents.keys[index]),),
                        )
            yield None

    def _deeper(
        self, target: int, roots: Iterable[_Root | None], visited: list[int]
    ) -> Iterator[_Known | None]:
        """The target in what these objects refer to, one step away, then two."""
        seen: set[int] = set()
        level: Iterable[_Root | None] = roots
        for depth in range(_DEEP):
            following: list[_Root | None] = []
            for batch in _batches(level, _BATCH):
                real = [one for one in batch if one is not None and one.address not in seen]
                seen.update(one.address for one in real)
                if visited[0] > MAX_VISITED:
                    return
                visited[0] += len(real)
                found = self._step(target, real, following if depth + 1 < _DEEP else None)
                yield found
                if found is not None:
                    return
            level = following

    def _step(
        self, target: int, roots: Sequence[_Root], following: list[_Root | None] | None
    ) -> _Known | None:
        for root, contents in zip(
            roots, self._graph.contents([one.address for one in roots]), strict=True
        ):
            if contents is None:
                continue
            if target in contents.values:
                index = contents.values.index(target)
                name = self._path(root, _step_of(contents, index))
                if name is not None:
                    return _Known(name, (*root.places, (contents.place(index), target)))
            if following is None or len(following) >= MAX_VISITED:
                continue
            for index, value in enumerate(contents.values[:_MAX_FOLLOWED]):
                if value:
                    places = (*root.places, (contents.place(index), value))
                    steps = (*root.steps, _step_of(contents, index))
                    following.append(_Root(root.name, value, places, steps))
        return None

    def _path(self, root: _Root, last: _Step) -> str | None:
        """A readable name from an object to search from and the last step."""
        name = root.name
        for step in (*root.steps, last):
            text = self._text_of(step)
            if text is None or text in _DETOURS:
                return None
            name += text
        return name

    def _text_of(self, step: _Step) -> str | None:
        """``.name`` or ``[key]``."""
        if step.kind == "#":
            return f"[{step.value}]"
        try:
            text = self._objects.text(step.value)
        except MemoryReadError:
            return self._number_of(step) if step.kind == "=" else None
        if step.kind == ".":
            return f".{text}"
        return f"[{text!r}]" if len(text) <= _LONGEST_KEY else None

    def _number_of(self, step: _Step) -> str | None:
        try:
            return f"[{self._objects.integer(step.value)}]"
        except MemoryReadError:
            return None

    def _key(self, contents: Contents, index: int) -> str | None:
        try:
            return self._objects.text(contents.keys[index])
        except (MemoryReadError, IndexError):
            return None

    def _modules(self, interpreter: int, near: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Namespace and name of all other modules, those first that the near ones refer to."""
        try:
            (table,) = self._graph.dicts([self._runtime.modules(interpreter)])
        except MemoryReadError:
            return []
        if table is None:
            return []
        at = self._layout["PyModuleObject.md_dict"]
        names = self._objects.texts(table.keys)
        spaces = self._memory.read_many([(module + at, _WORD) for module in table.values])
        beside = {
            value
            for one in self._graph.dicts([at for at, _ in near])
            if one
            for value in one.values
        }
        passed = {at for at, _ in near}
        found = [
            (module not in beside, word(space, 0), name)
            for module, space, name in zip(table.values, spaces, names, strict=True)
            if space is not None and name and word(space, 0) not in passed
        ]
        return [(at, name) for _, at, name in sorted(found, key=itemgetter(0))]

    def _frames(self, stacks: Sequence[Glance]) -> list[Slots]:
        """Slots of the frames of code that is not the library's, the best first."""
        calls = (
            call for stack in stacks for call in stack.calls() if call.frame.module not in LIBRARY
        )
        return [one for one in self._slots.read(islice(calls, _MAX_FRAMES)) if one is not None]

    def _worked_on(self, frames: Sequence[Slots]) -> Iterator[_Root | None]:
        """The objects in variables of frames by the names of their classes, ``self`` first."""
        for arguments in (True, False):
            for slots in frames:
                for index, value in self._variables(slots):
                    if (index == 0 and slots.details.arguments > 0) is not arguments:
                        continue
                    kind = self._instance_of(value)
                    if kind is not None:
                        name, place = kind
                        yield _Root(name, value, (place,))
        yield None

    def _variables(self, slots: Slots) -> Iterator[tuple[int, int]]:
        """Index and value of the variables that are bound."""
        for index, is_cell in enumerate(slots.details.cells):
            value = slots.words[index]
            if value and is_cell:
                value = self._slots.content(value)
            if value:
                yield index, value

    def _instance_of(self, address: int) -> tuple[str, tuple[int, int]] | None:
        """Name of an object's class (of a class, its own), and the word that says its type."""
        try:
            kind = self._objects.type_of(address)
            place = address + self._layout["PyObject.ob_type"], kind.address
            if kind.flags & _TYPE:
                kind = self._objects.type_info(address)
        except MemoryReadError:
            return None
        return None if kind.static else (kind.name.rpartition(".")[2], place)

    def _local(self, target: int, frames: Sequence[Slots]) -> _Known | None:
        """The target as a variable of a frame."""
        first = self._layout["_PyInterpreterFrame.localsplus"]
        for slots in frames:
            for index, value in self._variables(slots):
                if value == target:
                    code = slots.call.code
                    file = code.file.rpartition("/")[2]
                    name = slots.details.variables[index]
                    place = slots.address + first + index * _WORD, slots.words[index]
                    return _Known(
                        f'local "{name}" of {code.name} ({file}:{code.first_line})', (place,)
                    )
        return None


_TYPE = 1 << 31  # Py_TPFLAGS_TYPE_SUBCLASS


def _step_of(contents: Contents, index: int) -> _Step:
    if index >= len(contents.keys):
        return _Step("#", index)
    return _Step("." if contents.attributes else "=", contents.keys[index])


def _namespaces(stacks: Sequence[Glance]) -> dict[int, str]:
    """Namespace and name of the modules of all frames, in the order of the stacks."""
    found: dict[int, str] = {}
    for stack in stacks:
        for raw, place in stack.standing():
            if place.frame.module is not None:
                found.setdefault(raw.namespace, place.frame.module)
    return found


def _bounded(cache: dict[int, T]) -> dict[int, T]:
    """The cache, emptied when it has grown too large."""
    if len(cache) >= _MAX_KNOWN:
        cache.clear()
    return cache


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
