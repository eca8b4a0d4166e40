"""Where control leaves a function: what is probed instead of its return.

A return probe changes the return address on the target's stack. A thread that is unwound
meanwhile (``pthread_exit`` in a daemon thread that wants the GIL at the shutdown of CPython
3.11 to 3.13) is unwound no further than there. A probe on the ``ret`` instructions and tail
calls themselves changes nothing but code.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from probes.errors import BadElf
from tracer.elf import Elf
from tracer.sites.planner import MAX_BODY, Function, PriceClass, Refusal, find
from tracer.sites.x86 import NOP5, Instruction, decode, emulatable

MAX_EXITS = 16
_UNKNOWN_SIZE = 4096


class Exit(msgspec.Struct, frozen=True):
    """One instruction with which a call ends, the stack pointer as it was at the entry.

    ``offset`` in the file. ``result``: the register rax holds what the function returns;
    at a tail call into another library it is not known yet.
    """

    offset: int
    instruction: str
    price: PriceClass
    result: bool


class _Unclear(Exception):
    """Why it cannot be said where a function ends."""


def exits(elf: Elf, function: Function, *, long_nops: bool = False) -> tuple[Exit, ...] | Refusal:
    """All exits of ``function``, those of functions of this file that it ends in included.

    Such a function may be called by others too, and often: it is probed where that is cheap
    only. Whoever is told of an exit compares the stack pointer with that of the entry.
    ``long_nops``: see ``x86.emulatable``.
    """
    try:
        found = tuple(_exit(elf, *one, long_nops) for one in _ends(elf, function))
    except _Unclear as error:
        return Refusal(function.name, str(error))
    if not found:
        return Refusal(function.name, "it never returns")
    if len(found) > MAX_EXITS:
        return Refusal(function.name, f"it ends in {len(found)} places, more than {MAX_EXITS}")
    return found


def _exit(elf: Elf, at: Instruction, own: bool, long_nops: bool) -> Exit:
    cheap = emulatable(at.code, long_nops=long_nops)
    if not cheap and not own:
        raise _Unclear(
            f"it ends in other code, by '{at}' at {at.address:#x}, which the kernel would "
            "single-step for all who run it"
        )
    price = PriceClass.NOP5 if at.code == NOP5 else PriceClass.EMULATED
    price = price if cheap else PriceClass.STEPPED
    return Exit(elf.file_offset(at.address), str(at), price, not at.is_jump)


def _ends(elf: Elf, function: Function) -> Iterator[tuple[Instruction, bool]]:
    """The instructions that end a call, and whether they are the function's own.

    Raises _Unclear.
    """
    whole = range(function.address, _end(function) or function.address + _UNKNOWN_SIZE)
    pending: list[tuple[int, int | None]] = [(function.address, _end(function))]
    seen = set[int]()
    while pending:
        at, end = pending.pop()
        while at not in seen and at != end:
            instruction = decode(elf, at)
            if instruction is None or len(seen) >= MAX_BODY:
                raise _Unclear(f"it cannot be followed beyond {at:#x}, so its ends are unknown")
            seen.add(at)
            target = instruction.target
            if instruction.is_jump:
                onward = _onward(elf, instruction, end)
                if onward is None:
                    yield instruction, at in whole
                else:
                    pending.append(onward)
            elif instruction.is_branch and target is not None:
                if elf.plt_name(target) is not None:
                    raise _Unclear(f"'{instruction}' at {at:#x} may leave the library or not")
                pending.append((target, end))
            elif instruction.is_end and instruction.mnemonic.endswith("ret"):
                yield instruction, at in whole
            if instruction.is_end:
                break
            at = instruction.end


def _end(function: Function) -> int | None:
    """Behind it: what comes after a call that never returns is no part of it."""
    return function.address + function.size if function.size else None


def _onward(elf: Elf, jump: Instruction, end: int | None) -> tuple[int, int | None] | None:
    """Where a jump goes on within this file; None: it leaves it. Raises _Unclear."""
    try:
        name = elf.plt_name(jump.address if jump.target is None else jump.target)
    except BadElf:
        name = None
    if name is not None:
        callee = find(elf, name) if elf.exported(name) else None
        return None if callee is None else (callee.address, _end(callee))
    if jump.target is None:
        raise _Unclear(f"'{jump}' at {jump.address:#x} goes nobody knows where")
    return jump.target, end
