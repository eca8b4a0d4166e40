"""The site planner on assembled bytes and on this machine's real binaries.

objdump and nm are the independent truth: they decode and name without us.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import interpreters
from tests.code_bytes import BASE, CodeBytes
from tests.interpreters import Interpreter
from tracer.elf import Elf
from tracer.sites import allocation, slow_path
from tracer.sites.planner import Function, PriceClass, Refusal, Site, find, plan, tail_callee
from tracer.sites.x86 import decode, emulatable, walk


def planned(text: str, *arguments: str, **options: bool) -> Site | Refusal:
    code = CodeBytes(text)
    return plan(code, Function("f", BASE, len(text.replace(" ", "")) // 2), arguments, **options)


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("90", "nop"),
        ("55", "push %rbp"),
        ("4154", "push %r12"),
        ("eb05", "jmp short"),
        ("e900010000", "jmp near"),
        ("e800010000", "call"),
        ("7405", "je short"),
        ("0f8400010000", "je near"),
        ("f2e900010000", "bnd jmp"),
    ],
)
def test_the_kernel_emulates(text: str, instruction: str) -> None:
    assert emulatable(bytes.fromhex(text)), instruction


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("f30f1efa", "endbr64"),
        ("4889f8", "mov %rdi,%rax"),
        ("c3", "ret"),
        ("4883ec08", "sub $8,%rsp"),
        ("ff2500000000", "jmp *slot(%rip)"),
        ("ff35 00000000", "push mem"),
        ("6a01", "push $1"),
        ("4190", "xchg %r8,%rax: a nop to the kernel, but none"),
        ("66e90001", "16-bit jmp: the kernel refuses it"),
        ("4055", "push with an idle REX: the kernel does not know it"),
        ("e305", "jrcxz"),
        ("0f1f440000", "nop5, on older kernels"),
        ("0f1f840000000000", "nop8, on older kernels"),
        ("660f1f840000000000", "nop9"),
    ],
)
def test_the_kernel_steps(text: str, instruction: str) -> None:
    assert not emulatable(bytes.fromhex(text)), instruction


def test_long_nops_where_the_kernel_knows_them() -> None:
    assert emulatable(bytes.fromhex("0f1f440000"), long_nops=True)
    assert emulatable(bytes.fromhex("6690"), long_nops=True)
    assert not emulatable(bytes.fromhex("660f1f840000000000"), long_nops=True)
    site = planned("0f1f440000 c3", long_nops=True)
    assert isinstance(site, Site)
    assert site.price is PriceClass.NOP5


def test_the_entry_itself_when_it_is_cheap() -> None:
    site = planned("55 4889e5 5d c3", "rdi")
    assert isinstance(site, Site)
    assert (site.distance, site.instruction, site.stack_untouched) == (0, "push rbp", True)


def test_moves_on_behind_endbr64_and_still_has_the_return_address() -> None:
    site = planned("f30f1efa 4157 c3", "rdi", stack_untouched=True)
    assert isinstance(site, Site)
    assert (site.distance, site.instruction) == (4, "push r15")


def test_a_conditional_jump_ends_the_straight_line() -> None:
    site = planned("4889fe 4885ff 7801 c3 c3", "rdi")
    assert isinstance(site, Site)
    assert (site.distance, site.offset) == (6, 6)


@pytest.mark.parametrize("text", ["4889f7 55 c3", "31ff 55 c3", "40b701 55 c3", "89df 55 c3"])
def test_refuses_when_the_argument_is_overwritten_first(text: str) -> None:
    refusal = planned(text, "rdi")
    assert isinstance(refusal, Refusal)
    assert "overwrites rdi" in refusal.why


def test_another_register_may_be_overwritten() -> None:
    assert isinstance(planned("4889f7 55 c3", "rsi"), Site)


def test_refuses_a_return_probe_behind_a_moved_stack() -> None:
    text = "4883ec18 4885ff 7401 c3 c3"
    refusal = planned(text, "rdi", stack_untouched=True)
    assert isinstance(refusal, Refusal)
    assert "moves the stack" in refusal.why
    site = planned(text, "rdi")
    assert isinstance(site, Site)
    assert not site.stack_untouched


def test_refuses_what_would_be_stepped_all_along() -> None:
    refusal = planned("4889f8 c3")
    assert isinstance(refusal, Refusal)
    assert "single-step" in refusal.why


def test_refuses_a_site_that_a_loop_comes_back_to() -> None:
    # mov; dec %rdi; jne -5 (to dec): the jne runs once per iteration
    refusal = planned("4889f8 48ffcf 75fb c3", "rsi")
    assert isinstance(refusal, Refusal)
    assert "loop" in refusal.why


def test_no_code_is_a_refusal() -> None:
    assert isinstance(planned(""), Refusal)
    assert isinstance(planned("06"), Refusal)  # push %es: no 64-bit instruction


def test_the_only_tail_jump_names_the_contended_path() -> None:
    code = CodeBytes("85ff 7405 31c0 c3 9090 e910000000")
    slow = tail_callee(code, Function("wait", BASE, 14))
    assert slow is not None
    assert slow.address == BASE + 14 + 0x10
    assert tail_callee(code, Function("wait", BASE, 0)) is None


def _libcs() -> Iterator[Path]:
    for root in (Path("/"), interpreters.chroot_directory()):
        path = root / "lib/x86_64-linux-gnu/libc.so.6"
        if path.exists():
            yield path


LIBCS = list(_libcs())


@cache
def disassembly(path: Path, start: int, length: int) -> list[tuple[int, str]]:
    """What objdump makes of the bytes: (address, instruction in AT&T syntax)."""
    lines = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", f"--start-address={start}",
         f"--stop-address={start + length}", str(path)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    found = []
    for line in lines:
        match = re.match(r"\s*([0-9a-f]+):\t(.*)", line)
        if match:
            found.append((int(match[1], 16), match[2]))
    return found


def says_objdump(path: Path, site: Site) -> str:
    """objdump's name for the instruction at the site, which must begin just there."""
    entry = site.address - site.distance
    return dict(disassembly(path, entry, site.distance + 16))[site.address]


CHEAP = re.compile(r"(push\s+%r\w+|nop|j\w+\s+[0-9a-f]+|bnd jmp)")


@pytest.mark.parametrize("path", LIBCS, ids=str)
def test_every_wait_of_glibc_has_a_cheap_contended_site(path: Path) -> None:
    with Elf.open(str(path)) as libc:
        sites = slow_path.plan_waits(libc)
    for name, site in sites.items():
        assert isinstance(site, Site), (name, site)
        assert site.stack_untouched
        assert CHEAP.match(says_objdump(path, site)), site


@pytest.mark.parametrize("path", LIBCS, ids=str)
def test_the_semaphores_are_probed_behind_their_fast_path(path: Path) -> None:
    with Elf.open(str(path)) as libc:
        sites = slow_path.plan_waits(libc)
        for name in slow_path.SEMAPHORES:
            entry = find(libc, name)
            site = sites[name]
            assert entry is not None
            assert isinstance(site, Site)
            assert not entry.address <= site.address < entry.address + entry.size
            jumps = [text for _, text in disassembly(path, entry.address, entry.size)]
            start = site.address - site.distance
            assert any(re.match(rf"jmp\s+{start:x}\b", jump) for jump in jumps), name


@pytest.mark.parametrize("path", LIBCS, ids=str)
def test_the_allocator_of_glibc(path: Path) -> None:
    with Elf.open(str(path)) as libc:
        sites = allocation.plan_large(libc)
    assert isinstance(sites, allocation.LargeSites)
    assert sites.realloc_null_is_malloc
    for site in (sites.malloc, sites.calloc, sites.realloc):
        assert CHEAP.match(says_objdump(path, site)), site


def test_a_libc_that_is_not_glibc_is_refused_with_a_reason() -> None:
    with Elf.open(_libpython(_of("pyenv-3.11"))) as other:
        sites = slow_path.plan_waits(other)
    assert all(isinstance(site, Refusal) and "musl" in site.why for site in sites.values())


def _of(name: str) -> Interpreter:
    return interpreters.get(name)


@cache
def _libpython(interpreter: Interpreter) -> str:
    """The file that holds the interpreter."""
    program = interpreter.argv[-1]
    if interpreter.chroot is not None:
        return str(interpreter.chroot / program.lstrip("/"))
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    found = re.search(r"libpython\S+ => (\S+)", linked)
    return found[1] if found else program


def _nm(path: str, name: str) -> int | None:
    listed = subprocess.run(["nm", path], capture_output=True, text=True, check=False).stdout
    found = re.search(rf"^([0-9a-f]+) \w {name}$", listed, re.MULTILINE)
    return int(found[1], 16) if found else None


@interpreters.matrix()
def test_the_pool_refill_is_found(interpreter: Interpreter) -> None:
    path = _libpython(interpreter)
    with Elf.open(path) as python:
        found = allocation.plan_refill(python)
    assert isinstance(found, allocation.RefillSite), found
    assert found.register == ("rdi" if interpreter.version < (3, 12) else "rsi")
    assert CHEAP.match(says_objdump(Path(path), found.site)), found
    named = _nm(path, "allocate_from_new_pool")
    if named is not None:
        assert found.site.address - found.site.distance == named
        assert found.how == "symbol"


@interpreters.matrix("pyenv-3.11", "pyenv-3.12", "pyenv-3.13")
def test_disassembly_finds_what_the_symbol_says(interpreter: Interpreter) -> None:
    path = _libpython(interpreter)
    with Elf.open(path) as python:
        caller = find(python, "_PyObject_Malloc")
        assert caller is not None
        calls = {one.target for one in walk(python, caller.address, 400) if one.is_call}
        found = allocation.plan_refill(python)
    assert isinstance(found, allocation.RefillSite)
    assert _nm(path, "allocate_from_new_pool") in calls


@interpreters.matrix()
def test_take_gil_is_known_only_by_symbol(interpreter: Interpreter) -> None:
    path = _libpython(interpreter)
    with Elf.open(path) as python:
        bodies = slow_path.gil_code(python)
    assert bool(bodies) is not interpreter.stripped
    if bodies:
        assert bodies[0].address == _nm(path, "take_gil")


@pytest.mark.parametrize("path", LIBCS, ids=str)
def test_instruction_lengths_agree_with_objdump(path: Path) -> None:
    with Elf.open(str(path)) as libc:
        function = find(libc, "malloc")
        assert function is not None
        ours = {one.address for one in walk(libc, function.address, 2000, function.address + 300)}
    theirs = {address for address, _ in disassembly(path, function.address, 400)}
    assert {address for address in ours if address < function.address + 300} <= theirs


def test_decode_at_the_very_end_of_a_segment() -> None:
    found = decode(CodeBytes("c3"), BASE)
    assert found is not None
    assert found.mnemonic == "ret"
