"""Exception tables and instructions, against what this interpreter says of its own code."""

from __future__ import annotations

import concurrent.futures.thread
import dis
import logging
import queue
import sys
import tarfile
import threading
import types
import zipfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.pymem.codes import parse_handlers
from tracer.pymem.layout import load, supported_versions
from tracer.pymem.locks.releases import Receiver, receivers

OWN = sys.version_info[:2]
needs_layout = pytest.mark.skipif(OWN not in supported_versions(), reason="no layout of its own")
MODULES = (threading, queue, logging, tarfile, zipfile, concurrent.futures.thread)


def codes() -> Iterator[types.CodeType]:
    """All code of some modules of the library."""
    for module in MODULES:
        todo: list[object] = [vars(module)]
        seen: set[int] = set()
        while todo:
            one = todo.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if isinstance(one, types.FunctionType) and one.__module__ == module.__name__:
                todo.append(one.__code__)
            elif isinstance(one, type) and one.__module__ == module.__name__:
                todo.append(dict(vars(one)))
            elif isinstance(one, dict):
                todo += one.values()
            elif isinstance(one, types.CodeType):
                yield one
                todo += one.co_consts


def test_exception_tables_are_read_as_dis_does() -> None:
    handlers = 0
    for code in codes():
        expected = [
            (one.start, one.end, one.target, one.depth)
            for one in dis._parse_exception_table(code)  # type: ignore[attr-defined]
        ]
        found = parse_handlers(code.co_exceptiontable)
        assert [(one.start, one.end, one.target, one.depth) for one in found] == expected
        handlers += len(found)
    assert handlers > 300


@given(st.binary(max_size=200))
def test_any_bytes_are_an_exception_table(table: bytes) -> None:
    for one in parse_handlers(table):
        assert one.start <= one.end
        assert one.depth >= 0


def used_on(code: types.CodeType) -> list[str]:
    """What the code uses ``release`` on, as dis shows it; "?" where that is no plain name."""
    found, path = [], ""
    for one in dis.get_instructions(code):
        name = str(one.argval)
        if one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if name == "release":
                found.append(path or "?")
            path = path and f"{path}.{name}"
        elif one.opname in ("LOAD_FAST", "LOAD_GLOBAL", "LOAD_DEREF"):
            path = name
        else:
            path = ""
    return found


def shown(code: types.CodeType, receiver: Receiver | None) -> str:
    if receiver is None:
        return "?"
    variables = [*code.co_varnames, *(set(code.co_cellvars) - set(code.co_varnames))]
    variables = [*variables, *code.co_freevars]
    first = receiver.name if receiver.slot is None else variables[receiver.slot]
    return ".".join((first, *receiver.attributes))


@needs_layout
def test_what_release_is_used_on_is_what_dis_shows() -> None:
    layout, uses = load((OWN[0], OWN[1])), 0
    for code in codes():
        found = receivers(code.co_code, code.co_names, layout.instructions)
        assert [shown(code, one) for one in found] == used_on(code), code
        uses += len(found)
    assert uses > 4


@given(st.binary(max_size=400), st.sampled_from(supported_versions()))
def test_any_bytes_are_instructions(raw: bytes, version: tuple[int, int]) -> None:
    receivers(raw, ("release", "lock"), load(version).instructions)
