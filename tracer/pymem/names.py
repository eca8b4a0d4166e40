"""Thread names: ``threading._active`` of each interpreter, {ident: Thread}.

``_active`` is one dict for an interpreter's whole life (Lib/threading.py), so
its address is found once, through ``sys.modules``. A Thread object remembered from
earlier is believed while its ``_ident`` and ``_native_id`` are the thread's (idents
alone are used again by later threads); one just found in ``_active`` by its ident
needs only that, because a fork leaves the parent's ``_native_id`` in the child.
"""

from __future__ import annotations

from collections.abc import Iterable

from probes.errors import ImplausibleMemory, MemoryReadError
from tracer.pymem.attributes import AttributeReader
from tracer.pymem.layout import Layout
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import MAX_ENTRIES, ObjectReader
from tracer.pymem.runtime import RuntimeReader, ThreadState, retry

_ATTRIBUTES = ("_name", "_ident", "_native_id")
_NOTHING = [0, 0, 0]


class NameReader:
    """Names of one target's threads. Unreadable ones are None, nothing is raised for them."""

    def __init__(
        self, memory: MemoryReader, layout: Layout, objects: ObjectReader, runtime: RuntimeReader
    ) -> None:
        self._objects = objects
        self._attributes = AttributeReader(memory, layout, objects)
        self._runtime = runtime
        self._module_dict = layout["PyModuleObject.md_dict"]
        self._active: dict[int, int] = {}
        self._thread_objects: dict[tuple[int, int], int] = {}

    def all_names(self, states: Iterable[ThreadState]) -> dict[tuple[int, int], str]:
        """Names by (interpreter address, ident) of all threads of those interpreters."""
        for interpreter in {state.interpreter for state in states}:
            self._refresh(interpreter)
        keys = list(self._thread_objects)
        threads = [self._thread_objects[key] for key in keys]
        rows = [row or _NOTHING for row in self._attributes.of_many(threads, _ATTRIBUTES)]
        idents = self._objects.integers([ident for _, ident, _ in rows])
        names = self._objects.texts([name for name, _, _ in rows])
        return {
            key: name
            for key, ident, name in zip(keys, idents, names, strict=True)
            if name is not None and ident == key[1]
        }

    def thread_objects(self, interpreter: int) -> list[int]:
        """Addresses of an interpreter's Thread objects that are alive by its own account."""
        self._refresh(interpreter)
        return [at for (home, _), at in self._thread_objects.items() if home == interpreter]

    def name(self, state: ThreadState) -> str | None:
        """One thread's name; looks at ``_active`` again only when its object is not known."""
        key = (state.interpreter, state.ident)
        for fresh in (False, True):
            if fresh:
                self._refresh(state.interpreter)
            thread = self._thread_objects.get(key)
            if thread is not None:
                name = self._name_of(thread, state.ident, None if fresh else state.native_id)
                if name is not None:
                    return name
        return None

    def _name_of(self, thread: int, ident: int, native_id: int | None) -> str | None:
        """The name that a Thread object gives, if it is that thread's."""
        try:
            name, own_ident, own_native = self._attributes.of(thread, _ATTRIBUTES)
            if not name or not own_ident or self._objects.integer(own_ident) != ident:
                return None
            if native_id is not None and (
                not own_native or self._objects.integer(own_native) != native_id
            ):
                return None
            return self._objects.text(name)
        except MemoryReadError:
            return None

    def _refresh(self, interpreter: int) -> None:
        """Read ``_active`` of an interpreter."""
        try:
            threads = retry(lambda: self._read_active(interpreter))
        except MemoryReadError:
            self._active.pop(interpreter, None)
            return  # what is known is looked at again whenever a name is asked for
        kept = {key: at for key, at in self._thread_objects.items() if key[0] != interpreter}
        kept.update({(interpreter, ident): at for ident, at in threads.items()})
        self._thread_objects = kept

    def _read_active(self, interpreter: int) -> dict[int, int]:
        active = self._active.get(interpreter) or self._find_active(interpreter)
        if not active:
            return {}
        pairs = self._objects.entries(active, MAX_ENTRIES)
        idents = self._objects.integers([key for key, _ in pairs])
        return {
            ident: thread
            for ident, (_, thread) in zip(idents, pairs, strict=True)
            if ident is not None  # None: removed while it was read
        }

    def _find_active(self, interpreter: int) -> int:
        """Address of ``threading._active``; 0 while ``threading`` is not imported."""
        modules = self._runtime.modules(interpreter)
        if not modules:
            return 0
        (module,) = self._objects.lookup(modules, ("threading",))
        if not module:
            return 0
        namespace = self._objects.pointer(module + self._module_dict)
        (active,) = self._objects.lookup(namespace, ("_active",))
        if active:
            if self._objects.type_of(active).name != "dict":
                raise ImplausibleMemory("threading._active is no dict")
            self._active[interpreter] = active
        return active
