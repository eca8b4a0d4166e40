"""Which objects are locks, queues, threads: their types, found once for each interpreter.

A type is believed for the place where its module keeps it and, of C types, for its name
and size; an object is believed to be what its type pointer says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.errors import MemoryReadError
from tracer.pymem.layout import Layout, LockForm
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader, word
from tracer.pymem.runtime import RuntimeReader, retry

CLASSES = (
    ("threading", "Condition"),
    ("threading", "Event"),
    ("threading", "Semaphore"),
    ("threading", "Barrier"),
    ("threading", "Thread"),
    ("queue", "Queue"),
    ("concurrent.futures._base", "Future"),
)
"""Python classes that are known: module, name. Their subclasses are known with them."""

_WORD = 8


@dataclass(frozen=True, slots=True)
class LockState:
    """A C object that threads wait in, at one moment.

    ``held``: None where the object does not say. ``owner``: the ident of a recursive lock's
    holder, 0 when nobody holds it. ``check``: what must be unchanged for it to be the same
    lock in the same hands.
    """

    address: int
    form: LockForm
    wait_address: int
    held: bool | None
    owner: int

    @property
    def kind(self) -> str:
        """``Lock``, ``RLock``, ``Queue`` (of C) or ``Thread`` (a handle)."""
        return self.form.kind


class Kinds:
    """The types that matter here, of every interpreter of one target."""

    def __init__(
        self, memory: MemoryReader, layout: Layout, objects: ObjectReader, runtime: RuntimeReader
    ) -> None:
        self._memory = memory
        self._layout = layout
        self._objects = objects
        self._runtime = runtime
        self._at_type = layout["PyObject.ob_type"]
        self._forms: dict[int, LockForm] = {}
        self._classes: dict[int, tuple[str, str]] = {}
        self._seen: dict[int, set[str]] = {}

    def refresh(self, interpreter: int) -> None:
        """Find the types of an interpreter's modules that were imported since the last time."""
        seen = self._seen.setdefault(interpreter, set())
        wanted = {form.found_as[0] for form in self._layout.locks} | {name for name, _ in CLASSES}
        missing = tuple(sorted(wanted - seen))
        if not missing:
            return
        try:
            found = retry(lambda: self._modules(interpreter, missing))
        except MemoryReadError:
            return
        for name, namespace in found.items():
            try:
                self._take(name, namespace)
            except MemoryReadError:
                continue  # being imported; looked at again the next time
            seen.add(name)

    def _modules(self, interpreter: int, names: tuple[str, ...]) -> dict[str, int]:
        """Address of the namespace of each of these modules that is imported."""
        table = self._runtime.modules(interpreter)
        if not table:
            return {}
        modules = self._objects.lookup(table, names)
        at = self._layout["PyModuleObject.md_dict"]
        pairs = zip(names, modules, strict=True)
        return {name: self._objects.pointer(module + at) for name, module in pairs if module}

    def _take(self, module: str, namespace: int) -> None:
        forms = [form for form in self._layout.locks if form.found_as[0] == module]
        attributes = tuple(dict.fromkeys(form.found_as[1] for form in forms))
        for attribute, address in zip(
            attributes, self._objects.lookup(namespace, attributes), strict=True
        ):
            info = self._objects.type_info(address)
            for form in forms:
                fits = (info.name, info.basicsize) == (form.type, form.size)
                if form.found_as[1] == attribute and fits:
                    self._forms[address] = form
        names = tuple(name for home, name in CLASSES if home == module)
        for name, address in zip(names, self._objects.lookup(namespace, names), strict=True):
            if address and self._objects.type_info(address).name == name:
                self._classes[address] = (module, name)

    def class_of(self, address: int) -> tuple[str, str] | None:
        """Which of ``CLASSES`` an object is an instance of. Raises MemoryReadError."""
        kind = self._objects.pointer(address + self._at_type)
        return self._classes.get(self._objects.is_kind_of(kind, frozenset(self._classes)))

    def instances(self, addresses: Sequence[int], wanted: tuple[str, str]) -> list[int]:
        """Those objects that are instances of one of ``CLASSES``."""
        raws = self._memory.read_many([(at + self._at_type, _WORD) for at in addresses])
        types = [word(raw or b"", 0) for raw in raws]
        fits = {kind: self._is_class(kind, wanted) for kind in set(types)}
        return [at for at, kind in zip(addresses, types, strict=True) if fits[kind]]

    def _is_class(self, kind: int, wanted: tuple[str, str]) -> bool:
        try:
            found = self._objects.is_kind_of(kind, frozenset(self._classes))
        except MemoryReadError:
            return False
        return self._classes.get(found) == wanted

    def forms(self) -> Mapping[int, LockForm]:
        """The lock types, by address."""
        return self._forms

    def locks(self, addresses: Sequence[int], inherited: bool = False) -> dict[int, LockState]:
        """Those of some objects that are locks of C, as they are now.

        ``inherited``: instances of classes that inherit from such a type count too.
        """
        heads = self._objects.heads(addresses)
        found: dict[int, tuple[LockForm, bytes, int]] = {}
        for address, head in zip(addresses, heads, strict=True):
            if head is None:
                continue
            form = self._form(word(head, self._at_type), inherited)
            if form is None:
                continue
            base = address if form.pointer is None else word(head, form.pointer)
            found[address] = (form, head, base + form.at)
        states = self._memory.read_many([(at, _WORD) for _, _, at in found.values()])
        return {
            address: _state(address, form, head, at, raw)
            for (address, (form, head, at)), raw in zip(found.items(), states, strict=True)
            if raw is not None or form.state == "unknown"
        }

    def _form(self, kind: int, inherited: bool) -> LockForm | None:
        form = self._forms.get(kind)
        if form is None and inherited and kind:
            try:
                return self._forms.get(self._objects.is_kind_of(kind, frozenset(self._forms)))
            except MemoryReadError:
                return None
        return form


def _state(address: int, form: LockForm, head: bytes, at: int, raw: bytes | None) -> LockState:
    held: bool | None = None
    if raw is not None and form.state == "semaphore":
        held = raw[:4] == bytes(4)  # new_sem.data: the value is the low half (glibc)
    elif raw is not None and form.state == "mutex":
        held = bool(raw[0] & 1)  # _Py_LOCKED, Include/internal/pycore_lock.h
    owner = 0 if form.owner is None else word(head, form.owner)
    if form.count is not None and not word(head, form.count):
        owner = 0
    return LockState(address, form, at, held, owner)
