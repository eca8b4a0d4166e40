"""Compiled programs, kept in the cache: the second start needs neither bcc nor a compiler.

Compiling takes bcc a third of a second and more; loading what it compiled takes the
kernel 10 ms. A file holds the instructions of each program, with the index of a map
where a map's descriptor has to stand, and what each map is. It is named after
everything that went into it: sources, flags, and the kernel for which offsets were
built in. The verifier checks each program again at every load, so that a damaged
file can only be refused.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tracer.backends.bcc import syscalls
from tracer.backends.bcc.load import Kernel
from tracer.backends.bcc.unit import BTF_TRACEPOINT, Unit, WantedProgram

KEPT = 4
"""So many units are kept: the latest for each combination of options in use."""

_PROGRAM_TYPES: Mapping[str, int] = {
    "KPROBE": 2,
    "RAW_TRACEPOINT": 17,
    "TRACING": 26,
    BTF_TRACEPOINT: 26,
}
_LOAD_MAP = 0x18, 1  # BPF_LD | BPF_IMM | BPF_DW with src_reg BPF_PSEUDO_MAP_FD
_INSTRUCTION = struct.Struct("<BBhi")


def path_of(cache_dir: Path, unit: Unit, kernel_identity: str) -> Path:
    """Where the compiled ``unit`` is kept for one kernel."""
    return cache_dir / f"unit-{unit.digest()}-{kernel_identity}.json"


def load_the_rest(kernel: Kernel, unit: Unit, places: Mapping[str, int]) -> None:
    """Load what bcc has compiled but cannot load; what the kernel refuses is in ``refused``.

    ``places``: BTF ids of what programs attach to, by name.
    """
    for wanted in unit.programs:
        if wanted.kind != BTF_TRACEPOINT:
            continue
        code = kernel.bytecode.get(wanted.name)
        try:
            if code is None:
                raise OSError(errno.ENOEXEC, "its instructions are not to be had")
            kernel.programs[wanted.name] = _load(wanted, code, list(kernel.maps.values()), places)
        except OSError as error:
            kernel.refused[wanted.name] = str(error)


def store(path: Path, kernel: Kernel, places: Mapping[str, int]) -> None:
    """Keep what ``kernel`` was loaded from; a cache that cannot be written is done without.

    ``places`` as for ``load_the_rest``.
    """
    if not kernel.bytecode or kernel.refused:
        return  # only what loaded in full, so that a better kernel is asked again
    content = {
        "places": dict(places),
        "maps": [[name, *syscalls.map_shape(fd)] for name, fd in kernel.maps.items()],
        "programs": dict(kernel.bytecode),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            json.dump(content, out)
        temporary.replace(path)
        _prune(path.parent)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def revive(path: Path, unit: Unit) -> Kernel | None:
    """Load ``unit`` from its file; None when that does not work, for whatever reason."""
    try:
        content = json.loads(path.read_text())
        kernel = Kernel(unit.specs, {}, {})
    except (OSError, ValueError):
        return None
    try:
        for name, *shape in content["maps"]:
            kernel.maps[name] = syscalls.map_create(name, *shape)
        fds = list(kernel.maps.values())
        for wanted in unit.programs:
            code = content["programs"][wanted.name]
            kernel.programs[wanted.name] = _load(wanted, code, fds, content["places"])
    except (OSError, KeyError, IndexError, ValueError, TypeError, struct.error):
        kernel.close()
        return None
    with suppress(OSError):
        os.utime(path)
    return kernel


def _load(wanted: WantedProgram, code: str, fds: list[int], places: Mapping[str, int]) -> int:
    """One program from its kept instructions. Raises OSError, and for a damaged file others."""
    attach_type = syscalls.ATTACH_TRACE_ITER if wanted.kind == "TRACING" else wanted.attach_type
    return syscalls.load_program(
        wanted.name,
        _PROGRAM_TYPES[wanted.kind],
        _with_maps(base64.b64decode(code), fds),
        max(0, attach_type),
        places[wanted.attach_to] if wanted.attach_to else 0,
    )


def _with_maps(code: bytes, fds: list[int]) -> bytes:
    """Instructions with map indexes turned into descriptors."""
    out = bytearray(code)
    for at in range(0, len(out), _INSTRUCTION.size):
        opcode, registers, offset, value = _INSTRUCTION.unpack_from(out, at)
        if (opcode, registers >> 4) == _LOAD_MAP:
            _INSTRUCTION.pack_into(out, at, opcode, registers, offset, fds[value])
    return bytes(out)


def _prune(directory: Path) -> None:
    units = sorted(directory.glob("unit-*.json"), key=lambda path: path.stat().st_mtime)
    for old in units[:-KEPT]:
        old.unlink(missing_ok=True)
