"""From a memory image to the walked heap: what to begin with, then the walk itself.

The interpreters, their GC lists and threads are found in the image as they are in a live
process; the lists by their form, because their place differs within one minor version.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from probes.errors import ImplausibleMemory, MemoryReadError
from tracer.heap.image import Image
from tracer.heap.interpreter import INTERPRETER_ROOTS, InterpreterState
from tracer.heap.place import Place, known_types
from tracer.heap.walker import Library, Walk
from tracer.pymem.layout import Layout, load, merge_debug_offsets
from tracer.pymem.objects import ObjectReader
from tracer.pymem.runtime import Interpreter, RuntimeReader, ThreadState

ROOT_KINDS = ("interpreter", "thread", "type cache", "interned")
"""What a root's ``kind`` means; a node with an excess of references is held by unknown C code."""

THREAD_ROOTS = (
    "dict", "context", "current_exception", "curexc_type", "curexc_value", "curexc_traceback",
    "async_exc", "exc_state.exc_value", "c_profileobj", "c_traceobj", "async_gen_firstiter",
    "async_gen_finalizer", "threading_local_key", "threading_local_sentinel",
)  # fmt: skip
ROOT_NAMES = (*INTERPRETER_ROOTS, *THREAD_ROOTS)
"""What a root's ``name`` means for roots of interpreters and threads."""


_MOST_FOREIGN = 16  # frames of no Python code that may lie above the innermost of it


@dataclass(slots=True)
class Scan:
    """A walked image; ``walk`` holds the columns, the rest what they were walked with."""

    image: Image
    layout: Layout
    walk: Walk
    objects: ObjectReader
    runtime: RuntimeReader
    interpreters: list[Interpreter]
    threads: list[ThreadState]

    def close(self) -> None:
        """Give the walk's memory back (not the image)."""
        self.walk.close()


class Scanner:
    """Prepares and runs the walk of one image."""

    def __init__(self, image: Image, place: Place, code: Library | None = None) -> None:
        layout = load(place.version[:2])
        self._stated = layout
        self._layout = merge_debug_offsets(layout, image, place.runtime_address)
        self._place = place
        self._image = image
        self._walk = Walk(image, self._layout, code)
        self._objects = ObjectReader(image, self._layout)
        self._runtime = RuntimeReader(image, self._layout, place.runtime_address)

    def progress(self) -> int:
        """Objects found plus objects written; may be asked from another thread."""
        return self._walk.progress()

    def run(self, threads: int | None = None) -> Scan:
        """Walk. Raises ImplausibleMemory, MemoryFault when the image is no Python's."""
        try:
            return self._run(threads)
        except BaseException:
            self._walk.close()
            raise

    def _run(self, threads: int | None) -> Scan:
        walk = self._walk
        for known in known_types(self._place, self._layout):
            walk.know(known)
        interpreters = self._runtime.interpreters()
        if not interpreters:
            raise ImplausibleMemory("the image holds no interpreter: Python starts up, or ends")
        states = self._runtime.thread_states()
        self._mark_running(interpreters, states)
        for interpreter in interpreters:
            self._interpreter(interpreter)
        size = self._layout["PyInterpreterState.SIZE"]
        heads = [walk.list_heads(one.address, size) for one in interpreters]
        if not any(heads):
            raise ImplausibleMemory("no interpreter has a list of objects")
        for head in chain(*heads):
            walk.follow_list(head)
        for number, state in enumerate(states):
            self._thread(number, state)
        walk.finish(threads)
        return Scan(
            self._image, self._layout, walk, self._objects, self._runtime, interpreters, states
        )

    def _interpreter(self, interpreter: Interpreter) -> None:
        state = InterpreterState(
            self._image, self._layout, self._stated, self._objects, interpreter.address
        )
        for number, target in state.named_roots():
            self._walk.root(target, ROOT_KINDS.index("interpreter"), number, 1)
        for target in state.unnamed_roots():
            self._walk.root(target, ROOT_KINDS.index("interpreter"), len(ROOT_NAMES), 1)
        for address, namespace, subclasses in state.static_types(self._place.symbols):
            self._walk.static_type(address, namespace, subclasses)
        for target, count in state.type_cache():
            self._walk.root(target, ROOT_KINDS.index("type cache"), 0, count)
        if interned := state.interned():
            self._walk.interned(interned)
            self._walk.root(interned, ROOT_KINDS.index("interned"), 0, 1)

    def _mark_running(self, interpreters: list[Interpreter], states: list[ThreadState]) -> None:
        """Tell the walk which frames run: the innermost of each thread that holds a GIL."""
        gils = {one.gil for one in interpreters if one.gil}
        found = [self._runtime.gil_state(gil) for gil in gils]
        holders = {gil.last_holder for gil in found if gil.locked}
        for state in states:
            if state.address not in holders:
                continue
            with suppress(MemoryReadError):  # stopped while it made or left a frame
                self._mark_top(self._top_frame(state))

    def _mark_top(self, frame: int) -> None:
        layout = self._layout
        for _ in range(_MOST_FOREIGN):
            if not frame:
                return
            self._walk.running(frame)
            raw = self._image.read(frame + layout["_PyInterpreterFrame.owner"], 1)
            if raw[0] < layout.constants["first_foreign_owner"]:
                return
            frame = self._objects.pointer(frame + layout["_PyInterpreterFrame.previous"])

    def _thread(self, number: int, state: ThreadState) -> None:
        offsets = self._layout.offsets
        for name_number, name in enumerate(THREAD_ROOTS, len(INTERPRETER_ROOTS)):
            offset = offsets.get(f"PyThreadState.{name}")
            if offset is not None:
                target = self._objects.pointer(state.address + offset)
                self._walk.root(target, ROOT_KINDS.index("thread"), name_number, 1)
        with suppress(MemoryReadError):
            self._walk.thread(number, self._top_frame(state))

    def _top_frame(self, state: ThreadState) -> int:
        layout, pointer = self._layout, self._objects.pointer
        if layout.strategies["current_frame"] == "via_cframe":
            cframe = pointer(state.address + layout["PyThreadState.cframe"])
            return pointer(cframe + layout["_PyCFrame.current_frame"]) if cframe else 0
        return pointer(state.address + layout["PyThreadState.current_frame"])
