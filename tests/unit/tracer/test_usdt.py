"""USDT notes as real compilers and binutils write them, and as nobody should."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from probes.errors import BadElf
from tests.native_maps import compiled
from tracer.elf import Elf
from tracer.native.usdt import REGISTERS, Argument, BadArgument, UsdtProbe, argument, probes

PROVIDER = "concurrent_map"


@pytest.fixture(scope="module", params=[(), ("-DLONG_NOPS",), ("-DSEMAPHORE",)])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("usdt"), *request.param)


def by_readelf(library: Path) -> list[tuple[str, int, int, str]]:
    """(name, location, semaphore, arguments) of all notes, as binutils reads them."""
    if shutil.which("readelf") is None:
        pytest.skip("binutils are not installed")
    said = subprocess.run(
        ["readelf", "-n", library], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(
        r"Provider: concurrent_map\s+Name: (\w+)\s+Location: (0x\w+), Base: \w+, "
        r"Semaphore: (0x\w+)\s+Arguments: (.*)",
        said,
    )
    return [(name, int(at, 16), int(sem, 16), args.strip()) for name, at, sem, args in found]


def test_the_notes_are_those_that_binutils_read(library: Path) -> None:
    truth = by_readelf(library)
    with Elf.open(str(library)) as elf:
        found = probes(elf, PROVIDER)
        assert probes(elf, "nobody") == ()
        assert truth
        assert [(p.name, p.address, p.arguments) for p in found] == [
            (name, at, args) for name, at, _, args in truth
        ]
        for probe, (_, at, semaphore, _) in zip(found, truth, strict=True):
            assert probe.offset == elf.file_offset(at)
            assert probe.semaphore == (elf.file_offset(semaphore) if semaphore else 0)
            assert elf.read(at, 1) in (b"\x90", b"\x0f")
            for number in range(1, len(probe.arguments.split()) + 1):
                assert argument(elf, probe, number).width == 8


def test_a_file_without_notes_has_no_probes() -> None:
    with Elf.open("/proc/self/exe") as elf:
        assert probes(elf, PROVIDER) == ()


R = REGISTERS


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("8@%rdi", Argument("register", base=R["rdi"])),
        ("-4@%eax", Argument("register", base=R["rax"], width=4, signed=True)),
        ("2@%r9w", Argument("register", base=R["r9"], width=2)),
        ("1@%sil", Argument("register", base=R["rsi"], width=1)),
        ("-1@%dl", Argument("register", base=R["rdx"], width=1, signed=True)),
        ("-4@$-3", Argument("constant", -3, width=4, signed=True)),
        ("8@$0x10", Argument("constant", 16)),
        ("8@-24(%rbp)", Argument("memory", -24, R["rbp"])),
        ("4@(%rsp)", Argument("memory", 0, R["rsp"], width=4)),
        ("8@16(%rcx,%rax,8)", Argument("memory", 16, R["rcx"], R["rax"], 8)),
        ("8@(%r12,%r13)", Argument("memory", 0, R["r12"], R["r13"], 1)),
    ],
)
def test_arguments_in_every_place(text: str, means: Argument) -> None:
    with Elf.open("/proc/self/exe") as elf:
        assert argument(elf, UsdtProbe("p", "n", 0x1000, 0, 0, f"8@$1 {text}"), 2) == means


@pytest.mark.parametrize(
    "text",
    [
        "%rdi", "8f@%xmm0", "8@%ah", "1@%bh", "8@%xmm0", "16@%rdi", "3@%rdi", "8@", "@%rdi",
        "8@nowhere(%rip)", "8@4(%rip)", "8@(,%rax,8)", "8@(%rax,%rbx,3)", "8@%fs:16", "8@$",
        "8@$" + "9" * 40, "8@(%xyz)", "8@[x0]", "\x00", "8@" + "(" * 200,
    ],
)  # fmt: skip
def test_other_arguments_are_refused(text: str) -> None:
    with Elf.open("/proc/self/exe") as elf:
        with pytest.raises(BadArgument):
            argument(elf, UsdtProbe("p", "n", 0x1000, 0, 0, text), 1)
        with pytest.raises(BadArgument, match="arguments"):
            argument(elf, UsdtProbe("p", "n", 0x1000, 0, 0, "8@$1"), 2)


def test_a_variable_by_its_name(tmp_path: Path) -> None:
    library = compiled(tmp_path)
    with Elf.open(str(library)) as elf:
        (probe, *_) = probes(elf, PROVIDER)
        symbol = elf.symbol("sink")
        assert symbol is not None
        found = argument(elf, UsdtProbe("p", "n", probe.address, 0, 0, "-4@sink+8(%rip)"), 1)
        assert found.source == "memory"
        assert probe.address + found.value == symbol.address + 8


def test_hostile_notes_do_no_harm(tmp_path: Path) -> None:
    whole = compiled(tmp_path).read_bytes()
    chance = random.Random(6)
    with Elf.open(str(tmp_path / "libtoy_concurrent_map.so")) as elf:
        section = elf.section(".note.stapsdt")
    assert section is not None
    _, offset, size = section
    damaged = tmp_path / "damaged.so"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 12)):
            # The notes themselves, or the section headers at the end of the file.
            first, length = (offset, size) if chance.random() < 0.7 else (len(data) - 2048, 2048)
            data[first + chance.randrange(length)] = chance.randrange(256)
        damaged.write_bytes(data)
        try:
            with Elf.open(str(damaged)) as elf:
                for probe in probes(elf, PROVIDER):
                    for number in range(1, 6):
                        try:
                            argument(elf, probe, number)
                        except BadArgument:
                            continue
        except BadElf:
            continue
