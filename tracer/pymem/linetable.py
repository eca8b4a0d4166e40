"""Source lines of instructions: CPython's location table, exactly.

Format "locations_v1" (3.11 on): Objects/locations.md (later
InternalDocs/code_objects.md) and ``advance`` in Objects/codeobject.c. Entries
follow each other; the first byte of one has bit 7 set, its code in bits 3–6 and
its length in code units, less one, in bits 0–2.
"""

from __future__ import annotations

CODE_UNIT = 2
"""Bytes of a code unit (``_Py_CODEUNIT``)."""

_SHORT_END, _ONE_LINE_0, _NO_COLUMNS, _LONG, _NONE = 9, 10, 13, 14, 15


def line_at(table: bytes, first_line: int, offset: int) -> int | None:
    """The line of the instruction at byte ``offset`` of the code.

    None where the instruction has no line (made by the compiler) or the table
    does not reach it. Negative offsets, of a frame that has not begun, give
    ``first_line`` as ``PyCode_Addr2Line`` does. Any bytes are accepted.
    """
    if offset < 0:
        return first_line
    line, end, at = first_line, 0, 0
    while at < len(table):
        head = table[at]
        code = head >> 3 & 15
        delta, at_next = _line_delta(table, at + 1, code)
        line += delta
        end += ((head & 7) + 1) * CODE_UNIT
        if offset < end:
            return None if code == _NONE else line
        at = _next_entry(table, at_next)
    return None


def _line_delta(table: bytes, at: int, code: int) -> tuple[int, int]:
    """How many lines an entry moves on, and where its remaining bytes begin."""
    if code <= _SHORT_END or code == _NONE:
        return 0, at
    if code < _NO_COLUMNS:
        return code - _ONE_LINE_0, at
    value, shift = 0, 0
    while at < len(table):  # a signed varint: six bits a byte, sign in the lowest
        byte = table[at]
        at += 1
        value |= (byte & 63) << shift
        shift += 6
        if not byte & 64 or shift > 36:
            break
    return (-(value >> 1) if value & 1 else value >> 1), at


def _next_entry(table: bytes, at: int) -> int:
    """The first byte from ``at`` on that begins an entry (bit 7 set)."""
    while at < len(table) and not table[at] & 128:
        at += 1
    return at
