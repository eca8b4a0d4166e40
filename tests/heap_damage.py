"""Damaged images and dumps, by the thousand, under the address and undefined-behaviour sanitizers.

    python -m tests.heap_damage images IMAGE HOW_MANY SEED
    python -m tests.heap_damage files DUMP HOW_MANY SEED

The parent process starts this with the sanitizers' run-time preloaded (``run``): whatever
they find ends it. It prints one line of JSON: how many were tried, and of those how many
were walked or read to the end, the longest time of one (s), the peak memory (bytes).
"""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from probes.errors import HeapDumpError, ImplausibleMemory, ParkscopeError
from tracer.heap.build import built
from tracer.heap.image import Image, Segment, load
from tracer.heap.interpreter import InterpreterState
from tracer.heap.place import Place, known_types
from tracer.heap.reader import HeapFile
from tracer.heap.scan import Scanner
from tracer.heap.walker import Library, Walk
from tracer.pymem.layout import Layout
from tracer.pymem.layout import load as load_layout

STANDS_STILL = "import time\nprint('ready', flush=True)\ntime.sleep(3600)"
"""A program that imports nothing and does nothing."""

SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)
_SHARES = (0.05, 0.3, 0.6, 0.9, 1.0)
_ROOT = Path(__file__).resolve().parents[1]
_WORDS = (0, 1, 7, 8, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 47, (1 << 63) - 1, (1 << 64) - 1)


def run(what: str, path: Path, count: int, seed: int) -> dict[str, Any]:
    """One run in a process of its own; raises AssertionError with what a sanitizer said."""
    return sanitized("walk", "tests.heap_damage", [what, str(path), str(count), str(seed)])


def sanitized(unit: str, module: str, words: list[str]) -> dict[str, Any]:
    """What a module says as JSON that uses a C unit, compiled with the sanitizers."""
    built(unit, SANITIZERS)
    names = ("libasan.so", "libubsan.so")
    ask = [
        subprocess.run(
            ["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        for name in names
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(one.stdout.strip() for one in ask),
        # Python itself does not give everything back at exit.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Damaged:
    """An image in memory of our own that is damaged, walked and mended again and again."""

    def __init__(self, path: Path) -> None:
        self._whole = load(path)
        about = json.loads(path.with_suffix(".place").read_text())
        self.place = Place(
            (about["version"][0], about["version"][1], about["version"][2]),
            about["runtime_address"], about["symbols"],
        )  # fmt: skip
        self.fd = os.memfd_create("damaged")
        os.ftruncate(self.fd, self._whole.size)
        self._map = mmap.mmap(self.fd, self._whole.size)
        for segment in self._whole.segments:
            for at in range(0, segment.end - segment.start, 1 << 20):
                size = min(1 << 20, segment.end - segment.start - at)
                data = os.pread(self._whole.fd, size, segment.offset + at)
                self._map[segment.offset + at : segment.offset + at + size] = data
        self.words = np.frombuffer(self._map, np.uint64)
        self.code = Library(str(built("walk", SANITIZERS)))
        self.layout: Layout = load_layout(self.place.version[:2])
        self._learn()

    def _image(self, segments: tuple[Segment, ...]) -> Image:
        return Image(self.fd, self._whole.size, segments, self._whole.facts)

    def _learn(self) -> None:
        """What a walk starts from and where objects stand, from the whole image."""
        image = self._image(self._whole.segments)
        scan = Scanner(image, self.place, self.code).run()
        self.layout = scan.layout
        self.columns = {name: np.array(column) for name, column in scan.walk.columns().items()}
        self.known = known_types(self.place, self.layout)
        (interpreter,) = scan.interpreters
        state = InterpreterState(
            image, scan.layout, load_layout(self.place.version[:2]), scan.objects,
            interpreter.address,
        )  # fmt: skip
        self.static_types = list(state.static_types(self.place.symbols))
        self.interpreter = interpreter.address
        self.frames = [int(row["address"]) for row in self.columns["frames"]]
        heads = scan.walk.list_heads(self.interpreter, scan.layout["PyInterpreterState.SIZE"])
        self.heads = heads
        scan.close()
        starts = np.array([one.start for one in image.segments], np.uint64)
        shifts = np.array([one.offset - one.start for one in image.segments], np.int64)
        addresses = self.columns["address"]
        segment = np.searchsorted(starts, addresses, side="right") - 1
        self.places = ((addresses.astype(np.int64) + shifts[segment]) // 8).tolist()
        types = np.unique(self.columns["type"])
        nodes = self.columns["types"]["node"][types]
        self.type_places = [self.places[int(node)] for node in nodes if node < len(self.places)]

    def damage(self, chance: random.Random) -> list[tuple[int, int]]:
        """Change some words; where, and what stood there."""
        before = []
        for _ in range(chance.choice((1, 3, 10, 100))):
            pool = chance.choice((self.places, self.places, self.type_places))
            at = min(max(chance.choice(pool) + chance.randrange(-4, 24), 0), len(self.words) - 1)
            before.append((at, int(self.words[at])))
            self.words[at] = self._word(chance, int(self.words[at]))
        return before

    def _word(self, chance: random.Random, old: int) -> int:
        how = chance.randrange(5)
        if how == 0:
            return chance.choice(_WORDS)
        if how == 1:
            return old ^ 1 << chance.randrange(64)
        if how == 2:
            return (old + chance.randrange(-64, 64)) % (1 << 64)
        if how == 3:
            return int(self.columns["address"][chance.randrange(len(self.places))]) + chance.choice(
                (0, 0, 8, 4)
            )
        return int(self.words[chance.randrange(len(self.words))])

    def mend(self, before: list[tuple[int, int]]) -> None:
        """Put back what ``damage`` changed."""
        for at, word in reversed(before):
            self.words[at] = word

    def segments(self, chance: random.Random, share: float) -> tuple[Segment, ...]:
        """The image with only a part of its pages: walks are short, and full of holes."""
        kept = []
        for one in self._whole.segments:
            if one.path and one.writable:
                kept.append(one)
                continue
            for start in range(one.start, one.end, 1 << 16):
                end = min(start + (1 << 16), one.end)
                if chance.random() < share:
                    kept.append(
                        Segment(start, end, one.offset + start - one.start, one.writable, "")
                    )
        return tuple(kept)

    def walk(self, segments: tuple[Segment, ...], threads: int) -> bool:
        """Walk as a scan does, without its reading in Python; whether it came to an end."""
        try:
            with Walk(self._image(segments), self.layout, self.code) as walk:
                for known in self.known:
                    walk.know(known)
                for row in self.static_types:
                    walk.static_type(*row)
                walk.list_heads(self.heads[0], 64)
                for head in self.heads:
                    walk.follow_list(head)
                for number, frame in enumerate(self.frames):
                    walk.thread(number, frame)
                walk.finish(threads)
                columns = walk.columns()
                total = sum(int(column.view(np.uint8).sum()) for name, column in columns.items()
                            if name in {"target", "shape", "degree"})  # fmt: skip
                return total >= 0
        except (ImplausibleMemory, ParkscopeError):
            return False

    def scan(self, segments: tuple[Segment, ...]) -> bool:
        """The whole of what a dump does with an image; whether it came to an end."""
        from tracer.heap.build_heap import build_heap

        try:
            scan = Scanner(self._image(segments), self.place, self.code).run()
        except ParkscopeError:
            return False
        try:
            build_heap(scan, {}, values=False)
        finally:
            scan.close()
        return True


def images(path: Path, count: int, seed: int) -> dict[str, Any]:
    """Walk ``count`` damaged forms of an image; each 50th with all that is around the walk."""
    damaged = Damaged(path)
    ended, longest = 0, 0.0
    for number in range(count):
        chance = random.Random(seed * 1_000_003 + number)
        before = damaged.damage(chance)
        whole = number % 50 == 0
        segments = damaged.segments(chance, 1.0 if whole else chance.choice(_SHARES))
        begun = time.monotonic()
        ended += damaged.scan(segments) if whole else damaged.walk(segments, 1 + number % 2)
        longest = max(longest, time.monotonic() - begun)
        damaged.mend(before)
    return {"tried": count, "ended": ended, "longest_s": longest}


def files(path: Path, count: int, seed: int) -> dict[str, Any]:
    """Read ``count`` damaged forms of a dump, by all that a reader offers."""
    whole = path.read_bytes()
    ended, longest = 0, 0.0
    place = path.with_name(f"damaged-{os.getpid()}")
    for number in range(count):
        chance = random.Random(seed * 1_000_003 + number)
        place.write_bytes(_damaged_bytes(whole, chance))
        begun = time.monotonic()
        ended += _read(place)
        longest = max(longest, time.monotonic() - begun)
    place.unlink()
    return {"tried": count, "ended": ended, "longest_s": longest}


def _damaged_bytes(whole: bytes, chance: random.Random) -> bytes:
    data = bytearray(whole)
    how = chance.randrange(4)
    if how == 0:
        return bytes(data[: chance.randrange(len(data))])
    # The end names the directory, and that the blocks: damage there reaches further.
    low = 0 if how == 1 else max(0, len(data) - 4096)
    for _ in range(chance.choice((1, 2, 8))):
        data[chance.randrange(low, len(data))] = chance.randrange(256)
    if how == 3:
        _repair(data)
    return bytes(data)


def _repair(data: bytearray) -> None:
    """Make the directory's own CRC right again, so that what is damaged gets further."""
    import zlib

    from tracer.heap.writer import TRAILER

    at, size, _, zero, magic = TRAILER.unpack_from(data, len(data) - TRAILER.size)
    if at + size <= len(data):
        crc = zlib.crc32(bytes(data[at + 8 : at + size]))
        TRAILER.pack_into(data, len(data) - TRAILER.size, at, size, crc, zero, magic)


def _read(path: Path) -> bool:
    try:
        with HeapFile(path) as file:
            file.load()
        return True
    except HeapDumpError:
        return False


if __name__ == "__main__":
    kind, where, how_many, start = sys.argv[1:]
    found = (images if kind == "images" else files)(Path(where), int(how_many), int(start))
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    sys.stdout.write(json.dumps(found))
