"""Where functions are left: on assembled bytes, and as objdump reads a real library."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from tests.code_bytes import BASE, CodeBytes
from tests.native_maps import compiled
from tracer.elf import Elf, Symbol
from tracer.sites.exits import MAX_EXITS, Exit, exits
from tracer.sites.planner import Function, PriceClass, Refusal, find


def left(text: str, size: int = 0, **stubs: int) -> tuple[Exit, ...] | Refusal:
    """Of the code; ``stubs``: name → where its PLT stub is, ``own_…`` is in the file, at +16."""
    own = {name: Symbol(BASE + 16, 0, name, True) for name in stubs if name.startswith("own_")}
    code = CodeBytes(text, {at: name for name, at in stubs.items()}, own)
    return exits(code, Function("f", BASE, size))


def places(found: tuple[Exit, ...] | Refusal) -> list[tuple[int, PriceClass, bool]]:
    assert not isinstance(found, Refusal), found.why
    return sorted((one.offset, one.price, one.result) for one in found)


STEPPED, EMULATED = PriceClass.STEPPED, PriceClass.EMULATED


def test_every_return_is_an_exit() -> None:
    # test %edi,%edi; je +1; ret; ret
    assert places(left("85ff 7401 c3 c3")) == [(4, STEPPED, True), (5, STEPPED, True)]
    assert places(left("f3c3")) == [(0, STEPPED, True)]


def test_a_tail_call_out_of_the_library_is_cheap_and_has_no_result() -> None:
    assert places(left("55 5d e909000000", other=16)) == [(2, EMULATED, False)]


def test_a_tail_call_within_the_library_is_followed_into_it() -> None:
    text = "55 5d e9f9000000" + "90" * 9 + "53 5b e9f9000000"
    assert places(left(text, 7, own_slow=256, other=272)) == [(18, EMULATED, False)]


def test_other_functions_are_not_single_stepped_for_all_who_call_them() -> None:
    found = left("55 5d e9f9000000" + "90" * 9 + "53 5b c3", 7, own_slow=256)
    assert isinstance(found, Refusal)
    assert "single-step" in found.why


def test_what_follows_a_call_that_never_returns_is_another_function() -> None:
    # jne +1; ret; call abort; (the function ends) ret
    assert places(left("7501 c3 e800010000 c3", size=8)) == [(2, STEPPED, True)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ffe0", "nobody knows where"),  # jmp *%rax
        ("0f84fa000000 c3", "may leave the library or not"),  # je stub
        ("ebfe", "never returns"),
        ("06", "cannot be followed"),
        ("7400" * MAX_EXITS + "".join("85ff 7401 c3" for _ in range(MAX_EXITS)) + "c3", "places"),
    ],
)
def test_what_cannot_be_said_is_refused(text: str, why: str) -> None:
    found = left(text, other=256)
    assert isinstance(found, Refusal)
    assert why in found.why


def test_a_real_library(tmp_path: Path) -> None:
    library = compiled(tmp_path)
    said = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "--disassemble=plain_wait", library],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    returns = sorted(int(at, 16) for at in re.findall(r"^ *([0-9a-f]+):\s+ret", said, re.MULTILINE))
    with Elf.open(str(library)) as elf:
        function = find(elf, "plain_wait")
        assert function is not None
        found = exits(elf, function)
        assert returns
        assert [one[0] for one in places(found)] == [elf.file_offset(at) for at in returns]


def test_a_follower_of_cereggii_leaves_by_a_tail_call_of_a_tail_call() -> None:
    """``follower_resize`` ends in ``AtomicEvent_Wait``, which ends in taking the GIL."""
    spec = importlib.util.find_spec("_cereggii") or importlib.util.find_spec("cereggii._cereggii")
    if spec is None or spec.origin is None:
        pytest.skip("cereggii is not installed: the package index was not reachable")
    with Elf.open(spec.origin) as elf:
        function = find(elf, "follower_resize")
        assert function is not None
        assert [one[1:] for one in places(exits(elf, function))] == [(EMULATED, False)]
