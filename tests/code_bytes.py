"""Assembled bytes that are read as an ELF file's code."""

from __future__ import annotations

from collections.abc import Mapping

from probes.errors import BadElf
from tracer.elf import Elf, Symbol

BASE = 0x1000


class CodeBytes(Elf):
    """Code at ``BASE`` (hexadecimal text) that stands in no file.

    ``stubs``: what the PLT stubs at these distances from there are called. ``own``: symbols.
    """

    def __init__(
        self,
        text: str,
        stubs: Mapping[int, str] | None = None,
        own: Mapping[str, Symbol] | None = None,
    ) -> None:
        self._bytes, self._stubs, self._own = bytes.fromhex(text), stubs or {}, own or {}

    def close(self) -> None:
        """Nothing is open."""

    def read(self, address: int, size: int) -> bytes:
        """Some of the code. Raises BadElf."""
        at = address - BASE
        if at < 0 or at + size > len(self._bytes):
            raise BadElf("outside")
        return self._bytes[at : at + size]

    def file_offset(self, address: int) -> int:
        """The distance from ``BASE``."""
        return address - BASE

    def plt_name(self, address: int) -> str | None:
        """As told."""
        return self._stubs.get(address - BASE)

    def exported(self, name: str) -> tuple[Symbol, ...]:
        """As told."""
        return (self._own[name],) if name in self._own else ()

    def local(self, name: str) -> tuple[Symbol, ...]:
        """None."""
        return ()
