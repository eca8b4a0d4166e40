"""The ELF reader against pyelftools, on the files of the running process, and on damage."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from probes.errors import BadElf
from tracer.elf import Elf


def mapped_files() -> list[Path]:
    """This interpreter, its libc and whatever else is mapped with code."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {Path(line.split()[5]) for line in lines if " r-xp " in line and "/" in line}
    chosen = {path for path in paths if path.name.startswith(("libc.so", "libm.so", "libpython"))}
    return sorted(chosen | {Path(sys.executable).resolve()})


@pytest.fixture(params=mapped_files(), ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def section_of(stream: BinaryIO, name: str) -> Any:
    """A section by name, None when there is none; untyped, as its kind depends on the name."""
    return ELFFile(stream).get_section_by_name(name)


def defined(path: Path, section: str) -> dict[str, set[tuple[int, int]]]:
    """Name → {(address, size)} as pyelftools has them."""
    symbols: dict[str, set[tuple[int, int]]] = {}
    with path.open("rb") as stream:
        table = section_of(stream, section)
        for symbol in table.iter_symbols() if table is not None else ():
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol.name:
                place = (symbol["st_value"], symbol["st_size"])
                symbols.setdefault(symbol.name, set()).add(place)
    return symbols


def test_every_exported_symbol_is_found(path: Path) -> None:
    with Elf.open(str(path)) as elf:
        assert elf.machine == "x86_64"
        for name, places in defined(path, ".dynsym").items():
            assert {(found.address, found.size) for found in elf.exported(name)} == places, name


def test_the_default_version_comes_first() -> None:
    libc = next(path for path in mapped_files() if path.name.startswith("libc.so"))
    with Elf.open(str(libc)) as elf:
        newest, *_older = elf.exported("pthread_cond_timedwait")
        symbol = elf.symbol("pthread_cond_timedwait")
        assert symbol == newest
    with libc.open("rb") as stream:
        versions = section_of(stream, ".gnu.version")
        table = section_of(stream, ".dynsym")
        indices = [
            at
            for at in range(table.num_symbols())
            if table.get_symbol(at).name == "pthread_cond_timedwait"
        ]
        marks = {at: versions.get_symbol(at)["ndx"] for at in indices}
        # The bit VERSYM_HIDDEN marks every version but the default one.
        defaults = [
            table.get_symbol(at)["st_value"] for at, mark in marks.items() if not mark & 0x8000
        ]
    assert [newest.address] == defaults


def test_absent_and_undefined_symbols_are_none(path: Path) -> None:
    with Elf.open(str(path)) as elf:
        assert elf.symbol("no_such_symbol_anywhere") is None
        assert elf.exported("") == ()


def test_build_id_offsets_and_bytes(path: Path) -> None:
    with path.open("rb") as stream, Elf.open(str(path)) as elf:
        note = section_of(stream, ".note.gnu.build-id")
        assert elf.build_id == next(iter(note.iter_notes()))["n_desc"]
        text = section_of(stream, ".text")
        address, offset = text["sh_addr"], text["sh_offset"]
        assert elf.file_offset(address) == offset
        assert elf.address_of_offset(offset) == address
        stream.seek(offset)
        assert elf.read(address, 64) == stream.read(64)


def test_plt_stubs_lead_to_the_right_functions(path: Path) -> None:
    with path.open("rb") as stream, Elf.open(str(path)) as elf:
        section = section_of(stream, ".rela.plt")
        if not isinstance(section, RelocationSection):
            pytest.skip("the file has no PLT")
        table: Any = ELFFile(stream).get_section(section["sh_link"])
        slots = {
            relocation["r_offset"]: table.get_symbol(relocation["r_info_sym"]).name
            for relocation in section.iter_relocations()
            if relocation["r_info_type"] == 7
        }
        assert {slot: elf.plt_name(slot) for slot in slots} == slots
        plt = section_of(stream, ".plt")
        stubs = range(plt["sh_addr"] + 16, plt["sh_addr"] + plt["sh_size"], 16)
        named = {name for stub in stubs if (name := elf.plt_name(stub)) is not None}
        assert named <= set(slots.values())
        assert not slots or named


def test_local_symbols_of_an_unstripped_file(path: Path) -> None:
    local = defined(path, ".symtab")
    with Elf.open(str(path)) as elf:
        assert elf.local("_start") or not local
        for name in sorted(local)[:200]:
            found = {(symbol.address, symbol.size) for symbol in elf.local(name)}
            assert found == local[name], name


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n" * 10,
        b"\x7fELF" + b"\xff" * 90,
        b"\x7fELF\2\1" + b"\xff" * 90,
    ],
    ids=["empty", "short", "script", "no class", "no sense"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(BadElf):
        Elf.open(str(file)).symbol("x")


def test_a_fifo_does_not_hang_it(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(BadElf, match="regular file"):
        Elf.open(str(fifo))


def test_damage_raises_nothing_but_its_own_error(tmp_path: Path) -> None:
    """Bytes changed in the headers and tables that a look-up goes through."""
    libm = next(path for path in mapped_files() if path.name.startswith("libm.so"))
    whole = libm.read_bytes()
    with Elf.open(str(libm)) as elf:
        names = ("sin", "cos", "nothing")
        tables = [elf.file_offset(elf._dynamic[tag]) for tag in (5, 6, 0x6FFFFEF5)]
    chance = random.Random(20)
    file = tmp_path / "damaged.so"
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 12)):
            start = chance.choice([0, 0, 64, *tables])
            damaged[start + chance.randrange(400)] = chance.randrange(256)
        file.write_bytes(damaged[: chance.choice([len(whole), chance.randrange(len(whole))])])
        try:
            with Elf.open(str(file)) as elf:
                for name in names:
                    elf.symbol(name)
                assert elf.build_id is None or isinstance(elf.build_id, str)
                elf.plt_name(tables[0])
        except BadElf:
            pass
