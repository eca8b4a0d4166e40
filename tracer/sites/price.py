"""What a probe costs here: measured once per boot, on a scratch child, never on a target.

A trap's price depends on the machine (bare metal or nested VM), the kernel and the
instruction. The scratch child runs a few bytes of machine code from an anonymous
file in a loop; the same programs that will run in the target are attached to it, so
that their own time is in the price. Until that has been done (it takes about 0.3 s, in
the background) conservative defaults count.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

import orjson

from tracer.sites.planner import PriceClass

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FILE = "prices.json"
_VERSION = 1
_SLOT = 64
_HITS = 2_000
_STEPPED_HITS = 200
_REPEATS = 15

Attach = Callable[[str, int, int, bool], AbstractContextManager[None]]
"""``attach(path, offset, pid, returns)``: probes as they will be used, while it is open."""


@dataclass(frozen=True, slots=True)
class Prices:
    """ns per hit. ``return_ns`` is what a return probe adds to its entry's price."""

    emulated_ns: float = 500.0
    return_ns: float = 500.0
    nop5_ns: float = 500.0
    stepped_ns: float = 16_000.0
    measured: bool = False

    @property
    def long_nops(self) -> bool:
        """Whether this kernel emulates multi-byte nops (Linux 6.18)."""
        return self.measured and self.nop5_ns < self.stepped_ns / 2

    def of(self, price: PriceClass) -> float:
        """Ns per hit of an entry probe on a site of that class."""
        return {
            PriceClass.NOP5: self.nop5_ns,
            PriceClass.EMULATED: self.emulated_ns,
            PriceClass.STEPPED: self.stepped_ns,
        }[price]


# Leaf functions; the first instruction of each is the one that gets probed.
LEAVES: Mapping[PriceClass, bytes] = MappingProxyType(
    {
        PriceClass.EMULATED: bytes.fromhex("55 5d c3"),  # push %rbp; pop %rbp; ret
        PriceClass.NOP5: bytes.fromhex("0f1f440000 c3"),
        PriceClass.STEPPED: bytes.fromhex("4889c0 c3"),  # mov %rax,%rax; ret
    }
)
# push %rbx; mov %rdi,%rbx; 1: call leaf; dec %rbx; jne 1b; pop %rbx; ret; leaf: …
_LOOP = bytes.fromhex("53 4889fb e807000000 48ffcb 75f6 5b c3".replace(" ", ""))

_CHILD = """
import ctypes, sys, time
fd, size = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
base = libc.mmap(None, size, 5, 2, fd, 0)  # PROT_READ | PROT_EXEC, MAP_PRIVATE
print("ready", flush=True)
for line in sys.stdin:
    offset, count = map(int, line.split())
    run = ctypes.CFUNCTYPE(None, ctypes.c_long)(base + offset)
    begin = time.perf_counter_ns()
    run(count)
    print(time.perf_counter_ns() - begin, flush=True)
"""


def scratch_code(
    leaves: Mapping[PriceClass, bytes],
) -> tuple[bytes, dict[PriceClass, tuple[int, int]]]:
    """The scratch child's machine code and, per class, the offsets of loop and probed leaf."""
    image = bytearray(4096)
    places = {}
    for index, (price, leaf) in enumerate(leaves.items()):
        at = index * _SLOT
        image[at : at + len(_LOOP)] = _LOOP
        image[at + len(_LOOP) : at + len(_LOOP) + len(leaf)] = leaf
        places[price] = (at, at + len(_LOOP))
    return bytes(image), places


class Scratch:
    """The scratch child. A context manager; the child ends with it.

    ``leaves``: machine code of the functions, at most ``_SLOT`` minus the loop's bytes each.
    """

    def __init__(self, leaves: Mapping[PriceClass, bytes] = LEAVES) -> None:
        self._leaves = leaves

    def __enter__(self) -> Self:
        code, self.places = scratch_code(self._leaves)
        fd = os.memfd_create("parkscope-scratch", os.MFD_CLOEXEC)
        try:
            os.write(fd, code)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CHILD, str(fd), str(len(code))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(fd,), text=True,
            )  # fmt: skip
            self.pid = self._process.pid
            self.path = f"/proc/{self.pid}/fd/{fd}"
            self._answer()
        finally:
            os.close(fd)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def kill(self) -> None:
        """End the child from another thread: whoever uses it gets an OSError."""
        self._process.kill()

    def _answer(self) -> str:
        if self._process.stdout is None:
            raise OSError("the scratch child has no output")
        line = self._process.stdout.readline()
        if not line:
            raise OSError("the scratch child has ended")
        return line

    def run(self, price: PriceClass, count: int) -> int:
        """Call the leaf of that class ``count`` times; ns that it took."""
        if self._process.stdin is None:
            raise OSError("the scratch child has no input")
        self._process.stdin.write(f"{self.places[price][0]} {count}\n")
        self._process.stdin.flush()
        return int(self._answer())

    def cost(self, price: PriceClass, count: int) -> float:
        """The time per call in ns, the best of many runs: interruptions only ever add."""
        self.run(price, count)
        return min(self.run(price, count) for _ in range(_REPEATS)) / count


def measure(child: Scratch, attach: Attach) -> Prices:
    """Measure on a scratch child. Raises OSError where it or the probes fail."""
    found = {}
    for price in PriceClass:
        hits = _STEPPED_HITS if price is PriceClass.STEPPED else _HITS
        bare = child.cost(price, hits)
        leaf = child.places[price][1]
        with attach(child.path, leaf, child.pid, False):
            found[price] = max(child.cost(price, hits) - bare, 0.0)
    bare = child.cost(PriceClass.EMULATED, _HITS)
    leaf = child.places[PriceClass.EMULATED][1]
    with attach(child.path, leaf, child.pid, True):
        both = max(child.cost(PriceClass.EMULATED, _HITS) - bare, 0.0)
    return Prices(
        emulated_ns=round(found[PriceClass.EMULATED], 1),
        return_ns=round(max(both - found[PriceClass.EMULATED], 0.0), 1),
        nop5_ns=round(found[PriceClass.NOP5], 1),
        stepped_ns=round(found[PriceClass.STEPPED], 1),
        measured=True,
    )


def load(cache_dir: Path) -> Prices:
    """The prices of this boot from the cache; defaults where there are none that fit."""
    try:
        known = orjson.loads((cache_dir / _FILE).read_bytes())
        if known["version"] == _VERSION and known["boot_id"] == _BOOT_ID.read_text().strip():
            return Prices(**{name: float(known[name]) for name in _FIELDS}, measured=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Prices()


def store(cache_dir: Path, prices: Prices) -> None:
    """Keep the prices for this boot (mode 0600). Raises OSError."""
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    boot_id = _BOOT_ID.read_text().strip()
    data = {"version": _VERSION, "boot_id": boot_id, **asdict(prices)}
    partial = cache_dir / f"{_FILE}.{os.getpid()}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(orjson.dumps(data))
    partial.replace(cache_dir / _FILE)


_FIELDS = ("emulated_ns", "return_ns", "nop5_ns", "stepped_ns")
