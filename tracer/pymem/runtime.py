"""Interpreters, thread states and the GIL of a live CPython.

Lists are walked while the target changes them, so every element must point back
(``tstate->interp``, ``next->prev``); a walk that does not close is repeated.

Sources: Include/internal/pycore_interp.h (later pycore_interp_structs.h),
Include/cpython/pystate.h, Include/internal/pycore_gil.h, Python/ceval_gil.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from probes.errors import ImplausibleMemory, MemoryReadError
from tracer.pymem.layout import Layout
from tracer.pymem.memory import MemoryReader

MAX_INTERPRETERS = 4096
MAX_THREADS = 1 << 17
TRIES = 8
"""How often a list or dict that changes under the reader's hands is read (≤ 1 ms each)."""

_WORD = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One interpreter (PyInterpreterState). ``gil`` is its GIL structure, 0 before it has one."""

    address: int
    number: int
    gil: int


@dataclass(frozen=True, slots=True)
class ThreadState:
    """One PyThreadState. ``ident`` is ``threading.get_ident()``, ``native_id`` gettid()."""

    address: int
    interpreter: int
    ident: int
    native_id: int


@dataclass(frozen=True, slots=True)
class GilState:
    """A GIL at one moment: whether it is held, and the thread state that took it last.

    ``switches``: how often another thread than the last has taken it. ``changing``: its mutex
    is held, so that they may not belong together.
    """

    locked: bool
    last_holder: int
    switches: int = 0
    changing: bool = False


def retry(read: Callable[[], T]) -> T:
    """What ``read`` gives, at most ``TRIES`` times; its last error when none succeeds."""
    for _ in range(TRIES - 1):
        try:
            return read()
        except MemoryReadError:
            continue  # torn: the target changed it meanwhile
    return read()


class RuntimeReader:
    """The lists that hang on ``_PyRuntime``. Raises ImplausibleMemory and MemoryFault."""

    def __init__(self, memory: MemoryReader, layout: Layout, address: int) -> None:
        self._memory = memory
        self._layout = layout
        self._address = address
        self._modules = layout.either(
            "PyInterpreterState.imports.modules", "PyInterpreterState.modules"
        )
        self._thread_fields = {
            name: layout[f"PyThreadState.{name}"]
            for name in ("prev", "next", "interp", "thread_id", "native_thread_id")
        }
        self._thread_span = max(self._thread_fields.values()) + _WORD
        self._recent: list[int] = []

    def _pointer(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, _WORD), "little")

    def interpreters(self) -> list[Interpreter]:
        """All interpreters, the newest first; empty while Python starts up."""
        layout = self._layout
        found: list[Interpreter] = []
        address = self._pointer(self._address + layout["_PyRuntimeState.interpreters.head"])
        while address:
            if len(found) >= MAX_INTERPRETERS:
                raise ImplausibleMemory("the list of interpreters does not end")
            number = self._pointer(address + layout["PyInterpreterState.id"])
            found.append(Interpreter(address, number, self._gil_of(address)))
            address = self._pointer(address + layout["PyInterpreterState.next"])
        return found

    def keeps_first_state(self) -> bool:
        """Whether a thread that runs a sub-interpreter may have its first state as its own.

        Where it has (``PyGILState_GetThisThreadState`` of 3.11), once there has been one.
        """
        if self._layout.strategies["pthread_key"] != "first_state":
            return False
        made = self._address + self._layout["_PyRuntimeState.interpreters.next_id"]
        return self._pointer(made) != 1

    def _gil_of(self, interpreter: int) -> int:
        if self._layout.strategies["gil"] == "in_runtime":
            return self._address + self._layout["_PyRuntimeState.ceval.gil"]
        return self._pointer(interpreter + self._layout["PyInterpreterState.ceval.gil"])

    def modules(self, interpreter: int) -> int:
        """Address of ``sys.modules`` of an interpreter; 0 while it starts up."""
        return self._pointer(interpreter + self._modules)

    def thread_states(self) -> list[ThreadState]:
        """Thread states of all interpreters that a thread is bound to."""
        # Those of the last walk are fetched with one system call, then only linked.
        raws = self._memory.read_many([(at, self._thread_span) for at in self._recent])
        fetched = {at: raw for at, raw in zip(self._recent, raws, strict=True) if raw}
        found: list[ThreadState] = []
        for interpreter in self.interpreters():
            found += self._walk(interpreter.address, fetched)
        self._recent = [state.address for state in found]
        return [state for state in found if state.native_id]

    def _walk(self, interpreter: int, fetched: dict[int, bytes]) -> list[ThreadState]:
        fields = self._thread_fields
        head = interpreter + self._layout["PyInterpreterState.threads.head"]
        found: list[ThreadState] = []
        before, address = 0, self._pointer(head)
        while address:
            raw = fetched.get(address) or self._memory.read(address, self._thread_span)
            state = self._parse(address, raw)
            if state.interpreter != interpreter or _word(raw, fields["prev"]) != before:
                raise ImplausibleMemory("the list of thread states does not hang together")
            if len(found) >= MAX_THREADS:
                raise ImplausibleMemory("the list of thread states does not end")
            found.append(state)
            before, address = address, _word(raw, fields["next"])
        return found

    def _parse(self, address: int, raw: bytes) -> ThreadState:
        fields = self._thread_fields
        return ThreadState(
            address=address,
            interpreter=_word(raw, fields["interp"]),
            ident=_word(raw, fields["thread_id"]),
            native_id=_word(raw, fields["native_thread_id"]),
        )

    def still(self, state: ThreadState) -> bool:
        """Whether that thread state still is what it was (one read)."""
        try:
            return (
                self._parse(state.address, self._memory.read(state.address, self._thread_span))
                == state
            )
        except MemoryReadError:
            return False

    def gils(self) -> list[int]:
        """Address of every GIL structure, each once. Raises ImplausibleMemory for a wrong one."""
        found = list(dict.fromkeys(one.gil for one in self.interpreters() if one.gil))
        for address in found:
            self.gil_state(address)
        return found

    def gil_range(self, gil: int) -> tuple[int, int]:
        """[lo, hi) of a GIL structure: its mutexes and conditions are inside."""
        return gil, gil + self._layout["_gil_runtime_state.SIZE"]

    def gil_condition(self, gil: int) -> int:
        """Address of the condition that threads which want the GIL wait on (``gil->cond``)."""
        return gil + self._layout["_gil_runtime_state.cond"]

    def gil_state(self, gil: int) -> GilState:
        """A GIL now; refuses what cannot be a GIL structure."""
        layout = self._layout
        raw = self._memory.read(gil, layout["_gil_runtime_state.SIZE"])
        interval = _word(raw, layout["_gil_runtime_state.interval"])
        at = layout["_gil_runtime_state.locked"]
        locked = int.from_bytes(raw[at : at + 4], "little", signed=True)
        holder = _word(raw, layout["_gil_runtime_state.last_holder"])
        # sys.setswitchinterval() sets microseconds; -1 is a GIL not made yet.
        if locked not in (-1, 0, 1) or not 0 < interval < 1 << 44 or holder & 7:
            raise ImplausibleMemory(f"no GIL at {gil:#x}")
        at = layout["_gil_runtime_state.mutex"]
        changing = raw[at : at + 4] != bytes(4)  # pthread_mutex_t.__data.__lock (glibc)
        switches = _word(raw, layout["_gil_runtime_state.switch_number"])
        return GilState(locked == 1, holder, switches, changing)


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little")
