"""Where in a function a uprobe may sit: the nearest cheap place that sees the arguments.

Most functions of CPython and libc begin with an instruction that the kernel has to
single-step under a uprobe (35 times the price of one that it emulates). The planner
walks the straight line from the entry to the first instruction that is emulated and
is reached exactly once per call, watching that nothing on the way overwrites a
register that still has to hold its argument. Where there is no such place it refuses
and says why: a probe that would slow the target down tenfold is no probe.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from probes.errors import BadElf
from tracer.elf import Elf
from tracer.sites.x86 import NOP5, Instruction, decode, emulatable, walk

MAX_STRAIGHT_LINE = 32
MAX_BODY = 2000


class PriceClass(Enum):
    """What one hit of a site costs, as ``tracer.sites.price`` measures it."""

    NOP5 = "nop5"
    EMULATED = "emulated"
    STEPPED = "single-stepped"


class Site(msgspec.Struct, frozen=True, tag=True):
    """A place for a uprobe.

    ``address`` is the link-time address of the instruction, ``offset`` the same place
    in the file (what the kernel wants), ``distance`` how far it lies behind the
    function's entry. ``stack_untouched``: the return address is still on top of the
    stack, so that a return probe may sit here as well.
    """

    function: str
    address: int
    offset: int
    distance: int
    instruction: str
    price: PriceClass
    stack_untouched: bool


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """No probe on this function, and why."""

    function: str
    why: str


class Function(msgspec.Struct, frozen=True, tag=True):
    """A function to be probed: its name for people, entry address, size (0: unknown)."""

    name: str
    address: int
    size: int = 0


def plan(
    elf: Elf,
    function: Function,
    arguments: tuple[str, ...] = (),
    *,
    stack_untouched: bool = False,
    long_nops: bool = False,
) -> Site | Refusal:
    """The nearest cheap site at or behind the entry of ``function``.

    ``arguments`` are the registers (``rdi`` …) that must still hold what the caller
    put there; ``stack_untouched`` asks for a place where ``[rsp]`` is still the return
    address. ``long_nops``: see ``x86.emulatable``.
    """
    at, untouched = function.address, True
    for _ in range(MAX_STRAIGHT_LINE):
        instruction = decode(elf, at)
        if instruction is None:
            return Refusal(function.name, f"no x86-64 instruction at {at:#x}")
        if emulatable(instruction.code, long_nops=long_nops):
            return _accept(elf, function, instruction, untouched)
        lost = instruction.writes.intersection(arguments)
        if lost:
            return Refusal(
                function.name,
                f"'{instruction}' at +{at - function.address:#x} overwrites {min(lost)} "
                "before any instruction that the kernel emulates",
            )
        if "rsp" in instruction.writes:
            untouched = False
            if stack_untouched:
                return Refusal(
                    function.name,
                    f"'{instruction}' at +{at - function.address:#x} moves the stack before any "
                    "instruction that the kernel emulates, so the return cannot be probed",
                )
        if instruction.is_end:
            break
        at = instruction.end
    return Refusal(function.name, "the kernel would have to single-step every instruction")


def _accept(
    elf: Elf, function: Function, instruction: Instruction, untouched: bool
) -> Site | Refusal:
    again = _reached_again(elf, function, instruction.address)
    if again is not None:
        return Refusal(
            function.name, f"a loop ({again:#x}) comes back to '{instruction}' within one call"
        )
    return Site(
        function=function.name,
        address=instruction.address,
        offset=elf.file_offset(instruction.address),
        distance=instruction.address - function.address,
        instruction=str(instruction),
        price=PriceClass.NOP5 if instruction.code == NOP5 else PriceClass.EMULATED,
        stack_untouched=untouched,
    )


def _reached_again(elf: Elf, function: Function, site: int) -> int | None:
    """The address of a jump inside the function to the site or to the line before it.

    Jumping to the entry itself is calling anew (a tail call to oneself), not a loop.
    """
    end = function.address + function.size if function.size else None
    for instruction in walk(elf, function.address, MAX_BODY, end):
        target = instruction.target
        if target is None or instruction.is_call:
            continue
        if function.address < target <= site:
            return instruction.address
    return None


def tail_callee(elf: Elf, function: Function) -> Function | None:
    """The one other function that ``function`` ends in by a direct jump, if there is just one.

    glibc's ``sem_wait`` takes a free semaphore itself and jumps to
    ``__new_sem_wait_slow64`` for a contended one (nptl/sem_wait.c): a probe behind the
    jump costs nothing where nothing waits.
    """
    if not function.size:
        return None
    end = function.address + function.size
    targets = {
        instruction.target
        for instruction in walk(elf, function.address, MAX_BODY, end)
        if instruction.is_jump
        and instruction.target is not None
        and not function.address <= instruction.target < end
    }
    if len(targets) != 1:
        return None
    return Function(f"{function.name} (contended)", targets.pop())


def find(elf: Elf, name: str) -> Function | None:
    """A function of the file by its exported or, in unstripped files, its local name."""
    try:
        symbol = elf.symbol(name)
    except BadElf:
        return None
    if symbol is None or symbol.indirect or not symbol.address:
        return None
    return Function(name, symbol.address, symbol.size)
