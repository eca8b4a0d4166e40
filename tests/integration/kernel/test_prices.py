"""What the kernel single-steps, told by the kernel: then, and only then, it maps a page
for the copied instructions (``[uprobes]``) into the process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.integration.kernel.uprobe_session import Session, attached
from tests.interpreters import get
from tracer.sites import price
from tracer.sites.planner import PriceClass
from tracer.sites.x86 import emulatable

pytestmark = pytest.mark.kernel

TARGET = Path(__file__).parents[2] / "targets" / "slow_path_target.py"

INSTRUCTIONS = {
    "push %rbp": "55 5d",
    "push %r12": "4154 415c",
    "nop": "90",
    "jmp +0": "eb00",
    "jmp +0 near": "e900000000",
    "je +0": "7400",
    "jne +0 near": "0f8500000000",
    "mov %rax,%rax": "4889c0",
    "endbr64": "f30f1efa",
    "test %rdi,%rdi": "4885ff",
    "cmp $1,%esi": "83fe01",
    "nop9": "660f1f840000000000",
}
LENGTH = {"push %rbp": 1, "push %r12": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without prices, so that they have to be measured."""
    return tmp_path_factory.mktemp("cache")


@contextmanager
def any_session(start: Start, cache: Path) -> Iterator[Session]:
    """A source whose programs can be attached to a scratch child."""
    process = start(get("system-3.11"), TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(process, cache) as session:
        yield session


def test_the_planner_knows_what_the_kernel_emulates(start: Start, cache: Path) -> None:
    with any_session(start, cache) as session:
        for name, text in INSTRUCTIONS.items():
            code = bytes.fromhex(text)
            with price.Scratch({PriceClass.EMULATED: code + b"\xc3"}) as child:
                leaf = child.places[PriceClass.EMULATED][1]
                with session.uprobes.links.on_scratch(child.path, leaf, child.pid, returns=False):
                    child.run(PriceClass.EMULATED, 10)
                    maps = Path(f"/proc/{child.pid}/maps").read_text()
            stepped = "[uprobes]" in maps
            assert emulatable(code[: LENGTH.get(name, len(code))]) is not stepped, name


def test_prices_are_measured_in_the_background_and_kept(start: Start, cache: Path) -> None:
    with any_session(start, cache) as session:
        session.until(lambda: price.load(cache).measured, "prices in the cache")
    prices = price.load(cache)
    assert prices.stepped_ns > prices.emulated_ns > 0
