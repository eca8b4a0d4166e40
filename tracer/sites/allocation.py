"""Where to see pymalloc take a new pool, and where to see requests over 4 KiB.

**Pool refill.** ``allocate_from_new_pool`` (Objects/obmalloc.c) is static: unstripped
builds name it, stripped ones do not. There it is found from an exported caller: every
build computes the size class as ``(size - 1) >> 4`` and hands it to the refill
function in ``edi`` (up to 3.11) or ``esi`` (3.12 on, where the interpreter's state is
the first argument); so the callee of the one direct call that is made with a value
fresh from ``shr $4`` in an argument register is the refill function, and that
register is where the class stands.

**Large requests.** What pymalloc does not serve itself (over 512 bytes), numpy's
array data, and every C extension's own buffers end in libc's ``malloc``, ``calloc``
and ``realloc``. Their entries see all of these, once each, at the price that the call
sites inside CPython would have (those miss numpy and extensions). What is *not* seen:
memory that a program maps itself (``mmap``, ``posix_memalign``), and the requests of
an allocator that replaces libc's (jemalloc, tcmalloc by LD_PRELOAD).
"""

from __future__ import annotations

import msgspec

from tracer.elf import Elf
from tracer.sites.planner import Function, PriceClass, Refusal, Site, find, plan
from tracer.sites.x86 import Instruction, decode, walk

REFILL = "allocate_from_new_pool"
CALLERS = ("_PyObject_Malloc", "PyObject_Malloc")
MAX_SEARCH = 400
ALIGNMENT = 16  # Objects/obmalloc.c, 64-bit builds from 3.7 on: class c serves (c + 1) * 16 bytes
_CLASS_SHIFT = 4

_ARGUMENTS = ("rdi", "rsi")


class RefillSite(msgspec.Struct, frozen=True, tag=True):
    """``register`` holds the size class when the site is hit."""

    site: Site
    register: str
    how: str


class LargeSites(msgspec.Struct, frozen=True, tag=True):
    """libc's three entries; ``nested`` are the [start, end) of those that call ``malloc``.

    ``realloc_null_is_malloc``: ``realloc(NULL, n)`` jumps to ``malloc``'s entry, where
    it is counted.
    """

    malloc: Site
    calloc: Site
    realloc: Site
    nested: tuple[tuple[int, int], ...]
    realloc_null_is_malloc: bool


def plan_refill(elf: Elf, *, long_nops: bool = False) -> RefillSite | Refusal:
    """The refill function of an interpreter, by symbol or by disassembly of its callers."""
    named = find(elf, REFILL)
    refusal = Refusal(REFILL, "no exported function of pymalloc is in the symbol table")
    for name in CALLERS:
        caller = find(elf, name)
        if caller is None:
            continue
        found = _refill_call(elf, caller)
        if found is None:
            refusal = Refusal(REFILL, f"no call with a size class in {name}")
            continue
        target, register = found
        function = Function(REFILL, target, named.size if named else 0)
        if named is not None and named.address != target:
            return Refusal(REFILL, f"the symbol and the call in {name} disagree")
        site = plan(elf, function, (register,), long_nops=long_nops)
        if isinstance(site, Refusal):
            return site
        return RefillSite(site, register, "symbol" if named else f"called by {name}")
    return refusal


def _refill_call(elf: Elf, caller: Function) -> tuple[int, str] | None:
    """(callee, class register) of the direct call that is made with a fresh size class.

    A path-wise walk: along each path, ``classes`` are the registers that hold the
    result of ``shr $4`` and were not overwritten since.
    """
    end = caller.address + caller.size if caller.size else None
    pending: list[tuple[int, frozenset[str]]] = [(caller.address, frozenset())]
    seen: set[tuple[int, frozenset[str]]] = set()
    found: set[tuple[int, str]] = set()
    while pending and len(seen) < MAX_SEARCH:
        at, classes = pending.pop()
        while (at, classes) not in seen and len(seen) < MAX_SEARCH:
            seen.add((at, classes))
            instruction = decode(elf, at)
            if instruction is None:
                break
            found |= _as_refill(elf, instruction, classes)
            classes = _after(instruction, classes)
            if not instruction.is_call and instruction.target is not None:
                inside = end is None or caller.address <= instruction.target < end
                if inside:
                    pending.append((instruction.target, classes))
            if instruction.is_end:
                break
            at = instruction.end
    return found.pop() if len(found) == 1 else None


def _as_refill(elf: Elf, instruction: Instruction, classes: frozenset[str]) -> set[tuple[int, str]]:
    if not instruction.is_call or instruction.target is None:
        return set()
    held = [register for register in _ARGUMENTS if register in classes]
    if len(held) != 1 or elf.plt_name(instruction.target) is not None:
        return set()
    return {(instruction.target, held[0])}


def _after(instruction: Instruction, classes: frozenset[str]) -> frozenset[str]:
    if instruction.mnemonic == "shr" and instruction.operands.endswith(f", {_CLASS_SHIFT}"):
        return classes | (instruction.writes - {"rflags"})
    return classes - instruction.writes


def plan_large(elf: Elf, *, long_nops: bool = False) -> LargeSites | Refusal:
    """The entries of ``malloc``, ``calloc`` and ``realloc`` of a C library."""
    functions, sites = {}, {}
    for name, arguments in (
        ("malloc", ("rdi",)), ("calloc", ("rdi", "rsi")), ("realloc", ("rdi", "rsi"))
    ):  # fmt: skip
        function = find(elf, name)
        if function is None:
            return Refusal(name, "not in this C library")
        site = plan(elf, function, arguments, stack_untouched=True, long_nops=long_nops)
        if isinstance(site, Refusal):
            return site
        functions[name], sites[name] = function, site
    malloc = functions["malloc"].address
    return LargeSites(
        sites["malloc"],
        sites["calloc"],
        sites["realloc"],
        tuple(
            (functions[name].address, functions[name].address + functions[name].size)
            for name in ("calloc", "realloc")
        ),
        _jumps_to(elf, functions["realloc"], malloc),
    )


def _jumps_to(elf: Elf, function: Function, target: int) -> bool:
    end = function.address + function.size
    return any(
        instruction.is_jump and instruction.target == target
        for instruction in walk(elf, function.address, MAX_SEARCH * 4, end)
    )


__all__ = [
    "ALIGNMENT",
    "LargeSites",
    "PriceClass",
    "RefillSite",
    "plan_large",
    "plan_refill",
]
