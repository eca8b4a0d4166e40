"""A small, bounded ELF reader: what a probe or a memory reader needs, and no more.

Why not pyelftools: it iterates whole symbol tables in Python (0.1–0.6 s for
libpython); a look-up through ``.gnu.hash`` takes a handful of small reads.
Files are chosen by the target and so untrusted: they are read with ``pread``
(never mapped: a file truncated under a mapping would kill the reader), every
size is bounded, and whatever does not fit raises ``BadElf``.

Sources: System V ABI, gABI chapters 4 and 5; the GNU hash section as written by
binutils and read by glibc's elf/dl-lookup.c; symbol versions as in elf/dl-lookup.c
(``VERSYM_HIDDEN``); x86-64 psABI for relocations and PLT stubs.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collector.closing import OpenFile, open_to_read
from probes.errors import BadElf

MAX_TABLE_BYTES = 256 << 20
MAX_SEGMENTS = 4096
MAX_CHAIN = 65536
MAX_NAME = 4096

_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv", 21: "ppc64"}
_PT_LOAD, _PT_DYNAMIC, _PT_NOTE = 1, 2, 4
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SONAME = 4, 5, 6, 10, 14
_DT_RELA, _DT_RELASZ, _DT_JMPREL, _DT_PLTRELSZ = 7, 8, 23, 2
_DT_GNU_HASH, _DT_VERSYM = 0x6FFFFEF5, 0x6FFFFFF0
_SHT_SYMTAB = 2
_R_X86_64_GLOB_DAT, _R_X86_64_JUMP_SLOT = 6, 7
_SYM = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("shndx", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])


@dataclass(frozen=True, slots=True)
class Symbol:
    """A defined symbol. ``address`` is the link-time virtual address (add the load bias)."""

    address: int
    size: int
    name: str = ""
    function: bool = False
    indirect: bool = False  # STT_GNU_IFUNC: the address is the resolver's, not the function's


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD program header: ``file_size`` bytes at ``offset`` go to ``address``."""

    offset: int
    address: int
    file_size: int
    memory_size: int
    executable: bool


class Elf(OpenFile):
    """One ELF file, open for reading. Close it, or use it as a context manager."""

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd)
        self.path = path
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise BadElf(f"{path}: not a regular file")
        self._size = info.st_size
        self.identity = (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size)
        self._read_header()

    @classmethod
    def open(cls, path: str) -> Elf:
        """Open ``path``. Raises OSError as ``open`` does and BadElf when it is no ELF file."""
        fd = open_to_read(path)
        try:
            return cls(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def _read_header(self) -> None:
        head = self._pread(0, 20)
        if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
            raise BadElf(f"{self.path}: not an ELF file")
        number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        self.bits = 32 * head[4]
        self.machine = _MACHINES.get(number, f"machine-{number}")
        if self.machine == "x86_64" and self.bits == 32:
            self.machine = "x32"
        self.fixed_address = int.from_bytes(head[16:18], "little") == 2  # ET_EXEC
        self.segments: tuple[Segment, ...] = ()
        self._headers: list[tuple[int, ...]] = []
        if self.bits != 64 or head[5] != 1:
            self._sections = (0, 0, 0)
            return  # enough to name the machine; the rest of the reader is for x86-64
        phoff, shoff = struct.unpack("<QQ", self._pread(32, 16))
        phentsize, phnum, shentsize, shnum, _ = struct.unpack("<5H", self._pread(54, 10))
        self._sections = (shoff, shentsize, shnum)
        if phentsize != 56 or phnum > MAX_SEGMENTS:
            raise BadElf(f"{self.path}: program headers of an unknown shape")
        table = self._pread(phoff, phentsize * phnum)
        self._headers = [struct.unpack_from("<IIQQQQQQ", table, at * 56) for at in range(phnum)]
        self.segments = tuple(
            Segment(offset, address, in_file, in_memory, bool(flags & 1))
            for kind, flags, offset, address, _, in_file, in_memory, _ in self._headers
            if kind == _PT_LOAD
        )

    def _pread(self, offset: int, size: int) -> bytes:
        if size < 0 or size > MAX_TABLE_BYTES or offset < 0 or offset + size > self._size:
            raise BadElf(f"{self.path}: a table lies outside the file")
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise BadElf(f"{self.path}: the file became shorter while it was read")
        return data

    def file_offset(self, address: int) -> int:
        """Where in the file the byte at link-time ``address`` stands. Raises BadElf (no such)."""
        for segment in self.segments:
            if 0 <= address - segment.address < segment.file_size:
                return address - segment.address + segment.offset
        raise BadElf(f"{self.path}: address {address:#x} is not in the file")

    def address_of_offset(self, offset: int) -> int:
        """The link-time address that the byte at file ``offset`` is loaded to. Raises BadElf."""
        for segment in sorted(self.segments, key=lambda segment: not segment.executable):
            if 0 <= offset - segment.offset < segment.file_size:
                return offset - segment.offset + segment.address
        raise BadElf(f"{self.path}: offset {offset:#x} is not loaded")

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes of the file's image at link-time ``address``. Raises BadElf."""
        return self._pread(self.file_offset(address), size)

    def load_bias(self, start: int, offset: int, executable: bool) -> int | None:
        """Run-time minus link-time address, from one mapping of the file; None if it is no load.

        ``start`` is the mapping's address, ``offset`` its file offset (both page aligned).
        """
        for segment in self.segments:
            first = segment.offset & ~0xFFF
            if first <= offset < segment.offset + segment.file_size and (
                segment.executable == executable
            ):
                return start - offset + segment.offset - segment.address
        return None

    @cached_property
    def _dynamic(self) -> dict[int, int]:
        for kind, _, offset, _, _, in_file, _, _ in self._headers:
            if kind == _PT_DYNAMIC:
                table = self._pread(offset, min(in_file, 1 << 16) & ~15)
                entries = {}
                for tag, value in struct.iter_unpack("<QQ", table):
                    if tag == 0:
                        break
                    entries[tag] = value
                return entries
        return {}

    def _string(self, offset: int) -> bytes:
        """A NUL-terminated string of the dynamic string table."""
        limit, base = self._dynamic.get(_DT_STRSZ, 0), self._dynamic.get(_DT_STRTAB, 0)
        if offset >= limit:
            raise BadElf(f"{self.path}: a name lies outside the string table")
        return self.read(base + offset, min(MAX_NAME, limit - offset)).split(b"\0", 1)[0]

    @cached_property
    def soname(self) -> str | None:
        """DT_SONAME."""
        offset = self._dynamic.get(_DT_SONAME)
        return None if offset is None else os.fsdecode(self._string(offset))

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build id in hex: a claim of the file, good for display, not as an identity."""
        for kind, _, offset, _, _, in_file, _, _ in self._headers:
            if kind != _PT_NOTE:
                continue
            notes = self._pread(offset, min(in_file, 1 << 16))
            at = 0
            while at + 12 <= len(notes):
                name_size, size, note = struct.unpack_from("<III", notes, at)
                body = at + 12 + (name_size + 3 & ~3)
                if note == 3 and notes[at + 12 : at + 16] == b"GNU\0":
                    return notes[body : body + size].hex()
                at = body + (size + 3 & ~3)
        return None

    def symbol(self, name: str) -> Symbol | None:
        """The symbol's default version from ``.dynsym``, else the one of ``.symtab``, else None."""
        found = self.exported(name) or self.local(name)
        return found[0] if found else None

    def exported(self, name: str) -> tuple[Symbol, ...]:
        """All versions of a dynamic symbol that the file defines, its default version first."""
        wanted = name.encode()
        found = []
        for index in self._candidates(wanted):
            entry = self.read(self._dynamic.get(_DT_SYMTAB, 0) + index * 24, 24)
            offset, info, _, section, address, size = struct.unpack("<IBBHQQ", entry)
            if section and self._string(offset) == wanted:
                hidden = self._version(index) & 0x8000
                found.append((hidden, _symbol(name, info, address, size)))
        return tuple(symbol for _, symbol in sorted(found, key=lambda item: item[0]))

    def _version(self, index: int) -> int:
        table = self._dynamic.get(_DT_VERSYM)
        return 0 if table is None else int.from_bytes(self.read(table + 2 * index, 2), "little")

    def _candidates(self, name: bytes) -> Iterator[int]:
        """Indices of dynamic symbols whose hash is the name's."""
        table = self._dynamic.get(_DT_GNU_HASH)
        if table is not None:
            return self._gnu_chain(table, name)
        table = self._dynamic.get(_DT_HASH)
        return iter(()) if table is None else self._sysv_chain(table, name)

    def _gnu_chain(self, table: int, name: bytes) -> Iterator[int]:
        buckets, first, bloom, shift = struct.unpack("<4I", self.read(table, 16))
        if not buckets or not bloom:
            return
        code = 5381
        for byte in name:
            code = (code * 33 + byte) & 0xFFFFFFFF
        word = int.from_bytes(self.read(table + 16 + 8 * (code // 64 % bloom), 8), "little")
        if not (word >> code % 64 & word >> (code >> shift % 64) % 64 & 1):
            return
        at = table + 16 + 8 * bloom
        index = int.from_bytes(self.read(at + 4 * (code % buckets), 4), "little")
        if index < first:
            return
        for _ in range(MAX_CHAIN):
            entry = int.from_bytes(self.read(at + 4 * (buckets + index - first), 4), "little")
            if entry | 1 == code | 1:
                yield index
            if entry & 1:
                return
            index += 1

    def _sysv_chain(self, table: int, name: bytes) -> Iterator[int]:
        buckets, chains = struct.unpack("<2I", self.read(table, 8))
        code = 0
        for byte in name:
            code = (code << 4) + byte
            code = (code ^ (code >> 24 & 0xF0)) & 0x0FFFFFFF
        if not buckets:
            return
        index = int.from_bytes(self.read(table + 8 + 4 * (code % buckets), 4), "little")
        for _ in range(min(chains, MAX_CHAIN)):
            if not index:
                return
            yield index
            index = int.from_bytes(self.read(table + 8 + 4 * (buckets + index), 4), "little")

    @cached_property
    def _section_headers(self) -> list[tuple[int, ...]]:
        """All section headers (``Elf64_Shdr``), empty where there are none."""
        offset, size, count = self._sections
        if not offset or size != 64 or not count:
            return []
        return list(struct.iter_unpack("<IIQQQQIIQQ", self._pread(offset, size * count)))

    def section(self, name: str) -> tuple[int, int, int] | None:
        """Link-time address, file offset and size of a section, None if there is none."""
        headers = self._section_headers
        (at,) = struct.unpack("<H", self._pread(62, 2)) if headers else (0,)  # e_shstrndx
        if not 0 < at < len(headers):
            return None
        names = self._pread(headers[at][4], headers[at][5])
        for header in headers:
            if names[header[0] : header[0] + len(name) + 1] == name.encode() + b"\0":
                return header[3], header[4], header[5]
        return None

    def file_bytes(self, offset: int, size: int) -> bytes:
        """``size`` bytes at a file offset. Raises BadElf."""
        return self._pread(offset, size)

    @cached_property
    def _symtab(self) -> tuple[np.ndarray, bytes] | None:
        """``.symtab`` and its strings, of an unstripped file."""
        headers = self._section_headers
        for _, kind, _, _, at, length, link, _, _, _ in headers:
            if kind == _SHT_SYMTAB and link < len(headers):
                table = np.frombuffer(self._pread(at, length - length % 24), dtype=_SYM)
                return table, self._pread(headers[link][4], headers[link][5])
        return None

    def local(self, name: str) -> tuple[Symbol, ...]:
        """Definitions of that name in ``.symtab`` (static functions too); empty when stripped."""
        if self.bits != 64 or self._symtab is None:
            return ()
        table, strings = self._symtab
        wanted = name.encode() + b"\0"
        offsets = []
        at = strings.find(wanted)
        while at >= 0:  # linkers share tails, so the name may begin inside a longer one
            offsets.append(at)
            at = strings.find(wanted, at + 1)
        rows = table[np.isin(table["name"], offsets) & (table["shndx"] != 0)]
        return tuple(
            _symbol(name, int(row["info"]), int(row["value"]), int(row["size"])) for row in rows
        )

    @cached_property
    def _slots(self) -> dict[int, int]:
        """GOT slot address → index of the dynamic symbol that the loader writes there."""
        slots: dict[int, int] = {}
        for base_tag, size_tag in ((_DT_JMPREL, _DT_PLTRELSZ), (_DT_RELA, _DT_RELASZ)):
            base, size = self._dynamic.get(base_tag), self._dynamic.get(size_tag, 0)
            if base is None or not size:
                continue
            table = np.frombuffer(self.read(base, size - size % 24), dtype=_RELA)
            kinds = table["info"] & 0xFFFFFFFF
            rows = table[(kinds == _R_X86_64_JUMP_SLOT) | (kinds == _R_X86_64_GLOB_DAT)]
            slots.update(zip(rows["offset"].tolist(), (rows["info"] >> 32).tolist(), strict=True))
        return slots

    def plt_name(self, address: int) -> str | None:
        """The function that a PLT stub, or a GOT slot, at link-time ``address`` leads to.

        Stubs are ``[endbr64] [bnd] jmp *slot(%rip)`` (psABI 5.2). None when it is neither.
        """
        slot = address
        if slot not in self._slots:
            try:
                code = self.read(address, 16)
            except BadElf:
                return None
            at = 4 if code.startswith(b"\xf3\x0f\x1e\xfa") else 0
            at += code[at : at + 1] == b"\xf2"
            if code[at : at + 2] != b"\xff\x25":
                return None
            slot = address + at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)
        index = self._slots.get(slot)
        if not index:
            return None
        entry = self.read(self._dynamic.get(_DT_SYMTAB, 0) + index * 24, 4)
        return os.fsdecode(self._string(int.from_bytes(entry, "little")))


def _symbol(name: str, info: int, address: int, size: int) -> Symbol:
    kind = info & 15
    return Symbol(address, size, name, function=kind in (2, 10), indirect=kind == 10)
