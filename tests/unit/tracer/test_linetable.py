"""Lines of instructions against what the interpreter itself says of its code objects."""

from __future__ import annotations

import argparse
import asyncio.base_events
import dis
import threading
import types
import typing
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.pymem.linetable import line_at


def codes(module: types.ModuleType) -> Iterator[types.CodeType]:
    """All code objects of a module's source."""
    assert module.__file__ is not None
    with open(module.__file__, "rb") as file:
        todo = [compile(file.read(), module.__file__, "exec")]
    while todo:
        code = todo.pop()
        yield code
        todo += [const for const in code.co_consts if isinstance(const, types.CodeType)]


@pytest.mark.parametrize("module", [argparse, asyncio.base_events, dis, threading, typing])
def test_every_instruction_has_the_line_that_python_gives_it(module: types.ModuleType) -> None:
    for code in codes(module):
        for start, end, line in code.co_lines():
            for offset in range(start, end, 2):
                found = line_at(code.co_linetable, code.co_firstlineno, offset)
                assert found == line, (code.co_qualname, offset)


def test_before_the_first_and_after_the_last_instruction() -> None:
    code = test_before_the_first_and_after_the_last_instruction.__code__
    assert line_at(code.co_linetable, code.co_firstlineno, -2) == code.co_firstlineno
    assert line_at(code.co_linetable, code.co_firstlineno, len(code.co_code)) is None


@given(st.binary(max_size=300), st.integers(0, 1 << 31), st.integers(-4, 4000))
def test_any_bytes_are_accepted(table: bytes, first: int, offset: int) -> None:
    line = line_at(table, first, offset)
    assert line is None or isinstance(line, int)
