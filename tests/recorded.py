"""Memory of real interpreters, recorded: what the reader read, and what the target said.

``python -m tests.recorded INTERPRETER-ID…`` records again (ptrace rights). An image is
the merged list of all reads that lead to names, stacks and GILs of a small idle target
(``cp3XX.image``), or to what threads wait for (``locks3XX.image``); it holds file names of
the interpreter, so record one whose place says nothing about you.
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interpreters import get, launch
from tests.processes import read_line, started
from tracer.procfs import futex_wait
from tracer.pymem.frames import FrameReader
from tracer.pymem.layout import Layout, load, merge_debug_offsets
from tracer.pymem.locks import BlameReader, Wait
from tracer.pymem.locks.blame import Threads
from tracer.pymem.memory import MemoryReader, ProcessMemory, SegmentMemory
from tracer.pymem.names import NameReader
from tracer.pymem.objects import ObjectReader
from tracer.pymem.runtime import RuntimeReader
from tracer.target import Python, inspect, require_python

IMAGES = Path(__file__).parent / "images"
TARGET = Path(__file__).parent / "targets" / "threads_and_names.py"
LOCKS_TARGET = Path(__file__).parent / "targets" / "lock_image.py"
MAX_SLICES = 100
_HEAD = struct.Struct("<QI")

Stacks = dict[int, list[list[Any]]]
Said = dict[int, list[Any]]
"""By native id: type of what a thread waits for, its name, the holder's native id."""


@dataclass(frozen=True)
class Image:
    """One recorded process: ``segments`` of its memory and its own word on itself."""

    version: tuple[int, int]
    runtime: int
    segments: list[tuple[int, bytes]]
    names: dict[int, str]
    frames: Stacks
    waits: dict[int, int]
    blames: Said


def everything(
    memory: MemoryReader, version: tuple[int, int], runtime: int
) -> tuple[dict[int, str], Stacks, list[int]]:
    """Names, whole stacks and GILs, by native thread id: all that the reader reads."""
    layout: Layout = merge_debug_offsets(load(version), memory, runtime)
    objects = ObjectReader(memory, layout)
    lists = RuntimeReader(memory, layout, runtime)
    states = lists.thread_states()
    by_ident = NameReader(memory, layout, objects, lists).all_names(states)
    names = {
        state.native_id: by_ident[state.interpreter, state.ident]
        for state in states
        if (state.interpreter, state.ident) in by_ident
    }
    found = FrameReader(memory, layout, objects).stacks(states, 100)
    frames = {
        state.native_id: [
            [frame.module, frame.function, frame.file, frame.line]
            for frame in found[state.address].frames
        ]
        for state in states
        if state.address in found and not found[state.address].torn
    }
    return names, frames, lists.gils()


def blamed(
    memory: MemoryReader, version: tuple[int, int], runtime: int, waits: Mapping[int, int]
) -> Said:
    """What threads wait for at those addresses, by native id."""
    layout = merge_debug_offsets(load(version), memory, runtime)
    objects = ObjectReader(memory, layout)
    lists = RuntimeReader(memory, layout, runtime)
    states = {state.native_id: state for state in lists.thread_states()}
    names = NameReader(memory, layout, objects, lists)
    clock = itertools.count(0, 1000)  # so that a search is as long however fast it goes
    reader = BlameReader(
        memory, layout, objects, lists, FrameReader(memory, layout, objects), clock.__next__
    )
    threads = Threads(states, lambda tid: names.name(states[tid]), names.thread_objects)
    found = reader.blames({tid: Wait("lock", at) for tid, at in waits.items()}, threads)
    for blame in found.values():
        for _ in range(MAX_SLICES):
            if reader.find_name(blame.resource).done:
                break
    return {
        tid: [blame.resource.type, blame.resource.name, blame.holder and blame.holder.tid]
        for tid, blame in found.items()
    }


class _Recording:
    """Passes reads on and keeps their answers."""

    def __init__(self, memory: MemoryReader) -> None:
        self._memory = memory
        self.answers: dict[int, bytes] = {}

    def _keep(self, address: int, data: bytes | None) -> None:
        if data is not None and len(data) >= len(self.answers.get(address, b"")):
            self.answers[address] = data

    def read(self, address: int, size: int) -> bytes:
        data = self._memory.read(address, size)
        self._keep(address, data)
        return data

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
        answers = self._memory.read_many(requests)
        for (address, _), data in zip(requests, answers, strict=True):
            self._keep(address, data)
        return answers

    def segments(self) -> list[tuple[int, bytes]]:
        """The answers, merged where they overlap or adjoin."""
        merged: list[tuple[int, bytearray]] = []
        for address, data in sorted(self.answers.items()):
            if merged and address <= merged[-1][0] + len(merged[-1][1]):
                start, before = merged[-1]
                before[address - start : address - start + len(data)] = data
            else:
                merged.append((address, bytearray(data)))
        return [(start, bytes(data)) for start, data in merged]


def record(name: str) -> None:
    """Record the interpreter of that id into ``IMAGES``."""
    with started(launch(get(name), TARGET, ["4"], stdout=-1)) as process:
        truth = json.loads(read_line(process, 30))
        python = require_python(inspect(process.pid))
        memory = _Recording(ProcessMemory(process.pid))
        everything(memory, python.version[:2], python.runtime_address)
    _write("cp", python, memory, {"names": truth["names"], "frames": truth["frames"]})


def record_locks(name: str) -> None:
    """Record what threads wait for under the interpreter of that id into ``IMAGES``."""
    with started(launch(get(name), LOCKS_TARGET, stdout=-1)) as process:
        truth = json.loads(read_line(process, 30))
        python = require_python(inspect(process.pid))
        memory = _Recording(ProcessMemory(process.pid))
        waits = {int(tid): futex_wait(process.pid, int(tid))[0] for tid in truth}
        blamed(memory, python.version[:2], python.runtime_address, waits)
    _write("locks", python, memory, {"waits": waits, "blames": truth})


def _write(kind: str, python: Python, memory: _Recording, truth: Mapping[str, Any]) -> None:
    facts = {"version": python.version[:2], "runtime": python.runtime_address, **truth}
    head = json.dumps(facts).encode()
    parts = [struct.pack("<I", len(head)), head]
    for start, data in memory.segments():
        parts += [_HEAD.pack(start, len(data)), data]
    major, minor = python.version[:2]
    (IMAGES / f"{kind}{major}{minor}.image").write_bytes(zlib.compress(b"".join(parts), 9))


def image(path: Path) -> Image:
    """A recorded image."""
    raw = zlib.decompress(path.read_bytes())
    (size,) = struct.unpack_from("<I", raw)
    facts = json.loads(raw[4 : 4 + size])
    at, segments = 4 + size, []
    while at < len(raw):
        start, length = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        segments.append((start, raw[at : at + length]))
        at += length
    return Image(
        version=(facts["version"][0], facts["version"][1]),
        runtime=facts["runtime"],
        segments=segments,
        names={int(tid): name for tid, name in facts.get("names", {}).items()},
        frames={int(tid): frames for tid, frames in facts.get("frames", {}).items()},
        waits={int(tid): address for tid, address in facts.get("waits", {}).items()},
        blames={int(tid): said for tid, said in facts.get("blames", {}).items()},
    )


def images(kind: str = "cp") -> list[Path]:
    """All recorded images of a kind (``cp``, ``locks``), oldest version first."""
    return sorted(IMAGES.glob(f"{kind}*.image"))


def memory_of(one: Image) -> SegmentMemory:
    """The image as memory."""
    return SegmentMemory(one.segments)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        record(wanted)
        record_locks(wanted)
