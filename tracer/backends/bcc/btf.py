"""Offsets of kernel structure fields, from the running kernel's own BTF.

Format: the kernel's Documentation/bpf/btf.rst. Reading 130,000 types takes a tenth of
a second, so the few offsets that are needed are kept in the cache directory, under a
name made of the BTF's size and the kernel's build id.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from probes.errors import BackendUnavailable

_STRUCT, _UNION, _TYPEDEF, _FUNCTION = 4, 5, 8, 12

VMLINUX = Path("/sys/kernel/btf/vmlinux")
NOTES = Path("/sys/kernel/notes")
MAX_BTF_BYTES = 64 << 20

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "PS_OFF_TASK_PID": ("task_struct", "pid"),
        "PS_OFF_TASK_TGID": ("task_struct", "tgid"),
        "PS_OFF_TASK_STATE": ("task_struct", "__state"),
        "PS_OFF_TASK_EXIT_STATE": ("task_struct", "exit_state"),
        "PS_OFF_TASK_ON_CPU": ("task_struct", "on_cpu"),
        "PS_OFF_TASK_FLAGS": ("task_struct", "flags"),
        "PS_OFF_TASK_COMM": ("task_struct", "comm"),
        "PS_OFF_TASK_CPU": ("task_struct", "thread_info.cpu", "cpu"),  # moved in Linux 5.16
        "PS_OFF_TASK_NVCSW": ("task_struct", "nvcsw"),
        "PS_OFF_TASK_EXIT_CODE": ("task_struct", "exit_code"),
        "PS_OFF_TASK_FSBASE": ("task_struct", "thread.fsbase"),
        "PS_OFF_TASK_SIGNAL": ("task_struct", "signal"),
        "PS_OFF_TASK_SUM_EXEC": ("task_struct", "se.sum_exec_runtime"),
        "PS_OFF_TASK_PREV_SUM_EXEC": ("task_struct", "se.prev_sum_exec_runtime"),
        "PS_OFF_TASK_LAST_ARRIVAL": ("task_struct", "sched_info.last_arrival"),
        "PS_OFF_SIGNAL_LIVE": ("signal_struct", "live"),
    }
)
"""What the BPF programs are told by ``-D``: structure and path of the field; more paths
where it stood elsewhere in other kernels."""

ITERATOR = "bpf_iter_task"
"""The kernel's function that the task iterator's programs attach to."""

TRACEPOINT_PREFIX = "btf_trace_"
"""Before a tracepoint's name: the kernel's typedef of what is called there."""

PLACES: Mapping[str, int] = MappingProxyType(
    {
        ITERATOR: _FUNCTION,
        f"{TRACEPOINT_PREFIX}sched_waking": _TYPEDEF,
        f"{TRACEPOINT_PREFIX}sched_switch": _TYPEDEF,
    }
)
"""What programs are tied to when they are loaded: name and kind of type."""

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_TRANSPARENT = frozenset({8, 9, 10, 11, 18})  # typedef, volatile, const, restrict, type tag
# Bytes after the 12 of struct btf_type, by kind: fixed, and for each of vlen items.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_PER_ITEM = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_MAX_KIND = 19


class BadBtf(BackendUnavailable):
    """The kernel's type information is damaged or lacks a field that is needed."""


class Btf:
    """A BTF blob, indexed. Raises BadBtf for anything that is none."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        try:
            self._read_header()
            self._index()
        except struct.error as error:
            raise BadBtf(f"the kernel's BTF is cut off: {error}") from None

    def _read_header(self) -> None:
        magic, version, _, header_size, *rest = _HEADER.unpack_from(self._blob)
        if magic != _MAGIC or version != 1:
            raise BadBtf("the kernel's BTF is of an unknown format")
        type_offset, type_size, string_offset, string_size = rest
        self._types = header_size + type_offset
        self._types_end = self._types + type_size
        self._strings = header_size + string_offset
        self._strings_end = self._strings + string_size
        if max(self._types_end, self._strings_end) > len(self._blob):
            raise BadBtf("the kernel's BTF is cut off")

    def _index(self) -> None:
        """Find where each type stands, and each named structure's type."""
        self._at: list[int] = [0]  # type 0 is void
        self._structs: dict[int, int] = {}
        blob, position, end = self._blob, self._types, self._types_end
        at, structs, unpack = self._at, self._structs, _TYPE.unpack_from
        while position < end:
            name, info, _ = unpack(blob, position)
            kind = info >> 24 & 0x1F
            if not 0 < kind <= _MAX_KIND:
                raise BadBtf(f"the kernel's BTF has a type of unknown kind {kind}")
            if kind == _STRUCT and name:
                structs.setdefault(name, len(at))
            at.append(position)
            position += 12 + _FIXED.get(kind, 0) + _PER_ITEM.get(kind, 0) * (info & 0xFFFF)

    def offset(self, structure: str, path: str) -> int:
        """Byte offset of a field, ``path`` going into members (``se.sum_exec_runtime``).

        Raises BadBtf when there is no such field, or it is a bit field.
        """
        type_id, total = self._struct(structure), 0
        for name in path.split("."):
            found = self._member(type_id, name, depth=0)
            if found is None:
                raise BadBtf(f"this kernel's struct {structure} has no field {path}")
            bits, type_id = found
            if bits % 8:
                raise BadBtf(f"field {path} of struct {structure} is a bit field here")
            total += bits // 8
        return total

    def named(self, name: str, kind: int) -> int:
        """Type id of a function or typedef. Raises BadBtf when there is none of that name."""
        name_at = self._name(name)
        for type_id, position in enumerate(self._at[1:], 1):
            found, info, _ = _TYPE.unpack_from(self._blob, position)
            if found == name_at and info >> 24 & 0x1F == kind:
                return type_id
        raise BadBtf(f"this kernel's BTF does not describe {name}")

    def _struct(self, name: str) -> int:
        type_id = self._structs.get(self._name(name))
        if type_id is None:
            raise BadBtf(f"this kernel's BTF describes no struct {name}")
        return type_id

    def _name(self, name: str) -> int:
        """Where a name stands in the string section; -1 when it does not."""
        at = self._blob.find(b"\0" + name.encode() + b"\0", self._strings, self._strings_end)
        return at + 1 - self._strings if at >= 0 else -1

    def _member(self, type_id: int, name: str, depth: int) -> tuple[int, int] | None:
        """Bit offset and type of a member, also one of an anonymous inner structure."""
        type_id = self._resolve(type_id)
        if depth > 8 or not 0 < type_id < len(self._at):
            return None
        position = self._at[type_id]
        _, info, _ = _TYPE.unpack_from(self._blob, position)
        if info >> 24 & 0x1F not in (_STRUCT, _UNION):
            return None
        has_bit_fields = info >> 31
        for item in range(info & 0xFFFF):
            member = _MEMBER.unpack_from(self._blob, position + 12 + 12 * item)
            name_at, member_type, offset = member
            if has_bit_fields:
                if offset >> 24 and self._string(name_at) == name:
                    raise BadBtf(f"field {name} is a bit field here")
                offset &= 0xFFFFFF
            if name_at and self._string(name_at) == name:
                return offset, member_type
            if not name_at:
                inner = self._member(member_type, name, depth + 1)
                if inner is not None:
                    return offset + inner[0], inner[1]
        return None

    def _resolve(self, type_id: int) -> int:
        """Through typedefs and qualifiers to the type itself."""
        for _ in range(16):
            if not 0 < type_id < len(self._at):
                return 0
            _, info, target = _TYPE.unpack_from(self._blob, self._at[type_id])
            if info >> 24 & 0x1F not in _TRANSPARENT:
                return type_id
            type_id = target
        return 0

    def _string(self, at: int) -> str:
        start = self._strings + at
        end = self._blob.find(b"\0", start, self._strings_end)
        return self._blob[start:end].decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """``offsets`` of ``FIELDS`` and BTF ids of ``PLACES``, by name."""

    offsets: Mapping[str, int]
    places: Mapping[str, int]


def kernel_identity(btf: Path = VMLINUX, notes: Path = NOTES) -> str:
    """A name for the running kernel's build. Raises BackendUnavailable without BTF."""
    try:
        # The notes hold the build id; a kernel without one still has its name there.
        build = hashlib.sha256(notes.read_bytes()).hexdigest()[:16]
        return f"{btf.stat().st_size:x}-{build}"
    except OSError as error:
        raise BackendUnavailable(
            f"the kernel offers no type information ({btf}: {error.strerror})",
            hint="It has to be built with CONFIG_DEBUG_INFO_BTF; '--backend proc' needs none.",
        ) from None


def kernel_facts(cache_dir: Path) -> KernelFacts:
    """Facts of the running kernel, from the cache when it has them.

    Raises BadBtf; BackendUnavailable when the kernel offers no BTF.
    """
    cached = cache_dir / f"offsets-{kernel_identity()}.json"
    facts = _cached(cached)
    if facts is None:
        facts = read_facts(VMLINUX)
        _store(cached, facts)
    return facts


def read_facts(btf: Path) -> KernelFacts:
    """Facts from the BTF file ``btf``. Raises BadBtf, BackendUnavailable."""
    try:
        with btf.open("rb") as file:
            blob = file.read(MAX_BTF_BYTES + 1)
    except OSError as error:
        raise BackendUnavailable(f"{btf} cannot be read: {error.strerror}") from None
    if len(blob) > MAX_BTF_BYTES:
        raise BadBtf(f"{btf} is larger than {MAX_BTF_BYTES >> 20} MiB")
    types = Btf(blob)
    offsets = {name: _first_offset(types, *field) for name, field in FIELDS.items()}
    return KernelFacts(offsets, {name: types.named(name, kind) for name, kind in PLACES.items()})


def _first_offset(types: Btf, structure: str, *paths: str) -> int:
    for path in paths[:-1]:
        with suppress(BadBtf):
            return types.offset(structure, path)
    return types.offset(structure, paths[-1])


def _cached(path: Path) -> KernelFacts | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.keys() != {*FIELDS, *PLACES}:
        return None
    if not all(isinstance(value, int) and 0 <= value < 1 << 30 for value in content.values()):
        return None
    return KernelFacts(
        {name: content[name] for name in FIELDS}, {name: content[name] for name in PLACES}
    )


def _store(path: Path, facts: KernelFacts) -> None:
    """Write the cache file; a cache that cannot be written is done without."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            json.dump({**facts.offsets, **facts.places}, out)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
