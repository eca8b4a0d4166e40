"""USDT probes of an ELF file: where they are and where their arguments stand.

Source: systemtap's ``sys/sdt.h`` (the layout of ``.note.stapsdt``, ``.stapsdt.base``) and
https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation (the argument format:
``N@OP``, N the width in bytes, negative for a signed value; OP an operand as the GNU
assembler writes it). Notes are a file's own claim about itself and may say anything: every
size is bounded, and a note that does not fit is left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal

import msgspec

from probes.errors import BadElf
from tracer.elf import Elf

MAX_NOTES_BYTES = 1 << 20
MAX_PROBES = 4096
MAX_ARGUMENTS = 12
_STAPSDT = 3
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.$-]{0,127}")

# Offsets in struct pt_regs of x86-64 (arch/x86/include/uapi/asm/ptrace.h), by 64-bit name.
REGISTERS = {
    name: 8 * index
    for index, name in enumerate(
        ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8",
         "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp")
    )
}  # fmt: skip
_LEGACY = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")


def _by_any_width() -> dict[str, int]:
    found = {}
    for name in _LEGACY:
        low = f"{name[0]}l" if name[1] == "x" else f"{name}l"
        for form in (f"r{name}", f"e{name}", name, low):
            found[form] = REGISTERS[f"r{name}"]
    for number in range(8, 16):
        for suffix in ("", "d", "w", "b"):
            found[f"r{number}{suffix}"] = REGISTERS[f"r{number}"]
    return found


_FORMS = _by_any_width()
_ARGUMENT = re.compile(r"(-?)([1248])@(\S+)")
_CONSTANT = re.compile(r"\$(-?(?:0x[0-9a-fA-F]{1,16}|\d{1,20}))")
_REGISTER = re.compile(r"%([a-z0-9]{2,4})")
_SYMBOLIC = re.compile(r"([A-Za-z_.$][\w.$]{0,255})(?:\+(\d{1,9}))?\(%rip\)")
_MEMORY = re.compile(
    r"(-?(?:0x[0-9a-fA-F]{1,16}|\d{1,20}))?\((?:%([a-z0-9]{2,4}))?(?:,%([a-z0-9]{2,4})(?:,([1248]))?)?\)"
)


class Argument(msgspec.Struct, frozen=True):
    """Where one argument stands when the probe is hit.

    ``constant``: ``value`` itself. ``register``: in the register at offset ``base`` of
    struct pt_regs. ``memory``: at ``value`` + register ``base`` + register ``index`` *
    ``scale`` (0: no index). ``width`` in bytes.
    """

    source: Literal["constant", "register", "memory"]
    value: int = 0
    base: int = 0
    index: int = 0
    scale: int = 0
    width: int = 8
    signed: bool = False


class UsdtProbe(msgspec.Struct, frozen=True):
    """One place of one probe; the same probe may stand in many places.

    ``address`` is the link-time address of its nop, ``offset`` the same in the file.
    ``semaphore``: file offset of the counter that switches it on, 0 when it has none.
    ``arguments``: as the note has them; ``argument`` reads one.
    """

    provider: str
    name: str
    address: int
    offset: int
    semaphore: int
    arguments: str


class BadArgument(ValueError):
    """An argument of a form that is not understood; the text says which."""


def probes(elf: Elf, provider: str) -> tuple[UsdtProbe, ...]:
    """All places of a provider's probes, in the file's order. Raises BadElf."""
    section = elf.section(".note.stapsdt")
    if section is None or not 0 < section[2] <= MAX_NOTES_BYTES:
        return ()
    base = elf.section(".stapsdt.base")
    notes = elf.file_bytes(section[1], section[2])
    found = []
    for description in _notes(notes):
        probe = _probe(elf, description, None if base is None else base[0])
        if probe is not None and probe.provider == provider:
            found.append(probe)
        if len(found) >= MAX_PROBES:
            break
    return tuple(found)


def _notes(raw: bytes) -> Iterator[bytes]:
    """The descriptions of well-formed stapsdt notes."""
    at = 0
    while at + 12 <= len(raw):
        name_size, size, kind = struct.unpack_from("<III", raw, at)
        body = at + 12 + (name_size + 3 & ~3)
        if body + size > len(raw):
            return
        if kind == _STAPSDT and raw[at + 12 : at + 20] == b"stapsdt\0":
            yield raw[body : body + size]
        at = body + (size + 3 & ~3)


def _probe(elf: Elf, raw: bytes, base: int | None) -> UsdtProbe | None:
    if len(raw) < 27:
        return None
    address, noted_base, semaphore = struct.unpack_from("<QQQ", raw)
    parts = raw[24:].split(b"\0")
    if len(parts) < 4:  # three strings, each with its end
        return None
    if base is not None and noted_base:  # moved as a whole since, by prelink
        address += base - noted_base
        semaphore += base - noted_base if semaphore else 0
    try:
        provider, name, arguments = (part.decode("ascii") for part in parts[:3])
        offset = elf.file_offset(address)
        counter = elf.file_offset(semaphore) if semaphore else 0
        if not elf.file_bytes(offset, 1):
            return None
    except (UnicodeDecodeError, BadElf):
        return None
    if not _NAME.fullmatch(provider) or not _NAME.fullmatch(name):
        return None
    return UsdtProbe(provider, name, address, offset, counter, arguments)


def argument(elf: Elf, probe: UsdtProbe, number: int) -> Argument:
    """Argument ``number``, from 1 on. Raises BadArgument, BadElf."""
    texts = probe.arguments.split()
    if not 1 <= number <= min(len(texts), MAX_ARGUMENTS):
        raise BadArgument(f"it has {len(texts)} arguments, not {number}")
    text = texts[number - 1]
    found = _ARGUMENT.fullmatch(text)
    if found is None:
        raise BadArgument(f"argument {number}, '{text[:40]}', is no integer of a known width")
    signed, width, operand = bool(found[1]), int(found[2]), found[3]
    place = _constant(operand) or _in_register(operand) or _in_memory(elf, probe, operand)
    if place is None:
        raise BadArgument(f"argument {number}, '{text[:40]}', stands in an unknown place")
    return msgspec.structs.replace(place, width=width, signed=signed)


def _constant(operand: str) -> Argument | None:
    found = _CONSTANT.fullmatch(operand)
    return Argument("constant", _number(found[1])) if found else None


def _in_register(operand: str) -> Argument | None:
    found = _REGISTER.fullmatch(operand)
    if found is None or found[1] not in _FORMS:
        return None
    return Argument("register", base=_FORMS[found[1]])


def _in_memory(elf: Elf, probe: UsdtProbe, operand: str) -> Argument | None:
    """``off(%reg)``, ``off(%base,%index,scale)`` and ``name+off(%rip)``."""
    found = _SYMBOLIC.fullmatch(operand)
    if found is not None:
        symbol = elf.symbol(found[1])
        if symbol is None or symbol.function:
            return None
        distance = symbol.address + int(found[2] or 0) - probe.address
        return Argument("memory", distance, REGISTERS["rip"])
    found = _MEMORY.fullmatch(operand)
    if found is None or found[2] is None:
        return None
    base, index = _FORMS.get(found[2]), _FORMS.get(found[3] or "rax")
    if base is None or index is None:
        return None
    scale = int(found[4] or 1) if found[3] else 0
    return Argument("memory", _number(found[1] or "0"), base, index if scale else 0, scale)


def _number(text: str) -> int:
    """As 64 bits, two's complement."""
    return int(text, 0) if not text.lstrip("-").startswith("0x") else int(text, 16)
