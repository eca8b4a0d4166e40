"""x86-64 instructions as the kernel's uprobes see them: which are emulated, what they write.

A uprobe replaces an instruction by ``int3``. Where the kernel can *emulate* the
original it does so and goes on (0.4 µs per hit on the machine of the study);
anything else is copied out of line and single-stepped (15 µs there, 1–4 µs on bare
metal). The rules below are those of ``arch/x86/kernel/uprobes.c``:
``branch_setup_xol_ops`` (nop, jmp, call, jcc) and ``push_setup_xol_ops``.

Decoding is capstone's; it is imported on first use, because no command needs it
before a target is being probed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

from probes.errors import BadElf

MAX_INSTRUCTION = 15

_LEGACY_PREFIXES: Final = frozenset(
    {0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65}
)
_OPERAND_SIZE: Final = 0x66
_BND: Final = 0xF2  # as in "bnd jmp"; the kernel looks at the opcode behind it

# The kernel's own multi-byte nops (x86_nops in arch/x86/kernel/alternative.c), which
# kernels from 6.18 on emulate and, where they are five bytes long, turn into calls.
_LONG_NOPS: Final = frozenset(
    bytes.fromhex(text)
    for text in ("6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000",
                 "0f1f840000000000")
)  # fmt: skip
NOP5: Final = bytes.fromhex("0f1f440000")


def _split(code: bytes) -> tuple[bytes, int, bytes]:
    """Legacy prefixes, REX byte (0: none) and the rest of one instruction."""
    at = 0
    while at < len(code) and code[at] in _LEGACY_PREFIXES:
        at += 1
    rex = code[at] if at < len(code) and 0x40 <= code[at] <= 0x4F else 0
    return code[:at], rex, code[at + bool(rex) :]


def emulatable(code: bytes, *, long_nops: bool = False) -> bool:
    """Whether the kernel emulates this one instruction under a uprobe.

    ``long_nops``: this kernel also emulates its own multi-byte nops (found out by
    ``tracer.sites.price``). Stricter than the kernel in one place: it takes
    ``41 90`` (``xchg %r8,%rax``) for a nop, which would change the target.
    """
    prefixes, rex, rest = _split(code)
    if not rest:
        return False
    if long_nops and code in _LONG_NOPS:
        return True
    opcode = rest[0]
    if 0x50 <= opcode <= 0x57:  # push_setup_xol_ops
        return not prefixes and rex in (0, 0x41) and len(rest) == 1
    if opcode == 0x90:
        return not prefixes and not rex
    branch = (
        opcode in (0xE8, 0xE9, 0xEB)
        or 0x70 <= opcode <= 0x7F
        or (opcode == 0x0F and len(rest) > 1 and 0x80 <= rest[1] <= 0x8F)
    )
    return branch and all(prefix == _BND for prefix in prefixes)


class Code(Protocol):
    """What the planner reads from: ``tracer.elf.Elf`` has it."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a link-time address. Raises BadElf where there are none."""

    def plt_name(self, address: int) -> str | None:
        """The function that a PLT stub leads to, None when it is no stub."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction.

    ``target`` is the destination of a direct jump or call. ``writes`` names the
    64-bit registers that it may change, callee-clobbered ones included for calls.
    """

    address: int
    code: bytes
    mnemonic: str
    operands: str
    target: int | None
    writes: frozenset[str]

    @property
    def end(self) -> int:
        """The address of the instruction behind it."""
        return self.address + len(self.code)

    @property
    def is_call(self) -> bool:
        """Direct or indirect call."""
        return self.mnemonic.endswith("call")

    @property
    def is_jump(self) -> bool:
        """Unconditional jump."""
        return self.mnemonic.endswith("jmp")

    @property
    def is_branch(self) -> bool:
        """Conditional jump to a known place."""
        return self.target is not None and not self.is_call and not self.is_jump

    @property
    def is_end(self) -> bool:
        """Control does not reach the next instruction."""
        return self.is_jump or self.mnemonic in ("ret", "repz ret", "bnd ret", "hlt", "ud2", "int3")

    def __str__(self) -> str:
        return f"{self.mnemonic} {self.operands}".strip()


_CALL_CLOBBERS: Final = frozenset({"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"})


@cache
def _decoder() -> Any:
    import capstone

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return decoder


@cache
def _wide(register: str) -> str:
    """The 64-bit register that a narrower one is part of (``esi``, ``sil`` → ``rsi``)."""
    for wide in ("ax", "bx", "cx", "dx"):
        if register in (f"r{wide}", f"e{wide}", wide, f"{wide[0]}l", f"{wide[0]}h"):
            return f"r{wide}"
    for wide in ("si", "di", "bp", "sp"):
        if register in (f"r{wide}", f"e{wide}", wide, f"{wide}l"):
            return f"r{wide}"
    if register[:1] == "r" and register[1:2].isdigit():
        return register.rstrip("bdw")
    return register


def decode(code: Code, address: int) -> Instruction | None:
    """The instruction at a link-time address; None where there is none (data, end of file)."""
    for size in range(MAX_INSTRUCTION, 0, -1):  # the segment may end behind the instruction
        try:
            raw = code.read(address, size)
        except BadElf:
            continue
        found = next(_decoder().disasm(raw, address, 1), None)
        if found is not None:
            return _instruction(found)
    return None


def _instruction(found: Any) -> Instruction:
    from capstone import x86

    direct = (found.group(x86.X86_GRP_JUMP) or found.group(x86.X86_GRP_CALL)) and found.operands[
        0
    ].type == x86.X86_OP_IMM
    _, written = found.regs_access()
    writes = frozenset(_wide(found.reg_name(register)) for register in written)
    if found.group(x86.X86_GRP_CALL):
        writes |= _CALL_CLOBBERS
    return Instruction(
        address=found.address,
        code=bytes(found.bytes),
        mnemonic=found.mnemonic,
        operands=found.op_str,
        target=found.operands[0].imm if direct else None,
        writes=writes,
    )


def walk(code: Code, entry: int, limit: int, end: int | None = None) -> Iterator[Instruction]:
    """Every instruction reachable from ``entry`` by direct jumps, at most ``limit`` of them.

    Calls are stepped over. ``end``: jumps out of [entry, end) are yielded, not followed.
    """
    pending, seen = [entry], set[int]()
    while pending and len(seen) < limit:
        at = pending.pop()
        while at not in seen and len(seen) < limit:
            instruction = decode(code, at)
            if instruction is None:
                break
            seen.add(at)
            yield instruction
            target = instruction.target
            inside = target is not None and (end is None or entry <= target < end)
            if target is not None and inside and not instruction.is_call:
                pending.append(target)
            if instruction.is_end:
                break
            at = instruction.end
