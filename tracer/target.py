"""Looking at a target from outside: what is it, which Python, where does it stand.

Nothing here stops or changes the process. Files are opened through
``/proc/PID/exe`` and ``/proc/PID/map_files/<range>``: right in chroots, other
mount namespaces and for files that were deleted or replaced meanwhile, where the
path that /proc shows names another file or none. ``_PyRuntime`` is exported by
every CPython build that can load extension modules, stripped or not, static or
not; a process that embeds Python counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from probes.errors import (
    BadElf,
    MemoryFault,
    NoSuchProcess,
    NotCPython,
    ParkscopeError,
    PermissionDenied,
    TargetGone,
    UnsupportedPython,
)
from tracer import procfs
from tracer.elf import Elf, Symbol
from tracer.procfs import Mapping

if TYPE_CHECKING:
    from tracer.pymem.memory import MemoryReader

NATIVE_MACHINE = "x86_64"
MAX_MODULES = 4096
_ENDED = ("Z", "X", "x")
_COOKIE = b"xdebugpy"  # _Py_Debug_Cookie, Include/internal/pycore_debug_offsets.h
_RELEASE_CANDIDATE = 0xC  # PY_RELEASE_LEVEL_GAMMA, Include/patchlevel.h
_LIBC = re.compile(r"^(libc\.so\.6|libc-2\.\d+\.so|ld-musl-.*\.so\.1|libc\.musl-.*\.so\.1)$")
_VERSION_IN_NAME = re.compile(r"python(\d\.\d+)")


@dataclass(frozen=True, slots=True)
class Module:
    """An ELF file mapped into the target.

    ``open_path`` opens the very file that is mapped, whatever ``path`` (as /proc
    shows it) names now. Run-time address = link-time address + ``load_bias``.
    """

    path: str
    open_path: str
    start: int
    load_bias: int
    device: int
    inode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Python:
    """The interpreter of a target, of a kind that can be read."""

    version: tuple[int, int, int]
    hexversion: int
    module: Module
    runtime_address: int
    free_threaded: bool
    implementation: str


@dataclass(frozen=True, slots=True)
class Target:
    """A process, identified by ``pid`` and ``start_ticks`` (clock ticks after boot).

    ``python`` is None when memory reading is refused; ``refusal`` says why, in one
    sentence. ``unsupported``: there is a Python, of a kind that cannot be read.
    """

    pid: int
    start_ticks: int
    cmdline: tuple[str, ...]
    machine: str
    modules: tuple[Module, ...]
    libc: Module | None
    python: Python | None
    refusal: str | None
    unsupported: bool = False


@dataclass(frozen=True, slots=True)
class _Facts:
    """What of an ELF file matters here, cached by its identity."""

    segments: tuple[tuple[int, int, int, bool], ...]
    runtime: Symbol | None
    version: Symbol | None
    pypy: bool
    soname: str | None

    def load_bias(self, mapping: Mapping) -> int | None:
        for offset, address, size, executable in self.segments:
            if (
                executable == mapping.executable
                and offset & ~0xFFF <= mapping.offset < offset + size
            ):
                return mapping.start - mapping.offset + offset - address
        return None


@lru_cache(maxsize=4096)
def _facts(_device: int, _inode: int, _mtime_ns: int, _size: int, path: str) -> _Facts:
    """Facts of the file at ``path``; the identity is the cache's key. Raises OSError, BadElf."""
    with Elf.open(path) as elf:
        runtime = elf.exported("_PyRuntime")
        version = elf.exported("Py_Version")
        return _Facts(
            segments=tuple(
                (part.offset, part.address, part.file_size, part.executable)
                for part in elf.segments
            ),
            runtime=runtime[0] if runtime else None,
            version=version[0] if version else None,
            pypy=bool(elf.exported("rpython_startup_code")),
            soname=elf.soname,
        )


def inspect(pid: int) -> Target:
    """Look at process ``pid``.

    Raises NoSuchProcess, PermissionDenied, TargetGone. A process without a
    readable CPython is no error: its ``refusal`` says so.
    """
    state = procfs.process_state(pid)
    group = procfs.thread_group(pid)
    if group != pid:
        raise NoSuchProcess(
            f"{pid} is a thread of process {group}, not a process", hint=f"Use {group}."
        )
    cmdline = procfs.command_line(pid)
    machine, found, python = "", [], None
    refused: NotCPython | None = None
    try:
        _check_program(state)
        machine = _machine(pid)
        found = list(_modules(pid, procfs.mappings(pid), machine))
        python = _find_python(pid, found)
    except NotCPython as error:
        refused = error
    target = Target(
        pid=pid,
        start_ticks=state.start_ticks,
        cmdline=cmdline,
        machine=machine,
        modules=tuple(module for module, _ in found),
        libc=next((module for module, facts in found if _is_libc(module, facts)), None),
        python=python,
        refusal=refused.message if refused is not None else None,
        unsupported=isinstance(refused, UnsupportedPython),
    )
    if state.state not in _ENDED and not alive(target):
        raise TargetGone(f"process {pid} exited while it was being looked at")
    return target


def require_python(target: Target) -> Python:
    """The target's interpreter. Raises NotCPython or UnsupportedPython with the refusal."""
    if target.python is not None:
        return target.python
    reason = target.refusal or f"process {target.pid} runs no CPython"
    raise UnsupportedPython(reason) if target.unsupported else NotCPython(reason)


def alive(target: Target) -> bool:
    """Whether the very process of ``target`` still runs (not a later one with its PID)."""
    try:
        state = procfs.process_state(target.pid)
    except ParkscopeError:
        return False
    return state.start_ticks == target.start_ticks and state.state not in _ENDED


def python_processes() -> list[Target]:
    """Processes of this machine that run some Python, readable or refused; others left out."""
    targets = []
    for pid in procfs.process_ids():
        try:
            target = inspect(pid)
        except ParkscopeError:
            continue  # gone meanwhile, or of another user: not ours to list
        if target.python or target.unsupported:
            targets.append(target)
    return targets


def _check_program(state: procfs.ProcessState) -> None:
    """Raise NotCPython for what runs no program (any more)."""
    pid = state.pid
    if state.kernel_thread:
        raise NotCPython(f"{pid} is a thread of the kernel, not a program")
    if state.state in _ENDED:
        raise NotCPython(f"process {pid} has exited already and only waits for its parent (zombie)")


def _machine(pid: int) -> str:
    try:
        with Elf.open(f"/proc/{pid}/exe") as elf:
            return elf.machine
    except PermissionError:
        raise PermissionDenied(f"process {pid} may not be inspected by this user") from None
    except OSError:
        raise TargetGone(f"process {pid} exited while it was being looked at") from None


def _modules(
    pid: int, mappings: Iterable[Mapping], machine: str
) -> Iterator[tuple[Module, _Facts]]:
    """The ELF files that code of the target may run from, the program itself first."""
    if machine != NATIVE_MACHINE:
        raise NotCPython(
            f"process {pid} is a {machine} program; Parkscope reads {NATIVE_MACHINE} only"
        )
    try:
        program = os.stat(f"/proc/{pid}/exe")
    except OSError:
        raise TargetGone(f"process {pid} exited while it was being looked at") from None
    groups: dict[tuple[int, int], list[Mapping]] = {}
    for mapping in mappings:
        if mapping.inode and len(groups) < MAX_MODULES:
            groups.setdefault((mapping.device, mapping.inode), []).append(mapping)
    order = sorted(groups, key=lambda key: key[1] != program.st_ino)
    for key in order:
        code = next((mapping for mapping in groups[key] if mapping.executable), None)
        if code is None:
            continue
        found = _open_module(pid, code, groups[key][0].start, key[1] == program.st_ino)
        if found is not None:
            yield found


def _open_module(
    pid: int, code: Mapping, lowest: int, is_program: bool
) -> tuple[Module, _Facts] | None:
    for path in _ways_to(pid, code, is_program):
        try:
            info = os.stat(path)
            if info.st_ino != code.inode:
                continue  # another file stands at that path by now
            facts = _facts(info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size, path)
        except (OSError, BadElf):
            continue
        bias = facts.load_bias(code)
        if bias is None:
            continue
        module = Module(
            path=code.path,
            open_path=path,
            start=lowest,
            load_bias=bias,
            device=info.st_dev,
            inode=info.st_ino,
            mtime_ns=info.st_mtime_ns,
        )
        return module, facts
    return None


def _ways_to(pid: int, mapping: Mapping, is_program: bool) -> tuple[str, ...]:
    """Where the mapped file may be opened, the surest first.

    ``map_files`` needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (proc(5)); the
    others serve an ordinary user and are checked against the mapping's inode.
    """
    return (
        *((f"/proc/{pid}/exe",) if is_program else ()),
        f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}",
        f"/proc/{pid}/root{mapping.path}",
        mapping.path,
    )


def _is_libc(module: Module, facts: _Facts) -> bool:
    name = os.path.basename(module.path.removesuffix(" (deleted)"))
    return bool(_LIBC.match(facts.soname or "") or _LIBC.match(name))


def _find_python(pid: int, modules: list[tuple[Module, _Facts]]) -> Python:
    """The interpreter among the modules. Raises NotCPython, UnsupportedPython."""
    for module, facts in modules:
        if facts.pypy:
            raise UnsupportedPython(f"process {pid} runs PyPy; only CPython can be read")
        if facts.runtime is not None:
            return _python(pid, module, facts, facts.runtime)
    raise NotCPython(f"process {pid} runs no CPython: no file that it maps exports _PyRuntime")


def _python(pid: int, module: Module, facts: _Facts, runtime: Symbol) -> Python:
    # Here, because tracer.pymem itself stands on this module.
    from tracer.pymem.layout import supported_versions
    from tracer.pymem.memory import ProcessMemory

    memory = ProcessMemory(pid)
    address = runtime.address + module.load_bias
    try:
        head = memory.read(address, 24)
        hexversion = _hexversion(memory, module, facts, head)
    except MemoryFault:
        raise NotCPython(f"process {pid} runs no CPython yet: its runtime is not there") from None
    named = _VERSION_IN_NAME.search(os.path.basename(module.path))
    text = named[1] if named else "of an unknown version"
    version = (0, 0, 0)
    if hexversion is not None:
        version = (hexversion >> 24, hexversion >> 16 & 0xFF, hexversion >> 8 & 0xFF)
        text = _dotted(version)
    versions = supported_versions()
    if hexversion is None or version[:2] not in versions:
        raise UnsupportedPython(
            f"CPython {text} is not supported:"
            f" {_dotted(versions[0])} to {_dotted(versions[-1])} are"
        )
    if hexversion >> 4 & 0xF < _RELEASE_CANDIDATE:
        raise UnsupportedPython(f"pre-releases of CPython {text} are not supported")
    if head[:8] == _COOKIE and int.from_bytes(head[16:24], "little"):
        raise UnsupportedPython(
            "a free-threaded CPython is not supported: only builds with the GIL are"
        )
    return Python(version, hexversion, module, address, False, "CPython")


def _hexversion(memory: MemoryReader, module: Module, facts: _Facts, head: bytes) -> int | None:
    """PY_VERSION_HEX: from _Py_DebugOffsets (3.13 on), else from ``Py_Version`` (3.11 on)."""
    if head[:8] == _COOKIE:
        return int.from_bytes(head[8:16], "little") & 0xFFFFFFFF
    if facts.version is not None:
        raw = memory.read(facts.version.address + module.load_bias, 8)
        return int.from_bytes(raw, "little") & 0xFFFFFFFF
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
