"""Who owns a mutex of native code that a thread waits for.

glibc keeps the owner's thread id in the mutex, as the owner numbers itself. It is believed
when the thread waits there the way that glibc waits for a mutex and everything else in the
structure fits, twice over. Source: struct __pthread_mutex_s in
sysdeps/x86/nptl/bits/struct_mutex.h, __lll_lock_wait in nptl/lowlevellock.c (glibc).
"""

from __future__ import annotations

import struct

from probes.errors import MemoryReadError
from tracer import procfs
from tracer.pymem.memory import MemoryReader

_MUTEX = struct.Struct("<iIIIi")  # __lock, __count, __owner, __nusers, __kind
_CONTENDED = 2
_FUTEX_WAIT_PRIVATE = 0x80
_KINDS = frozenset({0, 1, 2, 3})  # normal, recursive, error checking, adaptive
_ELISION = 0x300


def mutex_owner(memory: MemoryReader, pid: int, tid: int) -> tuple[int, int] | None:
    """Address and owner (a native id) of the mutex that a thread waits for without limit.

    None where it waits for none, or that is not certain. Raises PermissionDenied, TargetGone.
    """
    first = _look(memory, pid, tid)
    if first is None or first != _look(memory, pid, tid):
        return None
    address, owner = first
    tids = procfs.thread_ids(pid)
    if procfs.same_pid_namespace(pid):
        return (address, owner) if owner in tids else None
    here = procfs.namespace_ids(pid, tids).get(owner)
    return None if here is None else (address, here)


def _look(memory: MemoryReader, pid: int, tid: int) -> tuple[int, int] | None:
    address, operation, timeout = procfs.futex_arguments(pid, tid)
    if not address or operation != _FUTEX_WAIT_PRIVATE or timeout:
        return None
    try:
        lock, _, owner, users, kind = _MUTEX.unpack(memory.read(address, _MUTEX.size))
    except MemoryReadError:
        return None
    fits = lock == _CONTENDED and owner and users and kind & ~_ELISION in _KINDS
    return (address, owner) if fits else None
