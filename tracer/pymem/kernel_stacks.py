"""Stacks of running threads, which eBPF programs take: what these have to know, what they tell.

``probes/stacks.bpf.h`` is the other side: the structures, the walk and the check value.
"""

from __future__ import annotations

import secrets
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from typing import NamedTuple

from tracer.pymem.layout import Layout
from tracer.pymem.memory import MemoryReader
from tracer.pymem.runtime import ThreadState

MAX_FRAMES = 32
_SLOTS = 4  # PS_TSTATE_SLOTS
_READ, _CODE_READ = 80, 96  # PS_READ, PS_CODE_READ
_HEAD = struct.Struct("<QIHH")
_FRAME = struct.Struct("<QQQQ")
STACK_SIZE = _HEAD.size + MAX_FRAMES * _FRAME.size
"""Bytes of a ``struct ps_stack``."""
_TRUNCATED = 1  # PS_STACK_TRUNCATED
_PYTHON = struct.Struct("<7i10I2i4xQ")
WALK_SIZE = _PYTHON.size
"""Bytes of a ``struct ps_python``."""
_ADDRESS = (1 << 56) - 1
_THREADS_LOOKED_AT = 16
_NEAR = 2048
"""Bytes before and behind fsbase: static thread-local variables, then glibc's struct
pthread with the first 32 pthread keys."""
_TEXTS = ("co_filename", "co_name", "co_qualname", "co_linetable")
_MULTIPLIERS = (0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0xD6E8FEB86659FD93)
_LINE_MULTIPLIER, _VERSION_MULTIPLIER = 0x9E3779B97F4A7C15, 0x9FB21C651E98DF25


class KernelFrame(NamedTuple):
    """A frame as the kernel saw it; ``check`` is the code object's ``check_value`` then."""

    code: int
    instruction: int
    owner: int
    namespace: int
    check: int


@dataclass(frozen=True, slots=True)
class KernelStack:
    """A stack as the kernel saw it, innermost frame first."""

    tgid: int
    truncated: bool
    frames: tuple[KernelFrame, ...]


@dataclass(frozen=True, slots=True)
class StackWalk:
    """``struct ps_python``: where a process keeps what the walk follows, in bytes.

    ``slots``: distances from a thread's fsbase to the address of its thread state.
    """

    slots: tuple[int, ...]
    ident: int
    cframe: int
    top: int
    code: int
    instruction: int
    owner: int
    previous: int
    namespace: int
    tag_mask: int
    first_foreign: int
    identity: int
    line: int
    texts: int
    version: int
    warmup: int

    def packed(self) -> bytes:
        """As the programs read it; each time, nothing that they remember of code is true."""
        slots = (*self.slots, *[0] * (_SLOTS - len(self.slots)))
        return _PYTHON.pack(*slots, *astuple(self)[1:], secrets.randbits(64))


def forgetful(packed: bytes) -> bytes:
    """The same walk for programs that do not believe what they remember of code."""
    return packed[:-8] + secrets.token_bytes(8)


def parse(raw: bytes) -> KernelStack:
    """A ``struct ps_stack``."""
    _, tgid, depth, flags = _HEAD.unpack_from(raw)
    frames = []
    for code, instruction, namespace, check in islice(
        _FRAME.iter_unpack(raw[_HEAD.size :]), min(depth, MAX_FRAMES)
    ):
        frames.append(
            KernelFrame(code, instruction & _ADDRESS, instruction >> 56, namespace, check)
        )
    return KernelStack(tgid, bool(flags & _TRUNCATED), tuple(frames))


def check_value(raw: bytes, layout: Layout) -> int:
    """What ``ps_code_check`` makes of the code object whose header is ``raw``."""
    at = layout["PyCodeObject.co_firstlineno"]
    total = int.from_bytes(raw[at : at + 4], "little") * _LINE_MULTIPLIER
    version = layout.offsets.get("PyCodeObject.co_version")
    if version is not None:
        number = int.from_bytes(raw[version : version + 4], "little")
        total += number * _VERSION_MULTIPLIER
    for name, multiplier in zip(_TEXTS, _MULTIPLIERS, strict=True):
        at = layout[f"PyCodeObject.{name}"]
        total += int.from_bytes(raw[at : at + 8], "little") * multiplier
    return total & (1 << 64) - 1


def find_walk(
    memory: MemoryReader, layout: Layout, threads: Sequence[ThreadState]
) -> StackWalk | None:
    """The walk for a process with these threads; None where the programs cannot do it."""
    slots = _find_slots(memory, threads)
    texts = [layout[f"PyCodeObject.{name}"] for name in _TEXTS]
    line = layout["PyCodeObject.co_firstlineno"]
    version = layout.offsets.get("PyCodeObject.co_version", -1)
    warmup = layout.offsets.get("PyCodeObject.co_warmup", -1)
    identity = min(at for at in (line, version, warmup) if at >= 0) & ~7
    walk = StackWalk(
        slots=slots,
        ident=layout["PyThreadState.thread_id"],
        cframe=layout.offsets.get("PyThreadState.cframe", -1),
        top=layout.either("_PyCFrame.current_frame", "PyThreadState.current_frame"),
        code=layout.either("_PyInterpreterFrame.f_executable", "_PyInterpreterFrame.f_code"),
        instruction=layout.either(
            "_PyInterpreterFrame.instr_ptr", "_PyInterpreterFrame.prev_instr"
        ),
        owner=layout["_PyInterpreterFrame.owner"],
        previous=layout["_PyInterpreterFrame.previous"],
        namespace=layout["_PyInterpreterFrame.f_globals"],
        tag_mask=layout.constants["stackref_tag_mask"],
        first_foreign=layout.constants["first_foreign_owner"],
        identity=identity,
        line=line - identity,
        texts=texts[0] - identity,
        version=version - identity if version >= 0 else -1,
        warmup=warmup - identity if warmup >= 0 else -1,
    )
    words = (walk.code, walk.instruction, walk.previous, walk.namespace)
    fits = all(at % 8 == 0 and 0 <= at <= _READ - 8 for at in words) and walk.owner < _READ
    fits &= walk.texts % 8 == 0 and 0 <= walk.texts <= _CODE_READ - 32
    in_a_row = texts == [texts[0] + 8 * number for number in range(len(texts))]
    return walk if slots and fits and in_a_row else None


def _find_slots(memory: MemoryReader, threads: Sequence[ThreadState]) -> tuple[int, ...]:
    """Where near its fsbase a thread has the address of its thread state: most of them do.

    CPython's pthread key, or its own thread-local variable, which in some versions is
    null while a thread waits: with both, each is tried. A thread's ``ident`` is its
    fsbase (glibc and musl on x86-64). One that begins or ends has nothing there.
    """
    looked_at = 0
    holds: Counter[int] = Counter()
    for state in threads[:_THREADS_LOOKED_AT]:
        (raw,) = memory.read_many([(state.ident - _NEAR, 2 * _NEAR)])
        if raw is None:  # its block is shorter than that
            continue
        looked_at += 1
        words = struct.unpack(f"<{2 * _NEAR // 8}Q", raw)
        holds.update(n * 8 - _NEAR for n, word in enumerate(words) if word == state.address)
    most = [at for at, count in holds.items() if at and count > looked_at / 2]
    return tuple(sorted(most, key=lambda at: (at < 0, abs(at)))[:_SLOTS])
