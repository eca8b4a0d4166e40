"""Where CPython keeps things: one data file per minor version, checked when loaded.

Offsets come from ``layouts/cp3XX.toml``. From 3.13 on the target carries its own
table (``_Py_DebugOffsets`` at the start of ``_PyRuntime``), which is exact for
its build and overrides the file's; it is read once, and since everything in the
target is untrusted every entry is checked. What neither can say (how a thing is
done, not where it stands) are strategies, named in the file. No reader compares
versions: a new version is a new file.
"""

from __future__ import annotations

import struct
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any

from probes.errors import ImplausibleMemory, InternalError, UnsupportedPython
from tracer.pymem.memory import MemoryReader

COOKIE = b"xdebugpy"
"""First bytes of _Py_DebugOffsets (``_Py_Debug_Cookie``)."""

MAX_OFFSET = 1 << 24
"""No structure of CPython is longer: a larger offset or size is garbage."""

MAX_OBJECT = 4096
"""No lock object is longer, in bytes."""

_HEADER = struct.Struct("<8sQQ")  # cookie, PY_VERSION_HEX, free_threaded

_STRATEGIES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "line_table": {"locations_v1": ("PyCodeObject.co_linetable",)},
        "current_frame": {
            "via_cframe": ("PyThreadState.cframe", "_PyCFrame.current_frame"),
            "direct": ("PyThreadState.current_frame",),
        },
        "gil": {
            "in_runtime": ("_PyRuntimeState.ceval.gil",),
            "by_pointer": ("PyInterpreterState.ceval.gil",),
        },
        "integer": {
            "ob_size": ("PyLongObject.ob_digit",),
            "lv_tag": ("PyLongObject.long_value.lv_tag", "PyLongObject.long_value.ob_digit"),
        },
        "instance_dict": {
            "prefix_words": ("PyDictValues.values",),
            "tagged_prefix": ("PyDictValues.values",),
            "inline_values": (
                "PyDictValues.values",
                "PyDictValues.valid",
                "PyDictValues.capacity",
            ),
        },
        "with_exit": {"bound_method": (), "function_and_self": ()},
        "pthread_key": {  # which of its thread states a thread has there
            "first_state": ("_PyRuntimeState.interpreters.next_id",),
            "current_state": (),
        },
        "parking": {
            "none": (),
            "parking_lot": ("wait_entry.addr", "wait_entry.sema", "wait_entry.node"),
        },
    }
)
"""Every strategy, its choices, and the offsets that a choice needs."""

_TABLES = frozenset(
    {"version", "strategy", "constant", "offset", "lock", "instructions", "debug_offsets"}
)
_CONSTANTS = frozenset(
    {
        "stackref_tag_mask",
        "first_foreign_owner",
        "last_owner",
        "op_push_exc_info",
        "op_with_except_start",
        "op_instrumented_line",
        "immortal_refcnt",
        "frame_cleared",
        "frozen_counts",
        "preheader_flags",
    }
)

_REQUIRED = (
    "_PyRuntimeState.interpreters.head",
    "PyInterpreterState.next",
    "PyInterpreterState.id",
    "PyInterpreterState.threads.head",
    "PyInterpreterState.gc",
    "_gc_runtime_state.collecting",
    "PyThreadState.prev",
    "PyThreadState.next",
    "PyThreadState.interp",
    "PyThreadState.thread_id",
    "PyThreadState.native_thread_id",
    "_gil_runtime_state.SIZE",
    "_gil_runtime_state.interval",
    "_gil_runtime_state.last_holder",
    "_gil_runtime_state.locked",
    "_gil_runtime_state.switch_number",
    "_gil_runtime_state.cond",
    "_gil_runtime_state.mutex",
    "_PyInterpreterFrame.previous",
    "_PyInterpreterFrame.f_globals",
    "_PyInterpreterFrame.owner",
    "_PyInterpreterFrame.localsplus",
    "PyCodeObject.co_names",
    "PyCodeObject.co_exceptiontable",
    "PyCodeObject.co_argcount",
    "PyCodeObject.co_stacksize",
    "PyCodeObject.co_nlocalsplus",
    "PyCodeObject.co_localsplusnames",
    "PyCodeObject.co_localspluskinds",
    "PyCodeObject.co_firstlineno",
    "PyCodeObject.co_filename",
    "PyCodeObject.co_name",
    "PyCodeObject.co_qualname",
    "PyCodeObject._co_firsttraceable",
    "PyCodeObject.co_code_adaptive",
    "PyObject.ob_type",
    "PyVarObject.ob_size",
    "PyTypeObject.tp_name",
    "PyTypeObject.tp_basicsize",
    "PyTypeObject.tp_flags",
    "PyTypeObject.tp_dictoffset",
    "PyTypeObject.tp_mro",
    "PyTypeObject.tp_dict",
    "PyHeapTypeObject.ht_cached_keys",
    "PyTupleObject.ob_item",
    "PyListObject.ob_item",
    "PyBytesObject.ob_sval",
    "PyDictObject.ma_used",
    "PyDictObject.ma_keys",
    "PyDictObject.ma_values",
    "PyDictKeysObject.dk_log2_size",
    "PyDictKeysObject.dk_log2_index_bytes",
    "PyDictKeysObject.dk_kind",
    "PyDictKeysObject.dk_nentries",
    "PyDictKeysObject.dk_indices",
    "PyASCIIObject.SIZE",
    "PyASCIIObject.length",
    "PyASCIIObject.state",
    "PyCompactUnicodeObject.SIZE",
    "PyUnicodeObject.data",
    "PyModuleObject.md_dict",
    "PyCFunctionObject.m_ml",
    "PyCFunctionObject.m_self",
    "PyMethodObject.im_func",
    "PyMethodObject.im_self",
    "PyDescrObject.d_type",
    "PyDescrObject.d_name",
    "PyCellObject.ob_ref",
    "PyGenObject.gi_iframe",
)

_EITHER = (
    ("_PyInterpreterFrame.f_executable", "_PyInterpreterFrame.f_code"),
    ("_PyInterpreterFrame.instr_ptr", "_PyInterpreterFrame.prev_instr"),
    ("PyInterpreterState.imports.modules", "PyInterpreterState.modules"),
)


_KINDS = frozenset({"Lock", "RLock", "Queue", "Thread"})
_STATES = frozenset({"semaphore", "mutex", "unknown"})


@dataclass(frozen=True, slots=True)
class LockForm:
    """A type of C objects that threads wait in, and where it keeps what matters, in bytes.

    A thread waits at ``at`` bytes from the object, or from what the word at ``pointer``
    points to. ``state`` says how that place tells whether the lock is held. ``owner``
    and ``count`` are a recursive lock's: the holder's ident, and how often it holds it.
    """

    type: str
    found_as: tuple[str, str]
    kind: str
    size: int
    state: str
    at: int
    pointer: int | None = None
    owner: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Instructions:
    """Opcodes by what they do, specialized ones with the others.

    ``caches``: code units that follow an instruction of that opcode. ``name_shift``: how
    far the index of a name is shifted in the argument of ``load_attr``.
    """

    name_shift: int
    extended_arg: frozenset[int]
    load_fast: frozenset[int]
    load_fast_pair: frozenset[int]
    load_deref: frozenset[int]
    load_global: frozenset[int]
    load_attr: frozenset[int]
    caches: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets, constants and strategies of one CPython version, complete and checked.

    ``offsets`` is keyed ``Struct.field`` as in CPython's headers; ``Struct.SIZE``
    is the structure's size. All in bytes.
    """

    version: tuple[int, int]
    offsets: Mapping[str, int]
    constants: Mapping[str, int]
    strategies: Mapping[str, str]
    debug_fields: tuple[tuple[str, str], ...]
    locks: tuple[LockForm, ...]
    instructions: Instructions

    def __getitem__(self, name: str) -> int:
        return self.offsets[name]

    def either(self, *names: str) -> int:
        """The offset of a field that changed its name between versions."""
        return next(self.offsets[name] for name in names if name in self.offsets)


def _data() -> Traversable:
    return resources.files("tracer.pymem") / "layouts"


@lru_cache(maxsize=1)
def supported_versions() -> tuple[tuple[int, int], ...]:
    """The minor versions that have a layout, oldest first."""
    names = [entry.name for entry in _data().iterdir()]
    found = [name[3:-5] for name in names if name.startswith("cp3") and name.endswith(".toml")]
    return tuple(sorted((3, int(minor)) for minor in found))


@lru_cache(maxsize=16)
def load(version: tuple[int, int]) -> Layout:
    """The layout of a minor version. Raises UnsupportedPython when there is none."""
    if version not in supported_versions():
        raise UnsupportedPython(f"CPython {version[0]}.{version[1]} is not supported")
    text = (_data() / f"cp{version[0]}{version[1]}.toml").read_text(encoding="utf-8")
    layout = parse(text)
    if layout.version != version:
        raise InternalError(f"the layout file of CPython {version} says {layout.version}")
    return layout


def parse(text: str) -> Layout:
    """A layout from TOML text. Raises InternalError naming what is wrong with it."""
    data = tomllib.loads(text)
    unknown = set(data) - _TABLES
    if unknown:
        raise InternalError(f"layout: unknown table {min(unknown)!r}")
    offsets = {
        f"{name}.{field}": value
        for name, fields in data["offset"].items()
        for field, value in fields.items()
    }
    major, minor = data["version"]
    layout = Layout(
        version=(major, minor),
        offsets=MappingProxyType(offsets),
        constants=MappingProxyType(data["constant"]),
        strategies=MappingProxyType(data["strategy"]),
        debug_fields=tuple(
            (name, field) for name, field in data.get("debug_offsets", {}).get("fields", ())
        ),
        locks=tuple(_lock_form(entry) for entry in data["lock"]),
        instructions=_instructions(data["instructions"]),
    )
    _check(layout)
    return layout


def _instructions(data: Mapping[str, Any]) -> Instructions:
    caches = {
        opcode: int(name.removeprefix("caches_"))
        for name, opcodes in data.items()
        if name.startswith("caches_")
        for opcode in opcodes
    }
    sets = {
        name: frozenset(value)
        for name, value in data.items()
        if name != "name_shift" and not name.startswith("caches_")
    }
    try:
        return Instructions(name_shift=data["name_shift"], caches=MappingProxyType(caches), **sets)
    except (KeyError, TypeError) as error:
        raise InternalError(f"layout: the instructions make no sense: {error}") from None


def _lock_form(entry: Mapping[str, Any]) -> LockForm:
    try:
        module, attribute = entry["found_as"]
        form = LockForm(**{**entry, "found_as": (module, attribute)})
    except (KeyError, TypeError, ValueError) as error:
        raise InternalError(f"layout: a lock makes no sense: {error}") from None
    places = [form.size, form.at, form.pointer or 0, form.owner or 0, form.count or 0]
    known = form.kind in _KINDS and form.state in _STATES
    if not known or not all(type(one) is int and 0 <= one < MAX_OBJECT for one in places):
        raise InternalError(f"layout: {form.type} makes no sense")
    return form


def _check(layout: Layout) -> None:
    """Raise InternalError unless everything that a reader will ask for is there."""
    for values, end in ((layout.offsets, MAX_OFFSET), (layout.constants, 1 << 32)):
        for name, value in values.items():
            if type(value) is not int or not 0 <= value < end:
                raise InternalError(f"layout {layout.version}: {name} = {value!r} is no offset")
    if set(layout.constants) != _CONSTANTS or set(layout.strategies) != set(_STRATEGIES):
        raise InternalError(f"layout {layout.version}: constants or strategies differ")
    needed = list(_REQUIRED)
    for strategy, choices in _STRATEGIES.items():
        choice = layout.strategies[strategy]
        if choice not in choices:
            raise InternalError(f"layout {layout.version}: no {strategy} is called {choice!r}")
        needed += choices[choice]
    missing = [name for name in needed if name not in layout.offsets]
    missing += [names[0] for names in _EITHER if not any(n in layout.offsets for n in names)]
    missing += [field for _, field in layout.debug_fields if field not in ("", *layout.offsets)]
    if missing:
        raise InternalError(f"layout {layout.version}: {missing[0]} is missing")


def merge_debug_offsets(layout: Layout, memory: MemoryReader, runtime: int) -> Layout:
    """The layout with the target's own table, where its version has one, laid over it.

    Raises ImplausibleMemory when the table is damaged, UnsupportedPython when it
    belongs to another version or to a free-threaded build, MemoryFault.
    """
    if not layout.debug_fields:
        return layout
    size = _HEADER.size + 8 * len(layout.debug_fields)
    raw = memory.read(runtime, size)
    cookie, hexversion, free_threaded = _HEADER.unpack_from(raw)
    if cookie != COOKIE:
        raise ImplausibleMemory("_PyRuntime does not begin with its table of offsets")
    if (hexversion >> 24 & 0xFF, hexversion >> 16 & 0xFF) != layout.version:
        raise UnsupportedPython(f"the target's table of offsets says version {hexversion:#x}")
    if free_threaded:
        raise UnsupportedPython("this is a free-threaded CPython")
    values = struct.unpack_from(f"<{len(layout.debug_fields)}Q", raw, _HEADER.size)
    names = [name for name, _ in layout.debug_fields]
    check_debug_values(names, values)
    merged = dict(layout.offsets)
    for (_, field), value in zip(layout.debug_fields, values, strict=True):
        if field:
            merged[field] = value
    return replace(layout, offsets=MappingProxyType(merged))


def check_debug_values(names: Sequence[str], values: Sequence[int]) -> None:
    """Raise ImplausibleMemory unless each offset lies inside its structure's size."""
    sizes = {
        name.rpartition(".")[0]: value
        for name, value in zip(names, values, strict=True)
        if name.endswith(".size")
    }
    for name, value in zip(names, values, strict=True):
        if name.endswith("size"):
            plausible = 0 < value < MAX_OFFSET
        else:
            plausible = value <= sizes.get(name.rpartition(".")[0], MAX_OFFSET)
        if not plausible:
            raise ImplausibleMemory(f"the target's table of offsets says {name} = {value}")
