"""Marks of texts and numbers: by whom they can be told, and what they depend on."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from tracer.heap.marking import key_of, library

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
AT_RANDOM = 25
PLACES = (16, 32, 40, 56, 16, 16, 24, 16, 32)
"""CPython 3.13's, in the order of struct places."""
KEY = bytes(range(16))
STR, BYTES = 1, 5
MASK = (1 << 64) - 1


def siphash(key: bytes, words: Iterator[int]) -> int:
    """SipHash-2-4 as its paper has it, over whole words and without the length at the end."""
    low, high = (int(word) for word in struct.unpack("<QQ", key))
    v: list[int] = [
        low ^ 0x736F6D6570736575, high ^ 0x646F72616E646F6D,
        low ^ 0x6C7967656E657261, high ^ 0x7465646279746573,
    ]  # fmt: skip

    def turn(word: int, by: int) -> int:
        return (word << by | word >> (64 - by)) & MASK

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    for word in words:
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def marked(image: bytes, kind: int, *, address: int = 4096, room: int | None = None) -> int:
    data = np.frombuffer(image, np.uint8)
    one = [np.array([value], np.uint64) for value in (address, 0, room or len(image))]
    places, key = np.array(PLACES, np.uint64), np.frombuffer(KEY, np.uint64)
    kinds, mark = np.array([kind], np.uint8), np.zeros(1, np.uint16)
    library().marks_of(
        data.ctypes.data, len(data), places.ctypes.data, key.ctypes.data, 1,
        *(part.ctypes.data for part in one), kinds.ctypes.data, mark.ctypes.data,
    )  # fmt: skip
    return int(mark[0])


def text(content: bytes, interned: int = 0, cached: int = -1) -> bytes:
    """An ASCII str of CPython 3.13."""
    state = interned | 1 << 2 | 1 << 5 | 1 << 6
    return struct.pack("<qqqqq", 1, 0, len(content), cached, state) + content


def byte_string(content: bytes) -> bytes:
    return struct.pack("<qqqq", 1, 0, len(content), -1) + content


def test_a_mark_is_siphash_of_address_and_content() -> None:
    content = b"some bytes of content"
    padded = content + bytes(-len(content) % 8)
    words = [4096, len(content), *struct.unpack(f"<{len(padded) // 8}Q", padded), len(content)]
    assert marked(byte_string(content), BYTES) == siphash(KEY, iter(words)) & 0xFFFF


def test_what_changes_with_time_does_not_count() -> None:
    before = marked(text(b"name"), STR)
    assert before
    assert marked(text(b"name", interned=1, cached=12345), STR) == before
    assert marked(text(b"game"), STR) != before
    assert marked(text(b"name"), STR, address=8192) != before  # nobody learns who is equal


def test_nothing_is_read_beyond_the_end() -> None:
    whole = text(b"longer than what is there")
    assert marked(whole, STR)
    assert marked(whole[:-1], STR) == 0
    assert marked(whole[:20], STR) == 0
    assert marked(whole, STR, room=len(whole) + 1) == 0


def test_the_key_is_what_the_kernel_gave_the_process() -> None:
    libc = ctypes.CDLL(None)
    libc.getauxval.restype = ctypes.c_ulong
    assert key_of(os.getpid()) == ctypes.string_at(libc.getauxval(AT_RANDOM), 16)
    assert key_of(1 << 30) == b""
    assert key_of(None) == b""
